"""make_seeds.py -- writes the seeds of the fuzz targets that are no finds: small files that are right, and some that
are nearly right, so that a fuzzer starts behind the first check. Needs only Python's own library. Finds are added by
hand, named after what they found."""

import hashlib
import io
import json
import os
import pathlib
import sqlite3
import struct
import tempfile
import zipfile

SEEDS = pathlib.Path(__file__).parent / "seeds"


def put(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def seeds_safetensors():
    put("safetensors", "two", safetensors(
        {"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 2], 0, 16), "b": tensor("BF16", [3], 16, 22)}, bytes(range(22))))
    put("safetensors", "types", safetensors(
        {"f64": tensor("F64", [1], 0, 8), "i32": tensor("I32", [], 8, 12), "f16": tensor("F16", [1, 1, 2], 12, 16),
         "none": tensor("F32", [0, 7], 16, 16)}, bytes(16)))
    put("safetensors", "empty", safetensors({}, b""))
    put("safetensors", "unknown-type", safetensors({"a": tensor("I64", [1], 0, 8)}, bytes(8)))
    put("safetensors", "overlap", safetensors({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)))
    put("safetensors", "huge", safetensors({"a": tensor("F32", [1 << 40, 1 << 40], 0, 0)}, b""))
    put("safetensors", "length-of-all-bits", b"\xff" * 8 + b"{}")


LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 100,
         "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
         "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def seeds_config():
    put("config", "llama", json.dumps(LLAMA))
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
    put("config", "llama3", json.dumps({**LLAMA, "rope_scaling": scaling}))
    put("config", "parameters", json.dumps({**LLAMA, "rope_parameters": {**scaling, "rope_theta": 1e6}}))
    put("config", "qwen2", json.dumps({**LLAMA, "model_type": "qwen2", "use_sliding_window": False, "layer_types": ["full_attention"] * 2}))
    put("config", "qwen3", json.dumps({**LLAMA, "model_type": "qwen3", "head_dim": 128}))
    put("config", "quantised", json.dumps({**LLAMA, "quantization_config": {"bits": 4}}))
    put("config", "huge", json.dumps({**LLAMA, "num_hidden_layers": 4096, "hidden_size": 1 << 24, "intermediate_size": 1 << 24,
                                      "num_attention_heads": 1 << 24, "num_key_value_heads": 1 << 24, "head_dim": 256, "vocab_size": 1 << 24}))
    put("config", "heads-of-nothing", json.dumps({**LLAMA, "num_key_value_heads": 0}))
    put("config", "infinite-theta", json.dumps(LLAMA).replace("500000.0", "1e400"))


def bytes_as_spelled():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


SPELLED = bytes_as_spelled()


def tokenizer(pre, alphabet=range(32, 127), **more):
    words = [SPELLED[b] for b in alphabet] + ["th", "the", SPELLED[32] + "t"]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words))}
    added = [{"id": len(vocab) + i, "content": s, "special": True, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False} for i, s in enumerate(more.get("special", ["<|im_start|>", "<|im_end|>"]))]
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": more.get("normalizer"),
        "pre_tokenizer": pre, "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "unk_token": None, "byte_fallback": False, "ignore_merges": more.get("ignore_merges", False),
                  "vocab": vocab, "merges": more.get("merges", ["t h", "th e", SPELLED[32] + " t"])}}, ensure_ascii=False)


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def seeds_tokenizer():
    plain = {**BYTES, "use_regex": False}
    # these two also serve the target chat
    put("tokenizer", "chatml", tokenizer(BYTES, range(256)))
    put("tokenizer", "llama3", tokenizer(BYTES, range(256), special=["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]))
    put("tokenizer", "few", tokenizer(BYTES, b"the fox"))
    put("tokenizer", "digits", tokenizer({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}))
    put("tokenizer", "split", tokenizer({"type": "Sequence", "pretokenizers": [
        split(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), plain]}))
    for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        put("tokenizer", "split-" + behavior.lower(), tokenizer({"type": "Sequence", "pretokenizers": [split(r"\s", behavior), plain]}, b"the fox"))
    put("tokenizer", "nfc", tokenizer(BYTES, b"the fox", normalizer={"type": "NFC"}, ignore_merges=True,
                                      merges=[["t", "h"], ["th", "e"]]))
    put("tokenizer", "slow-pattern", tokenizer({"type": "Sequence", "pretokenizers": [split(r"(a+)+$|(.*)*x"), plain]}, b"the fox"))


CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
          "{% endfor %}{# it's #}")


def seeds_chat():
    messages = ["\1hello <|im_end|> there", "\2caf\u00e9\n\n  1 2 3", "\0<|eot_id|>", "\1"]
    for family, name in enumerate(("chatml", "llama3")):
        put("chat", name, "\0".join([chr(family), "", *messages]))
    put("chat", "template", "\0" + "\0".join([CHATML, '{"eos_token_id": [0, 2]}', *messages]))
    put("chat", "spaced", "\0" + "\0".join([CHATML.replace("\\n' + m['c", "\\n ' + m['c"), '{"eos_token_id": 2}', "\1 x"]))
    put("chat", "joined", "\0" + "\0".join([CHATML.replace("' + m['role'] + '\\n'", '" ~ m.role ~ "\n"'), "{}", "\1x"]))
    put("chat", "open-ends", "\0" + "\0".join(["{{ '<|im_start|>' + m['role {# {% \\", "{}", "\1x"]))
    put("chat", "not-utf8", b"\0\0\0\1\xff\xc3\0\2\xed\xa0\x80")
    put("chat", "many-ends", "\0" + "\0".join(["", json.dumps({"eos_token_id": list(range(17))}), "\1x"]))


def cartridge(info, layers=1, shape=(1, 2, 32)):
    size = 2 * shape[0] * shape[1] * shape[2]
    header = {"__metadata__": {"sha256": "0" * 64, "cartridge": json.dumps(info)}}
    for i in range(2 * layers):
        header[f"layer.{i // 2}.{'value' if i % 2 else 'key'}"] = tensor("BF16", list(shape), i * size, (i + 1) * size)
    data = safetensors(header, bytes(i % 251 for i in range(2 * layers * size)))
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


INFO = {"version": 1, "layers": 1, "kv_heads": 1, "head_dim": 32, "rows": 2, "frozen": 1, "pos_first": 0, "pos_end": 2,
        "model": "m" * 8, "tokenizer": "t" * 8, "template_family": "chatml", "rope_theta": 10000.5, "rope_factor": 0,
        "name": "a \u00e9", "corpus_tokens": 10, "init": "first", "steps": 1, "conversations": 2, "supervised_tokens": 3,
        "learning_rate": 0.1, "loss_first": None, "loss_last": None, "kl_heldout": None, "seed": "18446744073709551615"}


def seeds_cartridge():
    put("cartridge", "one", cartridge(INFO))
    put("cartridge", "two-layers", cartridge({**INFO, "layers": 2}, 2))
    put("cartridge", "more-layers-than-tensors", cartridge({**INFO, "layers": 1 << 30}))
    put("cartridge", "far", cartridge({**INFO, "pos_first": 2**31 - 3, "pos_end": 2**31 - 1}))
    put("cartridge", "part", cartridge({**INFO, "parts": "aa:0-1,bb:1-2", "note": "\n\"\\", "corpus_tokens": 2**53}))
    put("cartridge", "other-shape", cartridge(INFO, 1, (1, 1, 32)))


PEFT = {"peft_type": "CARTRIDGE", "num_virtual_tokens": 2, "num_frozen_tokens": 1, "num_layers": 2, "num_attention_heads": 1,
        "num_transformer_submodules": 1, "token_dim": 32, "task_type": "CAUSAL_LM"}


def peft(config, header_more, dtype="BF16", size=2):
    table = {"prompt_embeddings": tensor(dtype, [2, 128], 0, 256 * size)}
    data = safetensors({"__metadata__": {"format": "pt", **header_more}, **table}, bytes(i % 60 for i in range(256 * size)))
    if "sha256" in header_more:
        data = data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)
    return json.dumps(config).encode() + b"\0" + data


def seeds_peft():
    info = {**INFO, "layers": 2}
    put("peft", "foreign", peft(PEFT, {}))
    put("peft", "foreign-f32", peft(PEFT, {}, "F32", 4))
    put("peft", "little-said", peft({"peft_type": "CARTRIDGE", "num_virtual_tokens": 2}, {}))
    put("peft", "ours", peft(PEFT, {"sha256": "0" * 64, "cartridge": json.dumps(info)}))
    put("peft", "ours-of-no-heads", peft(PEFT, {"sha256": "0" * 64, "cartridge": json.dumps({**info, "kv_heads": 0})}))
    put("peft", "lora", peft({**PEFT, "peft_type": "LORA"}, {}))


def pickled(*chunks):
    return b"\x80\x02" + b"".join(chunks) + b"."


def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def pickled_tensor(key, shape, offset=0, kind="BFloat16Storage"):
    count = 1
    for n in shape:
        count *= n
    strides, step = [], 1
    for n in reversed(shape):
        strides.insert(0, step)
        step *= n
    whole = lambda n: b"K" + bytes([n]) if n < 256 else b"M" + struct.pack("<H", n)
    return (b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) +
            text("cpu") + whole(count) + b"tQ" + whole(offset) + b"(" + b"".join(map(whole, shape)) + b"t(" +
            b"".join(map(whole, strides)) + b"t\x89ccollections\nOrderedDict\n)RtR")


