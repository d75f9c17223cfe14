"""make_models.py [NAME...] -- golden files of the model families, made with transformers. See README.md.

Needs torch, transformers and safetensors; kept beside what it made, not run by any test. NAMEs are llama, qwen2,
qwen3 (two-layer random models, written beside this file) and smollm2 (needs models/smollm2-135m-instruct, which
tools/get-model makes); without any, all of them.

Everything is computed in f64 from the bf16 weights, so what differs from it by more than a few roundings is wrong.
transformers itself keeps some steps in f32: the angles of the rotation and the mean inside a norm.
"""
import os
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig, Qwen2Config, Qwen3Config

HERE = os.path.dirname(os.path.abspath(__file__))
SMOLLM2 = os.path.join(HERE, "..", "..", "models", "smollm2-135m-instruct")
MADE_BY = {"made_by": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"}

# Every number is a choice: sizes that are no multiple of a tile, groups of 2, 7 and 3 query heads, heads that are
# wider than width / heads, an original context so short that llama3 scaling meets all three of its cases.
SMALL = dict(vocab_size=300, num_hidden_layers=2, max_position_embeddings=512)
FAMILIES = {
    "llama": LlamaConfig(
        **SMALL, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=64)),
    "qwen2": Qwen2Config(
        **SMALL, hidden_size=32, intermediate_size=96, num_attention_heads=7, num_key_value_heads=1, head_dim=32,
        tie_word_embeddings=False, rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "qwen3": Qwen3Config(
        **SMALL, hidden_size=48, intermediate_size=96, num_attention_heads=3, num_key_value_heads=1, head_dim=64,
        tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
}

TEXT = 40  # tokens of the plain run
PREFIX = 70  # rows: one page of 64 and a part of another
OWN = (9, 23)  # tokens of the two sequences behind the prefix
SUPERVISED = ((2, 3, 7), (0, 5, 6, 7, 8, 9, 15, 22))  # rows of each that the teacher speaks about
CANDIDATES = 6


# ---- random models ----


def spread(name, shape, g):
    """Weights for which every part of a layer matters: attention neither flat nor one-hot, logits within a few
    units, norms and biases that differ from one and zero."""
    x = torch.randn(shape, generator=g)
    if "norm" in name:
        return 1 + 0.3 * x
    if name.endswith("bias"):
        return 0.5 * x
    if "embed_tokens" in name:
        return 0.3 * x
    gain = {"q_proj": 1.5, "k_proj": 1.5, "lm_head": 2.0}
    return next((v for k, v in gain.items() if k in name), 1.0) * x / shape[-1] ** 0.5


def save_random_model(name, folder, seed):
    model = AutoModelForCausalLM.from_config(FAMILIES[name])
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(spread(key, p.shape, g))
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))  # nothing but token ids, and none of ours


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    return model.double().eval().requires_grad_(False)


# ---- runs ----


def states_and_logits(model, tokens):
    """Input of every layer, output of the last one (before the final norm), logits; [T,C] and [T,V]."""
    states = []
    layers = model.model.layers
    first = lambda x: x[0] if isinstance(x, tuple) else x
    hooks = [l.register_forward_pre_hook(lambda m, a: states.append(a[0][0])) for l in layers]
    hooks.append(layers[-1].register_forward_hook(lambda m, a, o: states.append(first(o)[0])))
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    for h in hooks:
        h.remove()
    return states, logits


def behind(model, keys, values, tokens):
    """Logits of tokens behind a prefix: keys and values [G,P,D] of every layer, as attention reads them."""
    cache = DynamicCache()
    for layer, (k, v) in enumerate(zip(keys, values)):
        cache.update(k[None], v[None], layer)
    positions = torch.arange(PREFIX, PREFIX + len(tokens))[None]
    return model(torch.tensor([tokens]), past_key_values=cache, position_ids=positions).logits[0]


def teacher(logits, g):
    """Candidates and log-probabilities of another opinion than the student's. The likeliest few only, and of
    different number: what is kept never sums to one."""
    other = (0.5 * logits + 1.5 * torch.randn(logits.shape, generator=g)).log_softmax(-1)
    ids, logprobs = [], []
    for row, rank in zip(other, range(len(other))):
        top = row.topk(CANDIDATES - rank % 3)
        ids.append(top.indices.int())
        logprobs.append(top.values.float())
    return ids, logprobs


def losses(logits, ids, logprobs):
    """Mean over rows of the loss, without renormalisation, and of the KL whose tail is one bucket."""
    loss = kl = 0
    for row, i, logp in zip(logits.log_softmax(-1), ids, logprobs):
        p, logq = logp.double().exp(), row[i.long()]
        rest, rest_q = 1 - p.sum(), 1 - logq.exp().sum()
        loss = loss - (p * logq).sum()
        kl = kl + (p * (logp.double() - logq)).sum() + rest * (rest / rest_q).log()
    return loss / len(ids), kl / len(ids)


def random_prefix(config, g):
    shape = (config.num_hidden_layers, 2, config.num_key_value_heads, PREFIX, config.head_dim)
    x = torch.randn(shape, generator=g)
    x[:, 0] *= 1.5  # keys
    return x.to(torch.bfloat16)  # any pool holds them exactly


