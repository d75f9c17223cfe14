#!/bin/sh
# check_source.sh -- rules about the source that no compiler knows. Prints TAP, like the other test programs.
cd "$(dirname "$0")/.." || exit 1
. tests/tap.sh

# A rule holds when its list of offenders is empty.
rule() { # name, offenders
    echo "$2" >"$work/offenders" # no pipe: behind one, what not_ok counts would be forgotten
    if [ -z "$2" ]; then ok "$1"; else not_ok "$1" <"$work/offenders"; fi
}

sources() { # folders: C and CUDA files below them
    find "$@" -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' \)
}

# An include of `folder` may name itself and what comes before it in the list of layers.
upward_includes() {
    below="kernels/base"
    for folder in kernels/base kernels engine/text engine/model engine/memory engine/transformer engine/run engine/learn; do
        below="$below $folder"
        allowed=$(echo "$below" | tr ' ' '|')
        find "$folder" -maxdepth 1 -name '*.[ch]' -exec grep -HnE '^#include "(kernels|engine|tools|tests)/' {} + |
            grep -vE "#include \"($allowed)/[^/]*\""
    done
}

rule "third_party holds no code" \
    "$(find third_party -type f ! -name '*.md' ! -name '*.txt' ! -name '*.cmake')"

rule "no folder includes one above it" "$(upward_includes)"

rule "CUDA headers stay in kernels" \
    "$(sources engine tools tests bench | grep -v '^tests/simt/' |
        xargs grep -nE '#include [<"](cuda|cublas|nccl|curand)[a-z_A-Z0-9]*\.h')"

rule "kernels and engine neither print nor exit nor read the environment" \
    "$(sources kernels engine | xargs grep -nE '\bfprintf\(std(err|out)|\b(printf|puts|putchar|perror|getenv|secure_getenv|exit|_exit|abort|system)\(' |
        grep -vE '\.cuh?:')"

rule "nothing is left to do later" \
    "$(sources kernels engine tools bench tests | xargs grep -nwE 'TODO|FIXME|XXX')"

# The patterns are bracketed so that this file is not its own offender.
rule "no paths of somebody's machine" \
    "$(find kernels engine tools bench tests docs third_party .ci CMakeLists.txt CMakePresets.json README.md -type f \
        ! -name '*.safetensors' ! -name '*.pyc' 2>/dev/null |
        xargs grep -nIE '(^|[^a-zA-Z0-9_.])/([w]ork|[h]ome|[r]oot|[U]sers)/')"

rule "every source file begins by saying what it is" \
    "$(for file in $(sources kernels engine tools bench tests); do
        head -n 1 "$file" | grep -qE '^/[*/] [A-Za-z]' || echo "$file"
    done)"

done_testing