def pickled_lists(shape=(1, 2, 7, 32), key="0", names=("trainable_keys", "trainable_values", "frozen_keys", "frozen_values")):
    lists = []
    for name in names:
        tensors = b"(" + pickled_tensor(key, shape) * 2 + b"e" if name.startswith("train") else b""
        lists.append(text(name) + b"]" + tensors)
    return pickled(b"}(", *lists, b"u")


def torch_zip(pickle, storages):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as z:
        for name, data in [("a/data.pkl", pickle), ("a/byteorder", b"little")] + [(f"a/data/{i}", s) for i, s in enumerate(storages)]:
            z.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def seeds_torch():
    put("torch", "pickle", pickled_lists())
    put("torch", "pickle-fixed", pickled_lists(names=("trainable_keys", "trainable_values", "fixed_keys", "fixed_values")))
    put("torch", "pickle-too-far", pickled_lists((1, 2, 255, 32)))
    put("torch", "pickle-calls", pickled(b"cos\nsystem\n(" + text("true") + b"tR"))
    put("torch", "pickle-in-itself", pickled(b"]q\0h\0a"))
    put("torch", "pickle-of-all-sorts", pickled(b"(K\1M\1\1J\1\1\1\1\x8a\1\1N\x88\x89U\1a" + text("b") + b"\x85\x86\x87l}(K\1K\2ud0(1"))
    put("torch", "zip", torch_zip(pickled_lists((1, 2, 1, 32)), [bytes(128)]))
    put("torch", "zip-of-nothing", torch_zip(b"", []))
    put("torch", "zip-end-only", b"PK\5\6" + bytes(18))


