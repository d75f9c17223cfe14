"""jobs.py -- what both sides of a comparison are given, as token ids and rows in files.

A job is a JSON file that peers_drive (drive.c) reads and the peer's side reads, too, so that neither has a
tokenizer or a text of its own in between. Conversations are real ones: `cartridge synth` makes them once.
Cartridges are the first rows of the text, written by our side and read by both.
"""
import json
import os
import sqlite3
import struct
import subprocess

SYSTEM, END = "<|im_start|>system\n", "<|im_end|>\n"
INSTRUCTION = "\n\nUse the text above to answer the questions in one short sentence."
FIELDS = "token", "at", "first", "id", "logprob"
CONVERSATIONS, EQUAL_TOKENS = 16, 96


class Maker:
    """Files of one run, below `folder`; made once and then found again."""

    def __init__(self, args):
        from transformers import AutoTokenizer

        self.args, self.folder = args, os.path.abspath(args.work)
        os.makedirs(self.folder, exist_ok=True)
        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        self.text = open(args.text, encoding="utf-8").read()

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def path(self, name):
        return os.path.join(self.folder, name)

    def job(self, name, **fields):
        path = self.path(name + ".json")
        with open(path, "w") as f:
            json.dump({"model": os.path.abspath(self.args.model), **fields}, f)
        return path

    def document(self, rows):
        """The text from its start; again, and again, each time as another part, where it is too short."""
        text, part = SYSTEM + self.text, 1
        while len(ids := self.ids(text)) < rows:
            part += 1
            text += f"\n\nPart {part}\n\n{self.text}"
        return ids[:rows]

    def cartridge(self, rows):
        path = self.path(f"first{rows}.cartridge")
        if not os.path.exists(path):
            job = self.job(f"init{rows}", text=self.text, rows=rows, out=path)
            nothing = subprocess.DEVNULL
            subprocess.run([self.args.drive, "init", job], check=True, stdout=nothing, stdin=nothing)
        return path

    # ---- conversations ----

    def study(self):
        path = self.path("conversations.study")
        if not os.path.exists(path):
            subprocess.run([self.args.cartridge, "synth", "-m", self.args.model, "--corpus", self.args.text,
                            "-q", "-n", str(2 * CONVERSATIONS), "--seed", "5", "-o", path], check=True)
        return path

    def conversations(self):
        db = sqlite3.connect(f"file:{self.study()}?mode=ro", uri=True)
        rows = db.execute("SELECT token, at, first, id, logprob FROM conversation ORDER BY number").fetchall()
        return [dict(zip(FIELDS, map(unpack, row, "iiiif"))) for row in rows]

    def real(self):
        return self.conversations()[:CONVERSATIONS]

    def equal(self):
        """As many turns behind each other as it takes, cut: no conversation is longer than another."""
        turns = self.conversations()
        out, at = [], 0
        while len(out) < CONVERSATIONS:
            c = joined([])
            while len(c["token"]) < EQUAL_TOKENS:
                c = joined([c, turns[at % len(turns)]])
                at += 1
            out.append(cut(c, EQUAL_TOKENS))
        return out

    def train(self, name, conversations, rows):
        return self.job(name, cartridge=self.cartridge(rows), micro_rows=1024, lr=1e-3,
                        conversations=conversations)

    # ---- talk ----

    def questions(self, n):
        """Prompts of different users, of much the same length."""
        things = ("harbour", "museum", "mayor", "bakery", "storm", "lighthouse", "ferry", "library", "school",
                  "market", "festival", "river", "bridge", "theatre", "hotel", "railway")
        words = ("What", "Who", "When", "Where")
        asked = [f"{words[i // 16 % 4]} is told of the {things[i % 16]} in the text above?" for i in range(n)]
        return [self.ids(f"<|im_start|>user\n{q}{END}<|im_start|>assistant\n") for q in asked]

    def decode(self, name, users, new, document=None, cartridge=None, private=False):
        if document:
            return self.job(name, prompts=self.questions(users), new=new, document=self.document(document),
                            private=private)
        return self.job(name, prompts=self.questions(users), new=new, cartridge=self.cartridge(cartridge))

    def self_study(self, name, chunk_rows):
        chunk = self.document(chunk_rows - len(self.ids(INSTRUCTION + END))) + self.ids(INSTRUCTION + END)
        body = self.tokenizer.decode(chunk).replace("\n", " ").split(". ")
        sentences = [s.strip() for s in body if 30 < len(s) < 200][2 : 2 + CONVERSATIONS]
        assert len(sentences) == CONVERSATIONS
        prompts = [self.ids(f"<|im_start|>user\nAsk one short question that this sentence answers: {s}.{END}"
                            "<|im_start|>assistant\n") for s in sentences]
        return self.job(name, chunk=chunk, prompts=prompts, before=self.ids("<|im_start|>user\n"),
                        between=self.ids(END + "<|im_start|>assistant\n"), stop=self.ids("<|im_end|>"),
                        question_max=48, answer_max=64)


def unpack(blob, kind):
    return list(struct.unpack(f"<{len(blob) // 4}{kind}", blob))


def joined(parts):
    out = {"token": [], "at": [], "first": [0], "id": [], "logprob": []}
    for c in parts:
        tokens, candidates = len(out["token"]), len(out["id"])
        out["token"] += c["token"]
        out["at"] += [a + tokens for a in c["at"]]
        out["first"] += [f + candidates for f in c["first"][1:]]
        out["id"] += c["id"]
        out["logprob"] += c["logprob"]
    return out


def cut(c, tokens):
    n = sum(a < tokens for a in c["at"])
    end = c["first"][n]
    return {"token": c["token"][:tokens], "at": c["at"][:n], "first": c["first"][: n + 1],
            "id": c["id"][:end], "logprob": c["logprob"][:end]}
