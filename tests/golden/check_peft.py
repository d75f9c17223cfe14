"""check_peft.py PROGRAM MODEL CARTRIDGE QUESTIONS -- a cartridge in PEFT's hands and in ours.

PROGRAM is the built program, MODEL a folder with ChatML turns, CARTRIDGE a file for it, QUESTIONS a JSONL
file as `cartridge eval` reads it. Needs torch, transformers, peft and safetensors; run by hand, not by any
test. What PEFT gives for a small model lies beside it as golden files (make_peft.py); tests/test_convert.c
holds ours against those.

Leaves with 1 if anything differs by more than rounding.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

GREEDY = 24  # tokens of an answer that are compared
CHATS = 8
failed = False


def check(what, holds, found):
    global failed
    failed |= not holds
    print(f"{'ok  ' if holds else 'FAIL'}  {what}: {found}")


def run(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


def file_rows(path):
    """[L] pairs of keys and values [G,P,D] of our file."""
    with safe_open(path, "pt") as f:
        layers = len(f.keys()) // 2
        return [(f.get_tensor(f"layer.{i}.key"), f.get_tensor(f"layer.{i}.value")) for i in range(layers)]


def peft_layout(rows):
    return torch.stack([t for pair in rows for t in pair]).permute(2, 0, 1, 3).flatten(1)


def load_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def behind_rows(model, rows, ids):
    """Without PEFT: the rows of the file as the cache, own tokens from position P."""
    cache = DynamicCache()
    for layer, (k, v) in enumerate(rows):
        cache.update(k.float()[None], v.float()[None], layer)
    start = rows[0][0].shape[1]
    positions = torch.arange(start, start + ids.shape[1])[None]
    return model(ids, past_key_values=cache, position_ids=positions).logits[0]


def turn(question):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def ids_of(tokenizer, text):
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])


def gold_nll(logits_of, tokenizer, questions):
    """Mean over all tokens of gold answers, the end of the turn included; and of questions, how many."""
    total, tokens = 0.0, 0
    for q in questions:
        prompt, answer = ids_of(tokenizer, turn(q["question"])), ids_of(tokenizer, q["answer"] + "<|im_end|>")
        ids = torch.cat([prompt, answer], 1)
        rows = logits_of(ids)[prompt.shape[1] - 1 : -1].log_softmax(-1)
        total -= rows.gather(1, answer[0][:, None]).sum().item()
        tokens += answer.shape[1]
    return total / tokens


def greedy(adapted, tokenizer, question):
    ids = ids_of(tokenizer, turn(question))
    mask = torch.ones_like(ids)
    out = adapted.generate(input_ids=ids, attention_mask=mask, max_new_tokens=GREEDY, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


@torch.no_grad()
def main(program, folder, cartridge, questions_path):
    torch.set_num_threads(1)
    questions = [json.loads(line) for line in open(questions_path)]
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), file_rows(cartridge)
    with tempfile.TemporaryDirectory() as place:
        out, saved, again, theirs = (os.path.join(place, n) for n in ("out", "saved", "again", "theirs"))
        print(run(program, "convert", cartridge, "-o", out, "-m", folder).strip())
        run(program, "convert", out, "-o", again)
        same = open(cartridge, "rb").read() == open(again, "rb").read()
        check("out and in again is the same file", same, f"{os.path.getsize(again)} bytes")

        adapted = PeftModel.from_pretrained(load_base(folder), out).eval()
        held = adapted.prompt_encoder["default"].weight
        same = torch.equal(held, peft_layout(rows).float())
        check("PEFT holds the rows of the file", same, list(held.shape))

        ids = ids_of(tokenizer, turn(questions[0]["question"]) + questions[0]["answer"])
        logits_of = lambda x: adapted(x).logits[0]
        with_peft, without = logits_of(ids), behind_rows(load_base(folder), rows, ids)
        difference = (with_peft - without).abs().max().item()
        check("logits of PEFT and of the rows as a plain cache", difference <= 1e-4,
              f"largest {with_peft.abs().max():.3f}, largest difference {difference:.3g}")

        lines = run(program, "eval", "-m", folder, "-c", cartridge, "--set", questions_path, "--json", "-q")
        nll = next(row["nll"] for row in map(json.loads, lines.splitlines()) if row["context"] == "cartridge")
        peft_nll = gold_nll(logits_of, tokenizer, questions)
        check(f"NLL of {len(questions)} gold answers, ours and PEFT's", abs(nll - peft_nll) <= 1e-3,
              f"{nll:.6f} and {peft_nll:.6f} nats per token")

        chat = [program, "chat", "-m", folder, "-c", cartridge, "-q", "--max-tokens", str(GREEDY), "--prompt"]
        answers = [(greedy(adapted, tokenizer, q["question"]), run(*chat, q["question"]).strip())
                   for q in questions[:CHATS]]
        equal = sum(a == b for a, b in answers)
        found = f"{equal} of {len(answers)} are equal"
        check(f"greedy answers, {GREEDY} tokens", equal == len(answers), found)
        for a, b in answers:
            if a != b:
                print(f"      PEFT: {a!r}\n      ours: {b!r}")

        adapted.save_pretrained(saved)
        print(run(program, "convert", saved, "-o", theirs, "-m", folder).strip())
        back = file_rows(theirs)
        same = torch.equal(peft_layout(back), peft_layout(rows))
        check("what PEFT saves comes in with the same rows", same, f"{len(back)} layers")
    sys.exit(failed)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