def row(token, at, first, ids, logprob, texts=("focus", "q?", "a."), answer=-0.5, number=0, kinds=bytes(8)):
    parts = [t.encode() for t in texts]
    parts += [struct.pack(f"<{len(v)}i", *v) for v in (token, at, first, ids)] + [struct.pack(f"<{len(logprob)}f", *logprob)]
    return struct.pack("<qqd", number, 3, answer) + bytes(len(p) for p in parts) + kinds + b"".join(parts)


def small_database():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a")
        db = sqlite3.connect(path)
        db.executescript("PRAGMA page_size = 512; PRAGMA application_id = 0x43415254; PRAGMA user_version = 1;"
                         "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
                         "CREATE TABLE conversation (number INTEGER PRIMARY KEY, sha256, chunk, kind, question, answer,"
                         " answer_logprob, token, at, first, id, logprob);"
                         "CREATE TABLE dropped (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;")
        pairs = {"model": "m", "tokenizer": "t", "template": "chatml", "corpus": "c", "settings": "{}",
                 "corpus_tokens": "5", "rows": "1", "next": "1"}
        h = hashlib.sha256(b"".join(f"{k}\0{v}\0".encode() for k, v in sorted(pairs.items())))
        db.executemany("INSERT INTO meta VALUES (?, ?)", [*pairs.items(), ("sha256", h.hexdigest())])
        db.execute("INSERT INTO conversation VALUES (0, x'00', 0, 'k', 'q', 'a', NULL, x'', x'', x'', x'', x'')")
        db.commit()
        db.close()
        return pathlib.Path(path).read_bytes()


