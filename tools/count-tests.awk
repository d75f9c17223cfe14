# count-tests.awk -- reads `ctest --verbose`, shows one line per program and the output of those that fail, and appends
# "passed failed skipped", counted in single tests, to the file `counts`, and "preset program seconds" and "preset label
# seconds" to the file `times`.
#
# Ranks of one program print the same test several times: it counts once, and fails if any of them failed.

function tally(n,    key, part, ok, bad, skip) {
    for (key in state) {
        split(key, part, SUBSEP)
        if (part[1] != n) continue
        if (state[key] == "ok") ok++
        else if (state[key] == "skip") skip++
        else bad++
    }
    if (verdict == "skipped" && !ok && !bad && !skip) skip = 1 # a program that skips itself as a whole
    if (verdict == "failed" && !bad) bad = 1                   # crashed, timed out, leaked: at least one
    if (verdict == "passed" && !ok && !bad && !skip) ok = 1    # a program that is one test
    passed += ok; failed += bad; skipped += skip
    printf "%-9s %-24s %4d passed %3d failed %3d skipped  %s s\n", verdict, name, ok, bad, skip, seconds
    if (verdict == "failed") printf "%s", output[n]
    delete output[n]
    print "program", preset, name, seconds >>times
    fflush()
}

# "12: text": a line of program 12
match($0, /^[0-9]+: /) {
    n = substr($0, 1, RLENGTH - 2) + 0
    line = substr($0, RLENGTH + 1)
    output[n] = output[n] "    " line "\n"
    if (line ~ /^(not )?ok [0-9]+ /) {
        what = line ~ /# SKIP/ ? "skip" : line ~ /^not / ? "bad" : "ok"
        sub(/^(not )?ok /, "", line)
        sub(/ (- |# SKIP )/, " ", line)
        if (what == "bad" || !((n, line) in state)) state[n, line] = what
    }
    next
}

# " 3/20 Test #12: name ........   Passed    0.10 sec"
match($0, /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: /) {
    n = substr($0, 1, RLENGTH)
    sub(/.*#/, "", n)
    n += 0
    rest = substr($0, RLENGTH + 1)
    split(rest, word, " ")
    name = word[1]
    verdict = rest ~ / Passed / ? "passed" : rest ~ /\*\*\*Skipped/ ? "skipped" : "failed"
    seconds = rest
    sub(/ sec.*/, "", seconds)
    sub(/.* /, "", seconds)
    tally(n)
}

# "simt = 123.45 sec*proc (10 tests)"
/ sec\*proc / { print "label", preset, $1, $3 >>times }

END {
    if (passed + failed + skipped == 0) failed = 1 # no program ran
    printf "%d %d %d\n", passed, failed, skipped >>counts
}
