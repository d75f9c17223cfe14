"""train.py OUT [--steps 360] [--threads 2] [--seed 0] [--lr 2e-3] -- makes the demo model.

A Llama of 787,328 parameters that looks facts up in its context. Writes OUT/model.safetensors, config.json,
tokenizer.json, ... (a Hugging Face folder); tools/demo/model was made by this program with its defaults. Needs torch,
safetensors and tokenizers; not part of any build or test.

In order: the language, the tokenizer, the model, its informed start, training sequences, measurement, export,
training. Why each part of the recipe is there: README.md beside this file.
"""

import argparse
import json
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# ------------------------------------------------------------------ the language
NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gus Hana Ivan Jill Kai Lena Max Nora Omar Pia Quinn Rosa Sam Tara Uma "
    "Vera Wes Xena Yuri Zoe Abel Bella Carl Dora Emil Fay Gina Hugo Iris Joel Kim Leo Maya Nico Olga "
    "Paul Ruth Sven Tess Ugo Vito Walt Yara Zack Anna Boris Cora Dirk Elsa Frida Greta Hans Inga Jonas "
    "Karl Lars Mona Nina"
).split()
VALUES = {
    "drinks": (
        "tea coffee milk juice cocoa water wine beer cider soda mate rum gin ale mead port sake "
        "sherry tonic cola broth brandy vodka whisky lassi kefir punch latte espresso lemonade "
        "champagne chai"
    ).split(),
    "plays": (
        "piano violin flute harp cello drums guitar oboe banjo lute tuba horn organ viola bassoon "
        "trumpet clarinet harmonica accordion mandolin ukulele zither sitar bongos trombone bagpipes "
        "kazoo fiddle lyre gong cornet recorder"
    ).split(),
    "speaks": (
        "Greek Latin French German Dutch Danish Polish Czech Irish Welsh Thai Hindi Urdu Arabic "
        "Hebrew Turkish Farsi Swahili Zulu Korean Chinese Russian Finnish Swedish Italian Spanish "
        "Basque Catalan Malay Maori Tamil Nepali"
    ).split(),
    "eats": (
        "rice bread soup salad pasta pizza beans cheese eggs fish figs plums pears apples grapes "
        "melon nuts corn lentils tofu cake pie stew curry noodles olives toast yogurt honey carrots "
        "onions leeks"
    ).split(),
    "keeps": (
        "cats dogs goats sheep hens ducks geese pigs cows horses mules rabbits mice rats parrots owls "
        "doves bees snakes turtles frogs newts crabs llamas camels ponies ferrets lizards hamsters "
        "finches swans spiders"
    ).split(),
    "visits": (
        "Oslo Rome Paris Cairo Lima Quito Delhi Tokyo Seoul Athens Berlin Madrid Lisbon Dublin London "
        "Vienna Prague Warsaw Sofia Tunis Lagos Accra Nairobi Havana Bogota Boston Denver Dallas "
        "Sydney Perth Kyoto Milan"
    ).split(),
    "wears": (
        "red blue green yellow black white grey brown pink purple orange violet teal navy gold silver "
        "beige ivory cream tan maroon crimson scarlet indigo cyan magenta olive amber coral khaki "
        "lilac mauve"
    ).split(),
    "studies": (
        "law physics maths history music art biology chemistry botany logic ethics poetry grammar "
        "drama dance design geology medicine painting finance trade theology zoology optics algebra "
        "geometry politics rhetoric astronomy sculpture weaving navigation"
    ).split(),
}
RELS = list(VALUES)
# A fact is (name, relation, value), all indices. " Ada drinks tea." is four tokens: name, relation, value, ".".


