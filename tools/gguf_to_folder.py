"""gguf_to_folder.py IN.gguf FOLDER -- a GGUF checkpoint as a Hugging Face folder that `cartridge` opens.

Weights are dequantised to f32 and rounded once to bf16; sizes, vocabulary, merges and the chat template come from
the GGUF's own metadata, so nothing else is fetched. Needs the packages numpy and gguf (tools/get-model makes an
environment with both).

Only what was checked against transformers is converted: the llama architecture with the smollm pre-tokenizer.
Anything else is an error that names it. FOLDER must not exist; on failure it does not exist afterwards either.

llama.cpp turns the rows of each q and k head from two halves into neighbouring pairs, because it rotates
neighbours; rows() turns them back.
"""
import json
import os
import re
import shutil
import sys

import gguf
import numpy as np

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# What a GGUF says with one word and a tokenizer.json spells out. SmolLM splits digits off, one by one, before
# the GPT-2 pattern: "  12" is two spaces, "1", "2".
PRE_TOKENIZERS = {
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
CONTROL = 3  # token type of a special token


class Wrong(Exception):
    """The input cannot be converted; the text says why."""


class Source:
    """A GGUF file: metadata by key, tensors in file order."""

    def __init__(self, path):
        self.path = path
        self.reader = gguf.GGUFReader(path)

    def get(self, key, default=None):
        field = self.reader.fields.get(key)
        if field is None and default is None:
            raise Wrong(f"{self.path}: has no {key}")
        return default if field is None else field.contents()

    def one_of(self, key, known):
        value = self.get(key)
        if value not in known:
            raise Wrong(f"{self.path}: {key} is {value}; converted are only {', '.join(known)}")
        return value


def shortest(x):
    """A number that was stored as f32, with the fewest digits that give that f32 again."""
    return float(str(np.float32(x)))


# ---- sizes ----


def config(src):
    if any(key.startswith("llama.rope.scaling") for key in src.reader.fields):
        raise Wrong(f"{src.path}: has rope scaling; only plain rope is converted")
    get = lambda key, default=None: src.get("llama." + key, default)
    heads, width = get("attention.head_count"), get("embedding_length")
    tied = all(t.name != "output.weight" for t in src.reader.tensors)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(src.get("tokenizer.ggml.tokens")),
        "hidden_size": width,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": get("rope.dimension_count", width // heads),
        "hidden_act": "silu",
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": shortest(get("attention.layer_norm_rms_epsilon")),
        "rope_theta": shortest(get("rope.freq_base")),
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    } | special_ids(src)


def special_ids(src):
    return {name + "_token_id": src.get(f"tokenizer.ggml.{key}_token_id")
            for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}


# ---- weights ----


def hf_name(src, name):
    if name in NAMES:
        return NAMES[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if not match or match[2] not in LAYER_NAMES:
        raise Wrong(f"{src.path}: the tensor {name} has no place in a llama model")
    return f"model.layers.{match[1]}.{LAYER_NAMES[match[2]]}.weight"


def rows(w, name, cfg):
    heads = {"attn_q": cfg["num_attention_heads"], "attn_k": cfg["num_key_value_heads"]}
    part = name.removesuffix(".weight").split(".")[-1]
    if part not in heads:
        return w
    pairs = w.reshape(heads[part], -1, 2, w.shape[1])
    return pairs.swapaxes(1, 2).reshape(w.shape)


def bf16(x):
    """Rounded to nearest, ties to even, as the 16 bits."""
    if not np.isfinite(x).all():
        raise Wrong("a weight is not a finite number")
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_weights(src, cfg, path):
    """Tensors in file order; the header needs only their shapes, so one weight at a time is in memory."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for t in src.reader.tensors:
        size = 2 * int(t.n_elements)
        shape = [int(n) for n in reversed(t.shape)]
        header[hf_name(src, t.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for t in src.reader.tensors:
            f.write(bf16(rows(gguf.dequantize(t.data, t.tensor_type), t.name, cfg)).tobytes())


# ---- text ----


def tokenizer(src):
    src.one_of("tokenizer.ggml.model", ["gpt2"])
    pre = src.one_of("tokenizer.ggml.pre", list(PRE_TOKENIZERS))
    tokens, types = src.get("tokenizer.ggml.tokens"), src.get("tokenizer.ggml.token_type")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i]} | plain for i, kind in enumerate(types) if kind == CONTROL],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": src.get("tokenizer.ggml.merges"),
        },
    }


def tokenizer_config(src, cfg):
    tokens = src.get("tokenizer.ggml.tokens")
    named = {name: tokens[cfg[name + "_id"]] for name in ("bos_token", "eos_token", "pad_token")}
    return named | {
        "add_bos_token": src.get("tokenizer.ggml.add_bos_token", False),
        "add_prefix_space": False,
        "chat_template": src.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": cfg["max_position_embeddings"],
        # the plain class: some versions of transformers replace a GPT2Tokenizer's pre-tokenizer by their own
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def fill(folder, src):
    src.one_of("general.architecture", ["llama"])
    cfg = config(src)
    write_json(folder, "config.json", cfg)
    write_json(folder, "generation_config.json", special_ids(src))
    write_json(folder, "tokenizer.json", tokenizer(src))
    write_json(folder, "tokenizer_config.json", tokenizer_config(src, cfg))
    write_weights(src, cfg, os.path.join(folder, "model.safetensors"))


def convert(path, folder):
    src = Source(path)
    os.mkdir(folder)
    try:
        fill(folder, src)
    except BaseException:
        shutil.rmtree(folder)
        raise


def main():
    if len(sys.argv) != 3:
        print("usage: gguf_to_folder.py IN.gguf FOLDER", file=sys.stderr)
        return 2
    try:
        convert(*sys.argv[1:])
    except Wrong as e:
        print(f"gguf_to_folder.py: {e}", file=sys.stderr)
        return 3
    except (OSError, ValueError) as e:  # also what the reader says of a file that is damaged
        print(f"gguf_to_folder.py: {sys.argv[1]} to {sys.argv[2]}: {e}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
