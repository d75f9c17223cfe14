"""with_llama.py -- llama.cpp as a peer: the model's folder as a GGUF file with the same weights, decoding.

The wheel is xllamacpp's: llama.cpp compiled for AVX2 and FMA, no more. llama.cpp rounds activations to bf16
before it multiplies them with bf16 weights; f32 compute on bf16 weights it does not have. Keys and values are
f16, its default. The time is the one that its server reports for the tokens after the first.
"""
import json
import os


def vocabulary(w, folder, size):
    import gguf

    t = json.load(open(os.path.join(folder, "tokenizer.json")))
    tokens = [f"<unused{i}>" for i in range(size)]
    for token, i in t["model"]["vocab"].items():
        tokens[i] = token
    types = [gguf.TokenType.NORMAL] * size
    for added in t["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], gguf.TokenType.CONTROL
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in t["model"]["merges"]])
    w.add_add_bos_token(False)


def sizes(w, c):
    import gguf

    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_rope_dimension_count(c["head_dim"])
    w.add_vocab_size(c["vocab_size"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def weights(w, c, folder):
    """Rows of q and k go into the order that llama.cpp rotates them in: neighbours instead of halves."""
    import gguf
    import torch
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c["num_hidden_layers"])
    heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}
    with safe_open(os.path.join(folder, "model.safetensors"), "pt") as f:
        for name in f.keys():
            t, to = f.get_tensor(name), names.get_name(name, try_suffixes=(".weight",))
            n = next((h for part, h in heads.items() if part in name), None)
            if n:
                t = t.reshape(n, 2, -1, t.shape[1]).transpose(1, 2).reshape(t.shape)
            if t.ndim == 1:
                w.add_tensor(to, t.float().numpy())
            else:
                raw = t.contiguous().view(torch.uint8).numpy()
                w.add_tensor(to, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)


def write_gguf(folder, path):
    import gguf

    c = json.load(open(os.path.join(folder, "config.json")))
    w = gguf.GGUFWriter(path + ".part", "llama")
    sizes(w, c)
    vocabulary(w, folder, c["vocab_size"])
    weights(w, c, folder)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.rename(path + ".part", path)


class Decoding:
    """One user behind a document, greedy, by the server inside the wheel."""

    def __init__(self, job, path, threads):
        import xllamacpp

        if not os.path.exists(path):
            write_gguf(job["model"], path)
        p = xllamacpp.CommonParams()
        p.model.path = path
        p.n_ctx, p.n_parallel, p.verbosity, p.warmup = 2048, 1, 0, True
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
        self.server, self.new = xllamacpp.Server(p), job["new"]
        self.prompt = job["document"] + job["prompts"][0]
        self.version = f"{xllamacpp.__version__} {xllamacpp.BUILD_INFO}"
        self.system, self.said = xllamacpp.get_system_info().strip(), None

    def repeat(self):
        """Ids come only with log-probabilities, which cost time: the first call, untimed, asks for them."""
        out = self.server.handle_completions({
            "prompt": self.prompt, "max_tokens": self.new, "temperature": 0, "top_k": 1, "ignore_eos": True,
            "cache_prompt": True, **({} if self.said else {"logprobs": 1})})
        if not self.said:
            self.said = [t["id"] for t in out["choices"][0]["logprobs"]["content"]]
        t = out["timings"] # the clock starts at the first token
        return {"seconds": t["predicted_ms"] / 1e3, "tokens": t["predicted_n"] - 1, "said": [self.said]}