# ------------------------------------------------------------------ the tokenizer: byte-level BPE
def byte_chars():
    """GPT-2's printable character for each byte."""
    ok = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    m, n = {b: chr(b) for b in ok}, 0
    for b in range(256):
        if b not in m:
            m[b] = chr(256 + n)
            n += 1
    return [m[b] for b in range(256)]


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def build_vocab():
    """Every word gets a chain of merges from its left end: "Ġ"+"t", "Ġt"+"e", "Ġte"+"a". All chains begin with the
    space, so they never compete, and each word comes out as exactly one token. Role words come last (no space)."""
    vocab, merges = {}, []
    for t in SPECIALS + byte_chars():
        vocab[t] = len(vocab)
    words = ["\u0120" + w for w in NAMES + RELS + sum(VALUES.values(), []) + ["what"]]
    for w in words + ["system", "user", "assistant"]:
        for i in range(2, len(w) + 1):
            if w[:i] not in vocab:
                vocab[w[:i]] = len(vocab)
                merges.append((w[: i - 1], w[i - 1]))
    return vocab, merges


VOCAB, MERGES = build_vocab()
V = -(-len(VOCAB) // 8) * 8
tok = lambda w: VOCAB["\u0120" + w]
NAME = [tok(w) for w in NAMES]
REL = [tok(r) for r in RELS]
VAL = [[tok(w) for w in VALUES[r]] for r in RELS]
IM_S, IM_E = VOCAB["<|im_start|>"], VOCAB["<|im_end|>"]
NL, DOT, Q, WHAT = VOCAB["\u010a"], VOCAB["."], VOCAB["?"], tok("what")
SYS, USR, ASS = VOCAB["system"], VOCAB["user"], VOCAB["assistant"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n ' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


# pieces of a conversation, as token lists (the same as the chat template gives for the text)
def fact_tokens(f):
    e, r, v = f
    return [NAME[e], REL[r], VAL[r][v], DOT]


def system_turn(facts):
    t = [IM_S, SYS, NL]
    for f in facts:
        t += fact_tokens(f)
    return t + [IM_E, NL]


def question(e, r):
    return [IM_S, USR, NL, NAME[e], REL[r], Q, IM_E, NL, IM_S, ASS, NL]


def topic(e):
    return [IM_S, USR, NL, NAME[e], WHAT, Q, IM_E, NL, IM_S, ASS, NL]  # " Ada what?" -> " Ada drinks?"


def world(nf, nrel, rng, names=range(len(NAMES)), sparse=False):
    """nf facts over nrel relations; each (name, relation) has one random value. With `sparse` not every name has
    every relation."""
    rels = rng.sample(range(len(RELS)), nrel)
    ne = -(-nf // nrel)
    ne = min(len(names), ne * (2 if sparse else 1))
    pairs = [(e, r) for e in rng.sample(list(names), ne) for r in rels]
    if sparse:
        rng.shuffle(pairs)
    facts = [(e, r, rng.randrange(len(VAL[r]))) for e, r in pairs[:nf]]
    rng.shuffle(facts)
    return facts


# ------------------------------------------------------------------ the model (Llama; same maths as transformers)
C, L, H, G, D, FF, THETA, EPS = 128, 3, 4, 2, 64, 256, 1e7, 1e-5


class RMS(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.weight


FREQ = THETA ** (-torch.arange(0, D, 2).float() / D)


def rope(x, pos):
    a = pos[:, None].float() * FREQ
    c, s = a.cos()[:, None], a.sin()[:, None]
    x1, x2 = x[..., : D // 2], x[..., D // 2 :]
    return torch.cat([x1 * c - x2 * s, x2 * c + x1 * s], -1).transpose(1, 2)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        lin = lambda a, b: nn.Linear(a, b, bias=False)
        self.n1, self.n2 = RMS(C), RMS(C)
        self.q, self.k, self.v, self.o = lin(C, H * D), lin(C, G * D), lin(C, G * D), lin(H * D, C)
        self.g, self.u, self.d = lin(C, FF), lin(C, FF), lin(FF, C)

    def forward(self, x, pos, past=None, keep=None):
        B, T, _ = x.shape
        h = self.n1(x)
        q, k = rope(self.q(h).view(B, T, H, D), pos), rope(self.k(h).view(B, T, G, D), pos)
        v = self.v(h).view(B, T, G, D).transpose(1, 2)
        if keep is not None:
            keep.append((k, v))
        p = 0
        if past is not None:
            p = past[0].shape[2]
            k = torch.cat([past[0].expand(B, -1, -1, -1), k], 2)
            v = torch.cat([past[1].expand(B, -1, -1, -1), v], 2)
        k, v = k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)
        if p == 0:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = torch.ones(T, p + T, dtype=torch.bool).tril(p)
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.o(o.transpose(1, 2).reshape(B, T, H * D))
        h = self.n2(x)
        return x + self.d(F.silu(self.g(h)) * self.u(h))


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(V, C)
        self.b = nn.ModuleList(Block() for _ in range(L))
        self.n = RMS(C)
        informed_start(self)

    def trunk(self, t, pos=None, past=None, keep=None):
        if pos is None:
            pos = torch.arange(t.shape[1])
        x = self.e(t)
        for i, b in enumerate(self.b):
            x = b(x, pos, None if past is None else past[i], keep)
        return x

    def head(self, x):
        return F.linear(self.n(x), self.e.weight)

    def forward(self, t, pos=None, past=None, keep=None):
        return self.head(self.trunk(t, pos, past, keep))


# ------------------------------------------------------------------ the informed start
# Residual layout: 0 constant | 1-8 relation | 9-31 name | 32 is-a-value | 33-63 word | 64-71, 72-94 relation and name
# one back | 95-117 name two back | the rest is free.
CONST, REL_OWN, NAME_OWN, IS_VALUE, WORD = 0, 1, 9, 32, 33
REL_BACK1, NAME_BACK1, NAME_BACK2 = 64, 72, 95
REL_DIMS, NAME_DIMS, WORD_DIMS = 8, 23, 31
name_own, word = slice(NAME_OWN, NAME_OWN + NAME_DIMS), slice(WORD, WORD + WORD_DIMS)
# RoPE pairs i and i + D/2: looking k back uses the quickly turning ones, matching only the slowly turning half.
QUICK = torch.arange(8)
SLOW = list(range(D // 4, D // 2)) + list(range(D // 2 + D // 4, D))


def unit(n, d):
    return F.normalize(torch.randn(n, d), dim=-1)


def spread_codes(n, d):
    code = unit(n, d)
    for _ in range(300):
        g = code @ code.T - torch.eye(n)
        code = F.normalize(code - 0.1 * (g.clamp(min=0) ** 3 * 20) @ code, dim=-1)
    return code


def start_embedding(E):
    E.zero_()
    E[:, CONST] = -2.0
    E[:, word] = unit(V, WORD_DIMS)
    used = [IM_S, IM_E, NL, DOT, Q, WHAT, SYS, USR, ASS]
    E[used, CONST] = 2.0
    E[used, word] = 8 * unit(len(used), WORD_DIMS)
    E[NAME] = 0
    E[NAME, CONST] = 2.0
    E[NAME, name_own] = 8 * spread_codes(len(NAMES), NAME_DIMS)
    for r in range(len(RELS)):
        E[REL[r]] = 0
        E[REL[r], CONST] = 2.0
        E[REL[r], REL_OWN + r] = 8.0
        E[VAL[r]] = 0
        E[VAL[r], CONST] = 2.0
        E[VAL[r], REL_OWN + r] = 4.0
        E[VAL[r], IS_VALUE] = 4.0
        E[VAL[r], word] = 5.66 * unit(len(VAL[r]), WORD_DIMS)


def q_rows(b, head):
    return b.q.weight[head * D : (head + 1) * D]


def k_rows(b, group):
    return b.k.weight[group * D : (group + 1) * D]


def o_columns(b, head):
    return b.o.weight[:, head * D : (head + 1) * D]


def look_back(b, head, group, back, strength):
    """The head attends exactly `back` tokens back: RoPE phases on the constant dimension."""
    q, k = q_rows(b, head), k_rows(b, group)
    q.zero_()
    k.zero_()
    q[QUICK, CONST] = strength * (back * FREQ[QUICK]).cos()
    q[QUICK + D // 2, CONST] = -strength * (back * FREQ[QUICK]).sin()
    k[QUICK, CONST] = strength


def value_own(b, group):
    """Values carry the token's own dimensions 0 to 63."""
    v = b.v.weight[group * D : (group + 1) * D]
    v.zero_()
    v.fill_diagonal_(1.0)


def match(b, head, group):
    """(own relation, name one back) against (relation one back, name two back), among value tokens."""
    q, k, o = q_rows(b, head), k_rows(b, group), o_columns(b, head)
    q.zero_()
    k.zero_()
    for i in range(REL_DIMS):
        q[SLOW[i], REL_OWN + i] = 1.3
        k[SLOW[i], REL_BACK1 + i] = 1.3
    for i in range(NAME_DIMS):
        q[SLOW[REL_DIMS + i], NAME_BACK1 + i] = 1.55
        k[SLOW[REL_DIMS + i], NAME_BACK2 + i] = 1.55
    q[SLOW[31], CONST] = 3.0
    k[SLOW[31], IS_VALUE] = 3.0
    value_own(b, group)
    o[range(1, 64), range(1, 64)] = 0.8


def start_answering(m):
    """At the relation word of the answer (" Ada drinks" -> ?) the value whose two tokens before are "drinks" and
    "Ada": layer 0 notes what stands one and two back, layers 1 and 2 match; before that, a head of layer 2 repeats
    name and relation from the question, 7 back."""
    first, second, third = m.b
    value_own(first, 0)
    look_back(first, 0, 0, 1, 4.0)
    look_back(first, 1, 0, 2, 4.0)
    for i in range(REL_DIMS + NAME_DIMS):
        first.o.weight[REL_BACK1 + i, REL_OWN + i] = 0.5
    for i in range(NAME_DIMS):
        first.o.weight[NAME_BACK2 + i, D + NAME_OWN + i] = 0.5
    match(second, 0, 0)
    match(second, 2, 1)
    match(third, 0, 0)
    value_own(third, 1)
    look_back(third, 2, 1, 7, 6.0)
    for i in range(1, 32):
        third.o.weight[i, 2 * D + i] = 1.5


def start_asking(m):
    """For " Ada what?" -> " Ada drinks?": a head of layer 2 gathers the relations that follow the name in the
    context; a head of layer 0 looks 8 back and turns "what" there into "?" here, else the value would follow."""
    first, _, third = m.b
    q, k, o = q_rows(third, 3), k_rows(third, 1), o_columns(third, 3)
    q.zero_()
    for i in range(NAME_DIMS):
        q[SLOW[REL_DIMS + i], NAME_OWN + i] = 1.7
        k[SLOW[REL_DIMS + i], NAME_BACK1 + i] = 1.7
    for i in range(REL_OWN, REL_OWN + REL_DIMS):
        o[i, i] = 1.0
    value_own(first, 1)
    look_back(first, 2, 1, 8, 4.0)
    E = m.e.weight
    o_columns(first, 2)[word, word] = 1.5 * torch.outer(E[Q, word], E[WHAT, word]) / 64


@torch.no_grad()
def informed_start(m):
    """Start near the lookup circuit instead of waiting for it to appear. What it does not set starts random (inputs)
    or zero (outputs); all weights are trained."""
    start_embedding(m.e.weight)
    for b in m.b:
        for linear in (b.q, b.k, b.v, b.g, b.u):
            linear.weight.normal_(std=C**-0.5)
        b.o.weight.zero_()
        b.d.weight.zero_()
    m.n.weight.fill_(0.12)
    start_answering(m)
    start_asking(m)


# ------------------------------------------------------------------ training sequences
def conversation(facts, nq, ask, rng):
    """Tokens, and the weight of predicting each: a system turn with the facts, then nq turns about different
    facts."""
    t = system_turn(facts)
    w = [0.0] * len(t)
    todo = []
    for _ in range(nq):
        if not todo:
            todo = rng.sample(facts, len(facts))
        e, r, v = todo.pop()
        if rng.random() < ask:
            t += topic(e) + [NAME[e], REL[r], Q, IM_E, NL]
            w += [0.0] * 11 + [0.2, 0.4, 0.2, 0.1, 0.0]
        else:
            t += question(e, r) + fact_tokens((e, r, v)) + [IM_E, NL]
            w += [0.0] * 11 + [0.2, 0.2, 1.0, 0.1, 0.1, 0.0]
    return t, w


# ------------------------------------------------------------------ measurement
@torch.no_grad()
def prefill(m, tokens):
    keep = []
    m.trunk(torch.tensor([tokens]), keep=keep)
    return keep


@torch.no_grad()
def complete(m, kv, rows, n, start=None, temperature=0.0, gen=None):
    """n tokens after each row (rows of equal length), with kv before them; returns rows + what was said."""
    rows = [list(r) for r in rows]
    p = 0 if kv is None else kv[0][0].shape[2]
    if start is None:
        start = p
    for _ in range(n):
        x = torch.tensor(rows)
        lo = m.head(m.trunk(x, torch.arange(start, start + x.shape[1]), kv)[:, -1])
        if temperature == 0:
            nx = lo.argmax(-1)
        else:
            nx = torch.multinomial((lo / temperature).softmax(-1), 1, generator=gen)[:, 0]
        for r, a in zip(rows, nx.tolist()):
            r.append(a)
    return rows


def accuracy(m, kv, facts, start=None):
    """share of questions whose whole greedy answer (" Ada drinks tea.<|im_end|>") is right"""
    out = []
    for i in range(0, len(facts), 64):
        out += complete(m, kv, [question(e, r) for e, r, _ in facts[i : i + 64]], 5, start)
    return sum(o[11:] == fact_tokens(f) + [IM_E] for o, f in zip(out, facts)) / len(facts)


def ask_valid(m, kv, facts, n=64, gen=None):
    """share of questions sampled at temperature 1 that are about a fact in the context"""
    have = {(NAME[e], REL[r]) for e, r, _ in facts}
    out = complete(m, kv, [topic(facts[i % len(facts)][0]) for i in range(n)], 3, temperature=1.0, gen=gen)
    return sum((o[11], o[12]) in have and o[13] == Q for o in out) / n


TESTS = [(8, 1), (8, 8), (32, 1), (32, 8), (64, 1), (64, 2), (64, 4), (64, 8)]
TESTS += [(128, 2), (128, 8), (192, 4), (192, 8), (256, 8), (512, 8)]


def table(m, tests, worlds, seed=12345):
    rows = []
    for nf, nrel in tests:
        rng = random.Random(seed + nf * 10 + nrel)
        gen = torch.Generator().manual_seed(seed)
        right, asked = [], []
        for _ in range(worlds):
            facts = world(nf, nrel, rng)
            kv = prefill(m, system_turn(facts))
            right.append(accuracy(m, kv, facts))
            asked.append(ask_valid(m, kv, facts, gen=gen))
        rows.append((nf, nrel, nf * 4 + 5, sum(right) / worlds, sum(asked) / worlds))
    return rows


# ------------------------------------------------------------------ export
def weights(m):
    t = {"model.embed_tokens.weight": m.e.weight, "model.norm.weight": m.n.weight}
    for i, b in enumerate(m.b):
        p = f"model.layers.{i}."
        t |= {p + "input_layernorm.weight": b.n1.weight, p + "post_attention_layernorm.weight": b.n2.weight}
        for a in "qkvo":
            t[p + f"self_attn.{a}_proj.weight"] = getattr(b, a).weight
        for a, n in (("g", "gate"), ("u", "up"), ("d", "down")):
            t[p + f"mlp.{n}_proj.weight"] = getattr(b, a).weight
    return {k: v.detach().to(torch.bfloat16).contiguous() for k, v in t.items()}


CONFIG = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    vocab_size=V,
    hidden_size=C,
    intermediate_size=FF,
    num_hidden_layers=L,
    num_attention_heads=H,
    num_key_value_heads=G,
    head_dim=D,
    hidden_act="silu",
    rope_theta=THETA,
    rms_norm_eps=EPS,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    attention_bias=False,
    mlp_bias=False,
    bos_token_id=None,
    eos_token_id=IM_E,
    pad_token_id=0,
    torch_dtype="bfloat16",
)
TOKENIZER_CONFIG = dict(
    tokenizer_class="PreTrainedTokenizerFast",
    model_max_length=4096,
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
    clean_up_tokenization_spaces=False,
    add_bos_token=False,
    chat_template=CHAT_TEMPLATE,
)


def export(m, out):
    from safetensors.torch import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    os.makedirs(out, exist_ok=True)
    save_file(weights(m), f"{out}/model.safetensors", {"format": "pt"})
    generation = dict(eos_token_id=IM_E, pad_token_id=0, do_sample=False)
    named = ("config", CONFIG), ("generation_config", generation), ("tokenizer_config", TOKENIZER_CONFIG)
    for name, value in named:
        with open(f"{out}/{name}.json", "w") as f:
            json.dump(value, f, indent=1)
    tk = Tokenizer(models.BPE(vocab=VOCAB, merges=MERGES))
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tk.decoder = decoders.ByteLevel()
    tk.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tk.save(f"{out}/tokenizer.json")


# ------------------------------------------------------------------ training
TURNS, ASK_SHARE, TOKENS_PER_STEP, FACTS_MAX = 16, 0.25, 4096, 192


def sequences(facts_max, rng):
    """One step's token rows, padded, the weights of predicting them, and how many relations they are about."""
    nf = rng.choice([max(4, facts_max // 4), max(4, facts_max // 2), facts_max, facts_max])
    nrel = rng.choice([k for k in (1, 2, 4, 8, 8) if nf <= k * len(NAMES)])
    B = max(2, TOKENS_PER_STEP // (nf * 4 + TURNS * 16))
    sparse = rng.random() < 0.5
    rows = [conversation(world(nf, nrel, rng, sparse=sparse), TURNS, ASK_SHARE, rng) for _ in range(B)]
    T = max(len(t) for t, _ in rows)
    x = torch.tensor([t + [NL] * (T - len(t)) for t, _ in rows])
    w = torch.tensor([u + [0.0] * (T - len(u)) for _, u in rows])
    return x, w, nrel


def losses(m, x, w):
    """Of every weighted token: loss, weight, whether the likeliest token was right."""
    chosen = w[:, 1:] > 0
    lo = m.head(m.trunk(x[:, :-1])[chosen])
    target = x[:, 1:][chosen]
    return F.cross_entropy(lo, target, reduction="none"), w[:, 1:][chosen], lo.argmax(-1) == target


def rate(step, steps):
    """30 steps of warm-up, level for half of the run, then straight down to 2 %."""
    done = step / steps
    return min(1, (step + 1) / 30) * (1 if done < 0.5 else max(0.02, (1 - done) / 0.5))


def train(m, steps, lr, rng):
    opt = torch.optim.AdamW(m.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    t0, facts_max, seen = time.time(), 16, {}
    for step in range(1, steps + 1):
        x, w, nrel = sequences(facts_max, rng)
        each, weight, right = losses(m, x, w)
        loss = (each * weight).sum() / weight.sum()
        m.zero_grad()
        loss.backward()
        for group in opt.param_groups:
            group["lr"] = lr * rate(step - 1, steps)
        opt.step()
        values = weight == 1
        seen[nrel] = 0.9 * seen.get(nrel, 0.5) + 0.1 * right[values].float().mean().item()
        if len(seen) == 4 and min(seen.values()) > 0.93 and facts_max < FACTS_MAX:
            facts_max, seen = min(FACTS_MAX, facts_max * 2), {k: 0.7 for k in seen}
        if step % 20 == 0:
            of_values = each[values].mean().item()
            print(f"{time.time() - t0:.0f}s step {step} facts<={facts_max} T {x.shape[1]}", end=" ")
            print(f"loss {loss.item():.3f} value loss {of_values:.3f} acc", end=" ")
            print(*(f"{k}:{v:.2f}" for k, v in sorted(seen.items())), flush=True)
        if step % 100 == 0:
            tests = table(m, [(64, 1), (64, 8), (192, 8)], 1)
            print("   test", [(r[0], r[1], round(r[3], 3), round(r[4], 2)) for r in tests], flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--steps", type=int, default=360)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--lr", type=float, default=2e-3)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    m = LM()
    print("parameters", sum(p.numel() for p in m.parameters()), "vocabulary", V, flush=True)
    train(m, a.steps, a.lr, random.Random(a.seed))
    export(m, a.out)
    print("saved", flush=True)
    print("facts relations tokens accuracy ask-valid")
    for t in TESTS:
        print("%5d %9d %6d %8.3f %9.3f" % table(m, [t], 4 if t[0] <= 192 else 1)[0], flush=True)


if __name__ == "__main__":
    main()
