"""with_torch.py -- the peers that run on PyTorch: loops over transformers as one would write them who wants
speed, and PEFT's published recipe.

Tuned means: weights without gradients; only supervised rows meet the vocabulary; the prefix is expanded, not
copied, until the library's cache copies it; conversations are padded at the right, so that no mask is needed
beside the causal one; as many conversations at once, and the kind of cache, that are fastest (the caller
tries); one thread per core.
"""
import json
import sys
import time

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

BETAS, EPS, CLIP, TOPK = (0.9, 0.99), 1e-8, 1.0, 20


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def file_rows(path):
    """[2L,G,P,D] f32 of a cartridge file: keys of layer l at 2l, values at 2l+1."""
    with safe_open(path, "pt") as f:
        names = [f"layer.{i}.{kv}" for i in range(len(f.keys()) // 2) for kv in ("key", "value")]
        return torch.stack([f.get_tensor(name).float() for name in names])


def cache_of(rows, batch):
    cache = DynamicCache()
    for i in range(len(rows) // 2):
        k, v = rows[2 * i][None], rows[2 * i + 1][None]
        cache.update(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1), i)
    return cache


def rows_of(cache):
    return torch.stack([t[0] for layer in cache.layers for t in (layer.keys, layer.values)])


def padded(lists):
    longest = max(map(len, lists))
    return torch.tensor([ids + [0] * (longest - len(ids)) for ids in lists])


# ---- training ----


class Targets:
    """The teacher's candidates of some conversations, as rectangles: a weight of 0 is no candidate."""

    def __init__(self, conversations):
        rows, ids, logprobs = [], [], []
        for b, c in enumerate(conversations):
            for j, at in enumerate(c["at"]):
                rows.append((b, at - 1))
                ids.append(c["id"][c["first"][j] : c["first"][j + 1]])
                logprobs.append(c["logprob"][c["first"][j] : c["first"][j + 1]])
        self.row, self.column = torch.tensor(rows).unbind(1)
        self.id = padded(ids)
        longest = self.id.shape[1]
        self.weight = torch.tensor([p + [-1e9] * (longest - len(p)) for p in logprobs]).exp()

    def loss(self, logits):
        student = logits.gather(1, self.id) - logits.logsumexp(1, keepdim=True)
        return -(self.weight * student).sum()


class Training:
    """A step over all conversations of a job, `batch` at a time; the model's part of it compiled, or not."""

    def __init__(self, job, batch, model=None, compiled=False):
        self.model = model or load(job["model"])
        self.rows, self.lr = file_rows(job["cartridge"]), job["lr"]
        self.sink, self.learned = self.rows[:, :, :1], torch.nn.Parameter(self.rows[:, :, 1:].clone())
        self.again()
        all_of = job["conversations"]
        self.parts = [all_of[i : i + batch] for i in range(0, len(all_of), batch)]
        self.parts = [(padded([c["token"] for c in part]), Targets(part)) for part in self.parts]
        self.supervised = sum(len(c["at"]) for c in all_of)
        self.tokens = sum(len(c["token"]) for c in all_of)
        self.forward = torch.compile(self.hidden, dynamic=False) if compiled else self.hidden

    def again(self):
        """Back to before the first step."""
        self.learned.data.copy_(self.rows[:, :, 1:])
        self.adam = torch.optim.Adam([self.learned], lr=self.lr, betas=BETAS, eps=EPS)

    def hidden(self, ids, rows):
        return self.model.model(ids, past_key_values=cache_of(rows, len(ids))).last_hidden_state

    def part(self, ids, targets):
        hidden = self.forward(ids, torch.cat([self.sink, self.learned], 2))
        return targets.loss(self.model.lm_head(hidden[targets.row, targets.column])) / self.supervised

    def repeat(self):
        start, total = time.perf_counter(), 0.0
        self.adam.zero_grad()
        for ids, targets in self.parts:
            loss = self.part(ids, targets)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_([self.learned], CLIP).item()
        self.adam.step()
        return {"seconds": time.perf_counter() - start, "rows": self.tokens, "loss": total, "grad_norm": norm}


class Recipe:
    """PEFT's published recipe: the teacher reads document and conversation in every step, teacher and student
    make logits of all their rows, all of a conversation is learned, one conversation at a time; here with one
    update for all of them, as in the step it is compared with."""

    def __init__(self, job, document):
        from peft import CartridgeConfig, get_peft_model

        self.teacher, self.document = load(job["model"]), document
        rows = file_rows(job["cartridge"])
        config = CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=rows.shape[2], num_frozen_tokens=1)
        self.student = get_peft_model(load(job["model"]), config)
        self.student.prompt_encoder["default"].load_prompt_embeddings(rows.permute(2, 0, 1, 3).flatten(1))
        learned = [p for p in self.student.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(learned, lr=job["lr"])
        self.conversations = job["conversations"]
        self.tokens = sum(len(c["token"]) for c in self.conversations)

    def student_logits(self, ids):
        return self.student(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits

    @torch.no_grad()
    def cached_loss(self):
        """The loss of the cached teacher, to be held against the other side's."""
        total, n = 0.0, 0
        for c in self.conversations:
            logits, targets = self.student_logits(torch.tensor([c["token"]])), Targets([c])
            total += targets.loss(logits[targets.row, targets.column]).item()
            n += len(c["at"])
        return total / n

    def one(self, tokens):
        ids, d = torch.tensor([tokens]), len(self.document)
        with torch.no_grad():
            teacher = self.teacher(torch.tensor([self.document + tokens]), use_cache=False).logits[0, d : -1]
        student = self.student_logits(ids)[0, :-1]
        best, id = teacher.topk(TOPK)
        weight = (best - teacher.logsumexp(1, keepdim=True)).exp()
        return -(weight * student.log_softmax(1).gather(1, id)).sum(1).mean()

    def repeat(self):
        start = time.perf_counter()
        self.adam.zero_grad()
        for c in self.conversations:
            (self.one(c["token"]) / len(self.conversations)).backward()
        self.adam.step()
        return {"seconds": time.perf_counter() - start, "rows": self.tokens}


# ---- decoding ----


@torch.no_grad()
def chunk_rows(model, ids):
    return rows_of(model.model(torch.tensor([ids]), use_cache=True).past_key_values)


def logits_of(model):
    """The logits of the last row of each user."""

    def forward(ids, mask, position, cache):
        out = model.model(ids, attention_mask=mask, position_ids=position, past_key_values=cache,
                          use_cache=True)
        return model.lm_head(out.last_hidden_state[:, -1])

    return forward


class Talk:
    """Users in one batch behind one prefix, prompts padded at the left; greedy. `step` takes a token of each
    and may have been compiled. A fixed cache has its mask from the start, as large as itself."""

    def __init__(self, model, rows, users, room, static, step=None):
        self.start, self.static, self.room = rows.shape[2], static, room
        self.first, self.next = logits_of(model), step or logits_of(model)
        self.cache = cache_of(rows, users)
        if static:
            fixed = StaticCache(config=model.config, max_cache_len=self.start + room)
            for i, layer in enumerate(self.cache.layers):
                fixed.update(layer.keys.contiguous(), layer.values.contiguous(), i)
            self.cache = fixed

    def prompt(self, lists):
        longest = max(map(len, lists))
        pad = torch.tensor([longest - len(ids) for ids in lists])
        ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids in lists])
        own = torch.arange(longest)[None] >= pad[:, None]
        rows = self.start + (self.room if self.static else longest)
        self.mask = torch.ones(len(lists), rows, dtype=torch.bool)
        self.mask[:, self.start : self.start + longest] = own
        self.plain = not pad.any() # nothing is padded: no mask is needed
        self.position = self.start + (torch.arange(longest)[None] - pad[:, None]).clamp(min=0)
        return self.step(ids, self.first)

    def step(self, ids, forward=None):
        mask = None if self.plain else self.mask
        logits = (forward or self.next)(ids, mask, self.position, self.cache)
        if not self.static:
            self.mask = torch.cat([self.mask, torch.ones(len(ids), 1, dtype=torch.bool)], 1)
        self.position = self.position[:, -1:] + 1
        return logits

    def rewind(self):
        """A fixed cache back to its prefix; what stands behind is written over before it is seen."""
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.start)


