"""with_llama.py -- llama.cpp as a peer: the model's folder as a GGUF file with the same weights, decoding.

llama-cpp-python's library, compiled on this very machine (setup.sh), called below its Python layer: nothing
is timed but llama_decode and an argmax. llama.cpp rounds activations to bf16 before it multiplies them with
bf16 weights; f32 compute on bf16 weights it does not have. Keys and values are f16, its default.
"""
import json
import os
import time

import numpy


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
    """One user behind a document, greedy. Only what follows the document is computed again for each turn."""

    def __init__(self, job, path, threads):
        import llama_cpp

        if not os.path.exists(path):
            write_gguf(job["model"], path)
        self.lib, self.new = llama_cpp, job["new"]
        self.document, self.prompt = job["document"], job["prompts"][0]
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.system = llama_cpp.llama_print_system_info().decode().strip()
        self.open(path, threads)
        self.read(self.document)

    def open(self, path, threads):
        lib = self.lib
        self.quiet = lib.llama_log_callback(lambda level, text, user: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        p = lib.llama_context_default_params()
        p.n_ctx, p.n_threads, p.n_threads_batch = 2048, threads, threads
        self.context = lib.llama_init_from_model(model, p)
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

    def read(self, ids):
        """Appends ids to what the context holds, a batch of the library's size at a time."""
        lib, most = self.lib, self.lib.llama_n_batch(self.context)
        for i in range(0, len(ids), most):
            part = ids[i : i + most]
            kept = (lib.llama_token * len(part))(*part) # the batch points to it, and does not keep it
            failed = lib.llama_decode(self.context, lib.llama_batch_get_one(kept, len(part)))
            if failed:
                raise RuntimeError(f"llama_decode of {len(part)} tokens says {failed}")

    def best(self):
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return int(numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())

    def repeat(self):
        self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.context), 0, len(self.document), -1)
        self.read(self.prompt)
        said, start = [self.best()], time.perf_counter()
        while len(said) < self.new:
            self.read(said[-1:])
            said.append(self.best())
        return {"seconds": time.perf_counter() - start, "tokens": self.new - 1, "said": [said]}
