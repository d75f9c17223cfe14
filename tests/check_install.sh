#!/bin/sh
# check_install.sh CMAKE BUILD -- installs a build into an empty folder and uses what is there. Prints TAP.
cmake=$1
build=$2
[ -f "$build/tools/generated/done" ] || exit 77 # only part of it was built
. "$(dirname "$0")/tap.sh"
unset CARTRIDGE_CONFIG
root=$work/root
program=$root/opt/cartridge/bin/cartridge
share=$root/opt/cartridge/share

every_page() {
    for page in cartridge $("$program" help --names | sed 's/^/cartridge-/'); do
        ls "$share/man/man1/$page.1"* || return 1
    done
    [ "$(ls "$share/man/man1" | wc -l)" -eq "$(($("$program" help --names | wc -l) + 1))" ]
}

completes() { # the installed file, in a shell that knows nothing else
    bash -c "source '$share/bash-completion/completions/cartridge' && COMP_WORDS=(cartridge doc) COMP_CWORD=1 &&
             _cartridge && [ \"\${COMPREPLY[*]}\" = doctor ]"
}

check "installs into another root" env DESTDIR="$root" "$cmake" --install "$build" --prefix /opt/cartridge
check "the program runs" "$program" --version
check "a page for every command and none besides" every_page
check "completion for bash" completes
check "completion for zsh" grep -q '^#compdef cartridge' "$share/zsh/site-functions/_cartridge"
check "completion for fish" grep -q '^complete -c cartridge' "$share/fish/vendor_completions.d/cartridge.fish"
check "documentation" test -s "$share/doc/cartridge/README.md" -a -s "$share/doc/cartridge/decisions.md"

done_testing
