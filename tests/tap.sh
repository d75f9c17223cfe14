# tap.sh -- for tests in sh that print TAP: they read it, check one thing after the other, and end with
# done_testing. What a command says is kept in $work, a folder that goes away, and shown when it fails.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
number=0
failed=0

ok() { # name
    number=$((number + 1))
    echo "ok $number - $1"
}

not_ok() { # name, why on stdin
    number=$((number + 1))
    echo "not ok $number - $1"
    sed 's/^/# /'
    failed=1
}

check() { # name, command...
    name=$1
    shift
    if "$@" >"$work/said" 2>&1; then ok "$name"; else not_ok "$name" <"$work/said"; fi
}

done_testing() {
    echo "1..$number"
    exit "$failed"
}
