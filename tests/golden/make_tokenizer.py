"""make_tokenizer.py -- small tokenizers with the settings of each family, and golden ids of hostile text.

Needs the Python package `tokenizers`. Writes tests/golden/tokenizer/<family>.json and golden.jsonl, one line for each
(family, text): {"family", "text", "ids"}. The vocabularies are trained on a few sentences and on harbour.txt, enough
words for merges to compete for the same bytes; what is tested is the pipeline: normaliser, pre-tokenizer patterns,
merges, added tokens. Run once; the results are kept in the repository.
"""
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

TRAINING = [
    "The ferry of Skarrow doesn't sail on Tuesdays; it's cleaned, and they'll wait 55 minutes.",
    "In 1683 eleven families came to the bay. In 1998 the storm sank nine boats, 2,340 people live there.",
    "for (int i = 0; i < 10; i++) {\n    printf(\"%d\\n\", i);\n}\n\n\n",
    "Grüße aus Köln, l'été déjà vu, naïve café, Привет мир, こんにちは世界, 안녕하세요, مرحبا بالعالم",
    "<p>some   spaces\tand\ttabs\r\n</p> 3.14159 -- 1000000 007 ... !!! ??? :-)",
] * 4
with open(os.path.join(ROOT, "tools", "demo", "harbour.txt"), encoding="utf-8") as f:
    HARBOUR = [line for line in f.read().split("\n") if line]

TEXTS = [
    "", " ", "  ", "\n", "\n\n", " \n ", "\r\n", "a", "Hello world", " Hello  world   ", "don't DON'T we'll WE'LL I'm I'M 'tis",
    "1234567890 12 345 6,789.01", "٣٤٥ ⅷ ½ ²", "x = y+z; // comment\n\tindent\n\n\nend", "a\u00a0b\u2003c\u3000d\u1680e",
    "U+0085:\u0085: U+180E:\u180e: U+FEFF:\ufeff: U+200B:\u200b:", "e\u0301 \u0065\u0301 A\u030a \u1100\u1161\u11a8 \u0344",
    "\u2126 \ufb01 \u212b q\u0307\u0323", "👩‍👩‍👧‍👦 👍🏽 🇩🇪 🏴\U000e0067\U000e0062", "日本語のテキスト、漢字とカナ。", "한국어 조합 한",
    "नमस्ते दुनिया", "مرحبا 123 עברית", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 \U0010ffff", "<|im_start|>user\nhi<|im_end|>", "a<|im_end|>b <|im_end|> c",
    "<|im_start", "tab\tand  two\u2028line\u2029sep", "CamelCaseAndsnake_case_and-kebab", "http://example.org/?q=a&b=c#d",
    "....!!!???", "'''''s 't's'", "ſ 'ſ I'ſ", "a" * 300, "ab " * 50, "   leading", "trailing   ", "\t\t\tx", " \u00a0 x",
    "mixed\r\nline\rends\n", "end.\n\n\n\nNext", "0x1F600 1e-5 v2.0.1", "ÀÉÎÕÜ àéîõü ßẞ", "\u0000\u0001\u001f\u007f",
] + HARBOUR[:3] + ["".join(HARBOUR[5].split()), HARBOUR[6].upper(), HARBOUR[7][::-1]]


def build(pre, normalizer=None, ignore_merges=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator(TRAINING + HARBOUR, trainer)
    t.add_special_tokens([AddedToken(s, special=True, normalized=False)
                          for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    t.add_tokens([AddedToken("<tool>", special=False, normalized=False), AddedToken("<strip>", lstrip=True, rstrip=True,
                                                                                    normalized=False)])
    return t


def families():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    seq = pre_tokenizers.Sequence
    return {
        "gpt2": build(byte_level),
        "gpt2-space": build(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "smollm2": build(seq([pre_tokenizers.Digits(individual_digits=True), byte_level])),
        "llama3": build(seq([split(LLAMA3), bytes_only]), ignore_merges=True),
        "qwen": build(seq([split(QWEN), bytes_only]), normalizer=normalizers.NFC()),
        "split-previous": build(seq([pre_tokenizers.Split("a", "merged_with_previous"), bytes_only])),
        "split-next": build(seq([pre_tokenizers.Split(Regex("[0-9]"), "merged_with_next"), bytes_only])),
        "split-contiguous": build(seq([pre_tokenizers.Split(Regex(r"\s"), "contiguous"), bytes_only])),
        "split-removed": build(seq([pre_tokenizers.Split(Regex(r"\s+"), "removed"), bytes_only])),
        "split-invert": build(seq([pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\d]+"), "isolated", invert=True), bytes_only])),
    }


def main():
    os.makedirs(HERE, exist_ok=True)
    with open(os.path.join(HERE, "golden.jsonl"), "w", encoding="ascii") as out:
        for family, t in families().items():
            with open(os.path.join(HERE, family + ".json"), "w", encoding="utf-8") as f:
                f.write(json.dumps(json.loads(t.to_str()), ensure_ascii=False))
            for text in TEXTS + ["x <tool> y<tool>", "x  <strip>  y"]:
                ids = t.encode(text, add_special_tokens=False).ids
                out.write(json.dumps({"family": family, "text": text, "ids": ids}) + "\n")
        model = os.path.join(ROOT, "models", "smollm2-135m-instruct", "tokenizer.json")
        if os.path.exists(model):
            t = Tokenizer.from_file(model)
            for text in TEXTS:
                out.write(json.dumps({"family": "smollm2-135m-instruct", "text": text,
                                      "ids": t.encode(text, add_special_tokens=False).ids}) + "\n")


main()