class Decoding:
    """Compiled with the weights as constants; the library takes the cache for one, too: there is only one."""

    def __init__(self, job, static, model=None, compiled=False):
        self.model, self.job, self.static = model or load(job["model"]), job, static
        filed = job.get("cartridge")
        self.rows = file_rows(filed) if filed else chunk_rows(self.model, job["document"])
        self.talk, self.next = None, logits_of(self.model)
        if compiled:
            self.next = torch.compile(self.next, dynamic=False, options={"freezing": True})

    def begin(self):
        prompts = self.job["prompts"]
        if self.talk and self.static:
            self.talk.rewind()
        else:
            room = max(map(len, prompts)) + self.job["new"]
            self.talk = Talk(self.model, self.rows, len(prompts), room, self.static, self.next)
        return self.talk

    @torch.no_grad()
    def repeat(self):
        prompts, new, talk = self.job["prompts"], self.job["new"], self.begin()
        said = [talk.prompt(prompts).argmax(1)]
        start = time.perf_counter()
        for _ in range(new - 1):
            said.append(talk.step(said[-1][:, None]).argmax(1))
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": len(prompts) * (new - 1), "said": torch.stack(said, 1).tolist()}


# ---- self-study ----


class Studying:
    """A chunk read once; its cache expanded over the batch for questions, and again for answers."""

    def __init__(self, job, static, model=None):
        self.model, self.job, self.static = model or load(job["model"]), job, static

    def talk(self, rows, prompts, most, candidates):
        stop = torch.tensor(self.job["stop"])
        talk = Talk(self.model, rows, len(prompts), max(map(len, prompts)) + most, self.static)
        said, kept, over = [], [], torch.zeros(len(prompts), dtype=torch.bool)
        logits = talk.prompt(prompts)
        while True:
            id = logits.argmax(1)
            if candidates:
                best = logits.topk(TOPK)
                kept.append((best.indices, best.values - logits.logsumexp(1, keepdim=True)))
            said.append(id)
            over |= torch.isin(id, stop)
            if over.all() or len(said) == most:
                break
            logits = talk.step(id[:, None])
        return [until(ids, self.job["stop"]) for ids in torch.stack(said, 1).tolist()]

    @torch.no_grad()
    def repeat(self):
        job, start = self.job, time.perf_counter()
        rows = chunk_rows(self.model, job["chunk"])
        questions = self.talk(rows, job["prompts"], job["question_max"], False)
        bare = [q[:-1] if q[-1] in job["stop"] else q for q in questions]
        turns = [job["before"] + q + job["between"] for q in bare]
        answers = self.talk(rows, turns, job["answer_max"], True)
        return {"seconds": time.perf_counter() - start, "conversations": len(turns), "questions": questions,
                "answers": answers}


def until(ids, stop):
    ends = [i for i, id in enumerate(ids) if id in stop]
    return ids[: ends[0] + 1] if ends else ids


def peak_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))


def main(path, batch, threads):
    """The most memory of two steps of training, in a process of its own."""
    torch.set_num_threads(int(threads))
    training = Training(json.load(open(path)), int(batch))
    loaded = peak_kib()
    for _ in range(2):
        training.repeat()
    print(json.dumps({"loaded_kib": loaded, "peak_kib": peak_kib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
