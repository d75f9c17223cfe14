#!/bin/sh
# check_folder.sh SOURCE BUILD -- tools/gpu-check makes its folder, and the folder says so where there is no GPU. TAP.
source=$1
. "$source/tests/tap.sh"

says() { # exit code, text, command...
    code=$1 text=$2
    shift 2
    said=$("$@" 2>&1)
    is=$?
    echo "exit $is: $said"
    [ "$is" -eq "$code" ] && case $said in *"$text"*) ;; *) false ;; esac
}

check "the folder is made" env CARTRIDGE_BUILD="$2" sh "$source/tools/gpu-check" "$work/folder"
check "a folder that is there is left alone" says 2 "already there" env CARTRIDGE_BUILD="$2" sh "$source/tools/gpu-check" "$work/folder"
check "it knows what the emulator answered" test -s "$work/folder/ptx.expected"
if nvidia-smi >/dev/null 2>&1; then
    ok "# SKIP there is a GPU here: run the folder itself"
else
    check "without a GPU it says what is missing" says 3 "no GPU here" sh "$work/folder/run"
fi
done_testing