def seeds_dataset():
    put("dataset", "row", row([5, 6, 7, 8], [2, 3], [0, 2, 3], [7, 9, 8], [-0.5, -1.0, 0.0]))
    put("dataset", "row-unknown-likelihood", row([5, 6], [1], [0, 1], [7], [-1.0], answer=float("nan"), number=-1))
    put("dataset", "row-falling-targets", row([5, 6, 7], [2, 1], [0, 1, 2], [7, 8], [-1.0, -1.0]))
    put("dataset", "row-first-too-far", row([5, 6], [1], [0, 1 << 30], [7], [-1.0]))
    put("dataset", "row-falling-first", row([5, 6, 7], [1, 2], [0, 5, 1], [7], [-1.0]))
    put("dataset", "row-negative-first", row([5, 6, 7], [1, 2], [0, -5, 1], [7], [-1.0]))
    put("dataset", "row-impossible", row([5, 6], [1], [0, 1], [-7], [float("nan")]))
    put("dataset", "row-zero-in-text", row([5, 6], [1], [0, 1], [7], [-1.0], texts=("a\0b", "", "\0")))
    put("dataset", "row-of-other-types", row([5, 6], [1], [0, 1], [7], [-1.0], kinds=bytes([1, 2, 3, 1, 1, 2, 3, 1])))
    put("dataset", "whole", small_database())


def seeds_options():
    lines = {
        "train": ["train", "--model", "m", "--out=o", "-m", "x", "--lr", "1e-2", "--data", "a", "--data=b", "--resume", "--seed", "7"],
        "chat": ["chat", "a", "--", "--model", "-"],
        "eval": ["eval", "--json=false", "--quiet", "--errors", "3"],
        "synth": ["synth", "--chunk-tokens", "64-512", "--progress", "auto", "--help"],
        "unknown": ["trian", "--modle", "x", "-", "-q", "-zx", "--", "--lr"],
        "numbers": ["train", "--lr", "nan", "--lr", "inf", "--lr=-0", "--seed", "0x10", "--seed=1e3", "--seed", "99999999999999999999"],
    }
    for name, words in lines.items():
        put("options", name, "\0".join(words))


def seeds_settings():
    put("settings", "all", 'model=m # of all\nseed = 7\r\n\n  lr = 0.5\n# [eval]\n[eval]\nmodel = other\n[train] # here\n'
        'lr = 0.25\nname = a#b # c\n\tnote = " \\"q\\" \\\\ \\n" # d\ndata = one\ndata = two\nrun-dir =\nresume = on')
    put("settings", "wrong-name", "[train]\nmodle = x\n")
    put("settings", "no-end", '[train\nname = "x')
    put("settings", "zero", b"[train]\nname = a\0b\n")
    put("settings", "quotes", '[chat]\nmodel = "\\\\"#\n[train]\nname = "\ta" \nnote = \'x\'\nout = #\n')


def seeds_metrics():
    step = {"step": 1, "steps": 3, "conversations": 4, "rows": 90, "supervised": 30, "loss": 2.345678, "kl": 2, "grad_norm": 0.5,
            "lr": 0.01, "seconds": 1.5}
    held = {"step": 2, "heldout_loss": 1.25, "heldout_kl": 0.5, "heldout_agree": 0.75, "conversations": 4, "supervised": 40}
    lines = [step, {**step, "step": 2, "loss": None}, held, {"step": 2, "note": "<b> & \x01"}, {**step, "step": 3, "loss": 1}]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    put("metrics", "run", whole)
    put("metrics", "cut", whole[:-9])
    put("metrics", "one", json.dumps(step) + "\n")
    put("metrics", "huge", "".join(json.dumps({**step, "step": s, "steps": 2**53, "loss": v, "seconds": -v, "lr": v}) + "\n"
                                   for s, v in ((0, 1e308), (2**53, -1e308))))
    put("metrics", "tiny", "".join(json.dumps({**step, "step": s, "loss": v, "lr": v, "seconds": v}) + "\n"
                                   for s, v in ((0, 5e-324), (1, 1e-320), (2, 0))))


for seeds in (seeds_safetensors, seeds_config, seeds_tokenizer, seeds_chat, seeds_cartridge, seeds_torch, seeds_dataset,
              seeds_options, seeds_settings, seeds_peft, seeds_metrics):
    seeds()
