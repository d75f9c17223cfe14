#!/bin/sh
# check_demo.sh CPU_PROGRAM SIMT_PROGRAM -- the demo model from end to end on the emulated GPU, beside the CPU. TAP.
#
# The CPU's demo makes a text, conversations about it and a cartridge. Then both devices answer from the whole text and
# from the cartridge (prefill, and decoding of many rows that share it), and both make the first training steps.
cpu=$1
simt=$2
. "$(dirname "$0")/../tap.sh"
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1

# The numbers that follow "KEY": in JSON, one a line.
numbers() { # file, key
    grep -o "\"$2\": *[-0-9.e+]*" "$1" | sed 's/.*: *//'
}
# Every number of one file is within a share of its counterpart in the other.
near() { # key, share, file, file
    numbers "$3" "$1" >a
    numbers "$4" "$1" >b
    paste a b | awk -v share="$2" '
        { d = $1 - $2; if (d < 0) d = -d; m = $1 < 0 ? -$1 : $1; if (d > share * m + 1e-3) { print $1 " and " $2; bad = 1 } }
        END { if (NR == 0) print "no numbers"; exit bad || NR == 0 }'
}
answers() { # program, device, file
    "$1" eval -m demo/model -c demo/facts.cartridge --set demo/facts.questions.jsonl --against none,full \
        --corpus demo/facts.txt --answer-tokens 8 --json -q --device "$2" >"$3"
}
lesson() { # program, device, name
    "$1" train -m demo/model --data demo/facts.study -p 8 --corpus demo/facts.txt --steps 2 --step-tokens 256 --lr 0.1 \
        -o "$3.cartridge" --json -q --device "$2" >"$3.json"
}

check "the demo on the CPU" "$cpu" demo --quick -q -o demo
check "answers by the CPU" answers "$cpu" cpu cpu.eval
check "answers by the emulated GPU" answers "$simt" cuda simt.eval
check "the answers' likelihoods agree" near nll 0.02 cpu.eval simt.eval
check "as many are right" near contains 0 cpu.eval simt.eval
check "training on the CPU" lesson "$cpu" cpu cpu
check "training on the emulated GPU" lesson "$simt" cuda simt
check "the losses agree" near loss 0.02 cpu.cartridge.run/metrics.jsonl simt.cartridge.run/metrics.jsonl
# Of the first step: Adam moves every row by the rate whatever the size of its gradient, so the second starts elsewhere.
# The demo model attends sharply, its scores are large, and in bf16 (the CPU has f32) they are off by a tenth.
for device in cpu simt; do grep '"step":1,"steps"' "$device.cartridge.run/metrics.jsonl" >"$device.first"; done
check "the first gradients are as long" near grad_norm 0.1 cpu.first simt.first
done_testing