def golden(name, seed):
    folder = os.path.join(HERE, name)
    save_random_model(name, folder, seed)
    model = load(folder)
    g = torch.Generator().manual_seed(seed + 1)
    draw = lambda n: torch.randint(model.config.vocab_size, (n,), generator=g).tolist()

    text = draw(TEXT)
    states, logits = states_and_logits(model, text)
    out = {"text": torch.tensor(text, dtype=torch.int32), "logits": logits.float()}
    out |= {f"state.{i}": s.float() for i, s in enumerate(states)}
    out |= {"rope_freq": model.model.rotary_emb.inv_freq.float()}

    prefix = random_prefix(model.config, g)
    leaf = prefix.double().requires_grad_()
    own = [draw(n) for n in OWN]
    rows = [behind(model, leaf[:, 0], leaf[:, 1], t) for t in own]
    wanted = torch.cat([r[list(s)] for r, s in zip(rows, SUPERVISED)])
    ids, logprobs = teacher(wanted.detach(), g)
    loss, kl = losses(wanted, ids, logprobs)
    loss.backward()

    first = torch.tensor([0] + [len(i) for i in ids]).cumsum(0)
    out |= {f"tokens.{i}": torch.tensor(t, dtype=torch.int32) for i, t in enumerate(own)}
    out |= {"target.row": torch.tensor(list(SUPERVISED[0]) + [OWN[0] + r for r in SUPERVISED[1]], dtype=torch.int32)}
    out |= {"target.first": first.int(), "target.id": torch.cat(ids), "target.logprob": torch.cat(logprobs)}
    out |= {"loss": loss.detach()[None], "kl": kl.detach()[None]}
    for layer in range(model.config.num_hidden_layers):
        for i, part in enumerate(("key", "value")):
            out[f"layer.{layer}.{part}"] = prefix[layer, i].contiguous()
            out[f"gradient.{layer}.{part}"] = leaf.grad[layer, i].float().contiguous()
    save_file(out, os.path.join(folder, "golden.safetensors"), MADE_BY)
    report(name, model, logits, states, loss, kl, leaf.grad)


def report(name, model, logits, states, loss, kl, grad):
    p = logits.softmax(-1)
    print(f"{name}: {sum(w.numel() for w in model.parameters())} parameters, largest state "
          f"{states[-1].abs().max():.1f}, logit {logits.abs().max():.1f}, mean largest probability "
          f"{p.max(-1).values.mean():.3f}, loss {loss.item():.4f}, kl {kl.item():.4f}, gradient "
          f"{grad.abs().max():.2e} at most, {grad.abs().mean():.2e} in the mean")


# ---- SmolLM2 ----

CHATS = [
    [("user", "Why is the sky blue? Answer in two sentences.")],
    [("system", "The ferry Aldous leaves Port Merrow at 7:45 and reaches Skarn at 9:10. A ticket costs 14 crowns."),
     ("user", "When does the ferry reach Skarn?")],
    [("user", "Translate to French: Good morning, my friend."), ("assistant", "Bonjour, mon ami."),
     ("user", "And now write it in capital letters, with an exclamation mark.")],
]
GREEDY, TOP = 32, 20


def greedy(model, tokens):
    """Ids that follow, and by how much the log-probability of each exceeds the second best's. Goes on past the end
    of the turn: a fixed count is easier to compare."""
    ids, margins, cache, step = [], [], DynamicCache(), tokens
    for _ in range(GREEDY):
        row = model(torch.tensor([step]), past_key_values=cache).logits[0, -1].log_softmax(-1)
        top = row.topk(2)
        step = top.indices[:1].tolist()
        ids += step
        margins.append((top.values[0] - top.values[1]).item())
    return ids, margins


@torch.no_grad()
def smollm2():
    tokenizer, model = AutoTokenizer.from_pretrained(SMOLLM2), load(SMOLLM2)
    out = {}
    for i, chat in enumerate(CHATS):
        turns = [{"role": role, "content": content} for role, content in chat]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text)["input_ids"]
        ids, margins = greedy(model, prompt)
        tokens = prompt + ids[:-1]
        top = model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1).topk(TOP)
        assert top.indices[len(prompt) - 1:, 0].tolist() == ids  # decoding and prefill agree
        out[f"prompt.{i}"] = torch.tensor(prompt, dtype=torch.int32)
        out[f"greedy.{i}"] = torch.tensor(ids, dtype=torch.int32)
        out[f"margin.{i}"] = torch.tensor(margins)
        out[f"top_id.{i}"] = top.indices.int()
        out[f"top_logprob.{i}"] = top.values.float()
        print(f"smollm2, prompt {i}: {len(prompt)} tokens, least margin {min(margins):.4f}:",
              repr(tokenizer.decode(ids)))
    save_file(out, os.path.join(HERE, "smollm2.safetensors"), MADE_BY)


def main():
    torch.set_num_threads(2)
    names = sys.argv[1:] or [*FAMILIES, "smollm2"]
    for name in names:
        smollm2() if name == "smollm2" else golden(name, 100 + list(FAMILIES).index(name))


if __name__ == "__main__":
    main()
