"""compare.py -- the program and its peers in turn, on the same inputs and the same machine.

  python bench/peers/compare.py --build build/release -m models/smollm2-135m-instruct --work DIR
         [--only NAME,...] [--repeats N] [--threads N] [--quick] [--curves] [--out bench/results/peers.json]

Each comparison opens both sides, lets each run once (untimed; the results are compared there: a speed counts
only where both computed the same), then lets them take turns. A ratio is one turn of ours against the peer's
turn beside it; what is printed are medians and, in brackets, the least and the most.
"""
import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time

PATIENCE = 60  # seconds of turns after which three are enough
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)


def options():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--build", required=True)
    a.add_argument("-m", "--model", required=True)
    a.add_argument("--text", default=os.path.join(HERE, "../../tools/demo/harbour.txt"))
    a.add_argument("--work", required=True, help="folder for jobs, rows and conversations; may be kept")
    a.add_argument("--only", default="")
    a.add_argument("--repeats", type=int, default=5)
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--quick", action="store_true", help="few tokens and one repeat: do the scripts work?")
    a.add_argument("--curves", action="store_true", help="time against users, rows, a document's length")
    a.add_argument("--out")
    args = a.parse_args()
    args.drive = os.path.join(args.build, "bench/peers_drive")
    args.cartridge = os.path.join(args.build, "bin/cartridge")
    args.repeats = 1 if args.quick else args.repeats
    return args


args = options()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
import torch # after the variable: it reads it once

import jobs
import transformers
import with_torch

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

torch.set_num_threads(args.threads)
make = jobs.Maker(args)
results, about = [], {}


class Ours:
    """peers_drive, kept open: a line asks for a repetition, a line answers."""

    def __init__(self, mode, job):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([args.drive, mode, job], stdin=pipe, stdout=pipe, text=True)
        about["engine"] = self.read()["machine"]

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{args.drive} ended with {self.process.wait()}")
        return json.loads(line)

    def repeat(self, users=""):
        self.process.stdin.write(f"{users}\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        peak = self.read()["peak_kib"]
        self.process.wait()
        return peak


class Some:
    """Some of a job's users."""

    def __init__(self, ours, users):
        self.ours, self.users = ours, users

    def repeat(self):
        return self.ours.repeat(self.users)


def say(*words):
    print(*words, flush=True)


def spread(values, digits=3):
    return f"{statistics.median(values):.{digits}g} [{min(values):.{digits}g}, {max(values):.{digits}g}]"


def in_turns(sides, repeats, least=3):
    """[{side: result}]; who is first changes from turn to turn. Ends early when the turns take long."""
    turns, start = [], time.perf_counter()
    for i in range(repeats):
        if i >= least and time.perf_counter() - start > PATIENCE:
            break
        turn = {}
        for name in list(sides)[:: -1 if i % 2 else 1]:
            turn[name] = sides[name].repeat()
        turns.append(turn)
    return turns


def record(name, unit, speeds, agreement, holds, bar=None, **more):
    """speeds: {side: [per turn]}, more is better; the first side is ours."""
    ours, *peers = speeds
    entry = {"name": name, "unit": unit, "speeds": speeds, "agreement": agreement, "agrees": holds, **more}
    say(f"{name}: {'same results' if holds else 'RESULTS DIFFER'} ({agreement})")
    for side, values in speeds.items():
        say(f"    {side:24} {spread(values)} {unit}")
    entry["ratios"] = {p: [a / b for a, b in zip(speeds[ours], speeds[p])] for p in peers}
    for p, ratios in entry["ratios"].items():
        wanted = (bar or {}).get(p)
        say(f"    against {p:16} {spread(ratios)}" + (f", wanted {wanted}" if wanted else ""))
    entry["bars"] = bar or {}
    results.append(entry)


def per_second(turns, key):
    return {side: [t[side][key] / t[side]["seconds"] for t in turns] for side in turns[0]}


def fastest(candidates):
    """Of some ways to do the peer's work the one with the fastest turn of two (in the first a compiler may
    work): itself, its name, {name: s}."""
    times, best = {}, None
    for way, make_it in list(candidates.items())[: 1 if args.quick else None]:
        it = make_it()
        for _ in range(1 if args.quick else 2):
            last = it.repeat()["seconds"]
            times[way] = min(times.get(way, last), last)
        if times[way] == min(times.values()):
            best = it, way
        del it
        gc.collect()
    say(f"    the peer's ways, seconds: {', '.join(f'{w}: {t:.3g}' for w, t in times.items())}")
    return *best, times


# ---- training ----


def same_step(a, b):
    loss, norm = abs(a["loss"] / b["loss"] - 1), abs(a["grad_norm"] / b["grad_norm"] - 1)
    words = "loss {:.6f} and {:.6f}, gradient norm {:.5f} and {:.5f}"
    words = words.format(a["loss"], b["loss"], a["grad_norm"], b["grad_norm"])
    return words, loss < 1e-3 and norm < 1e-2


def ways_to_train(job, model):
    """How many conversations at once, and compiled or not; compiling takes a minute and is tried for one."""
    tried = (16, False), (8, False), (4, False), (8, True)
    return {f"batch {b}{', compiled' * c}": lambda b=b, c=c: with_torch.Training(job, b, model, c)
            for b, c in tried}


def train(name, conversations, rows, bar, way=None, turns=args.repeats, **more):
    path = make.train(name.replace(" ", "-"), conversations, rows)
    job, model = json.load(open(path)), with_torch.load(args.model)
    ways = ways_to_train(job, model)
    if way:
        peer, times = ways[way](), {}
    else:
        peer, way, times = fastest(ways)
        peer.again()
    sides = {"cartridge": Ours("train", path), "transformers": peer}
    words, holds = same_step(*in_turns(sides, 1)[0].values())
    turns = in_turns(sides, turns)
    longest, tokens = max(len(c["token"]) for c in conversations), sum(len(c["token"]) for c in conversations)
    record(name, "tokens/s", per_second(turns, "rows"), words, holds, {"transformers": bar}, rows=rows,
           tokens=tokens, longest=longest, padding=1 - tokens / longest / len(conversations), peer_ways=times,
           peer_way=way, **more)
    sides["cartridge"].close()


def train_padded():
    train("training, padded", make.real(), 128, 1.3)


def train_equal():
    train("training, equal lengths", make.equal(), 128, 1.0)


def train_recipe():
    path = make.train("recipe", make.real()[: 1 if args.quick else None], 128)
    document = make.ids(jobs.SYSTEM + make.text + jobs.END)
    peer = with_torch.Recipe(json.load(open(path)), document)
    sides = {"cartridge": Ours("train", path), "PEFT": peer}
    first, cached = sides["cartridge"].repeat(), peer.cached_loss()
    turns = in_turns(sides, args.repeats, least=2)
    words = f"loss to the cached teacher {first['loss']:.6f} and {cached:.6f}"
    record("training, PEFT's recipe", "tokens/s", per_second(turns, "rows"), words,
           abs(first["loss"] / cached - 1) < 1e-3, {"PEFT": 4.0}, document=len(document), rows=128)
    sides["cartridge"].close()


def memory_of(kind, conversations):
    path = make.train("memory-" + kind.replace(" ", "-"), conversations, 128)
    entry = {"name": f"peak memory of training, {kind}", "unit": "MiB", "rows": 128, "peers": {}}
    ours = Ours("train", path)
    for _ in range(2):
        ours.repeat()
    entry["cartridge"] = ours.close() / 1024
    say(f"{entry['name']}: cartridge {entry['cartridge']:.0f} MiB")
    for batch in (16, 8, 4):
        command = [sys.executable, os.path.join(HERE, "with_torch.py"), path, str(batch), str(args.threads)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peer = {k[:-4]: v / 1024 for k, v in json.loads(out).items()}
        entry["peers"][f"transformers, batch {batch}"] = peer
        say(f"    transformers, batch {batch:2}: {peer['peak']:.0f} MiB ({peer['loaded']:.0f} when loaded), "
            f"ours is {entry['cartridge'] / peer['peak']:.2f} of it, wanted 0.5")
    results.append(entry)


def memory():
    memory_of("padded", make.real())
    memory_of("equal lengths", make.equal())


# ---- decoding ----


def same_tokens(a, b, least=0.8):
    """How many tokens there are before each user's first difference: wanted is this share of all."""
    same = [len(os.path.commonprefix([u, v])) for u, v in zip(a, b)]
    whole = sum(n == len(u) == len(v) for n, u, v in zip(same, a, b))
    tokens = sum(map(len, a))
    words = f"{whole} of {len(a)} texts are equal, {sum(same)} of {tokens} tokens stand before a difference"
    return words, sum(same) >= least * tokens


def decode_job(users, document=None, cartridge=None, new=None, private=False):
    kind = f"{'private' * private}document{document}" if document else f"cartridge{cartridge}"
    new = new or (8 if args.quick else 64 if users == 1 else 32)
    return make.decode(f"decode-{users}-{kind}", users, new, document, cartridge, private)


def decode(name, users, bar, document=None, cartridge=None):
    path, model = decode_job(users, document, cartridge), with_torch.load(args.model)
    job = json.load(open(path))
    ways = {"growing cache": lambda: with_torch.Decoding(job, False, model),
            "fixed cache": lambda: with_torch.Decoding(job, True, model),
            "fixed cache, compiled": lambda: with_torch.Decoding(job, True, model, True)}
    peer, way, times = fastest(ways)
    sides = {"cartridge": Ours("decode", path), "transformers": peer}
    first = in_turns(sides, 1)[0]
    words, holds = same_tokens(first["cartridge"]["said"], first["transformers"]["said"])
    turns = in_turns(sides, args.repeats)
    record(name, "tokens/s", per_second(turns, "tokens"), words, holds, {"transformers": bar}, users=users,
           document=document, cartridge=cartridge, peer_way=way, peer_ways=times)
    sides["cartridge"].close()


def decode_one():
    decode("decoding, 1 user, document of 1,024", 1, 2.0, document=1024)


def decode_llama():
    import with_llama

    path = decode_job(1, document=1024)
    peer = with_llama.Decoding(json.load(open(path)), make.path("model-bf16.gguf"), args.threads)
    sides = {"cartridge": Ours("decode", path), "llama.cpp": peer}
    first = in_turns(sides, 1)[0]
    words, holds = same_tokens(first["cartridge"]["said"], first["llama.cpp"]["said"], 0.1)
    turns = in_turns(sides, args.repeats)
    record("decoding, 1 user, document of 1,024, llama.cpp", "tokens/s", per_second(turns, "tokens"), words,
           holds, {"llama.cpp": 1.0}, users=1, document=1024, peer_version=peer.version,
           peer_system=peer.system)
    sides["cartridge"].close()


def decode_shared():
    decode("decoding, 16 users, document of 1,024", 16, 4.0, document=1024)


def decode_cartridge():
    decode("decoding, 16 users, cartridge of 128", 16, 4.0, cartridge=128)


def decode_ours():
    sides = {"cartridge of 128": Ours("decode", decode_job(16, cartridge=128)),
             "document of 1,024": Ours("decode", decode_job(16, document=1024))}
    in_turns(sides, 1)
    turns = in_turns(sides, args.repeats)
    record("decoding, 16 users, cartridge against the shared document", "tokens/s",
           per_second(turns, "tokens"), "both are ours", True, {"document of 1,024": 1.5}, users=16)
    for side in sides.values():
        side.close()


# ---- self-study ----


def study():
    path, model = make.self_study("study", 500), with_torch.load(args.model)
    job = json.load(open(path))
    if args.quick:
        job.update(question_max=6, answer_max=6, prompts=job["prompts"][:3])
        json.dump(job, open(path, "w"))
    ways = {"growing cache": lambda: with_torch.Studying(job, False, model),
            "fixed cache": lambda: with_torch.Studying(job, True, model)}
    peer, way, times = fastest(ways)
    sides = {"cartridge": Ours("study", path), "transformers": peer}
    first = in_turns(sides, 1)[0]
    a, b = first.values()
    words, holds = same_tokens(a["questions"] + a["answers"], b["questions"] + b["answers"])
    turns = in_turns(sides, args.repeats)
    record("self-study, 16 conversations on one chunk of 500", "conversations/s",
           per_second(turns, "conversations"), words, holds, {"transformers": 3.0}, chunk=500,
           tokens=sum(map(len, a["questions"] + a["answers"])), peer_way=way, peer_ways=times)
    sides["cartridge"].close()


# ---- curves ----


def points(curve, sides, users, **at):
    """A point for each number of users; `at`: where it is on the curve, if that is not all."""
    for n in users:
        some = {side: Some(it, n) for side, it in sides.items()}
        turns = in_turns(some, min(3, args.repeats))
        held = {side: {key: turns[0][side][key] for key in ("prefix_mib", "own_mib")} for side in some}
        name = ", ".join(f"{value} {what}" for what, value in {**at, "users": n}.items())
        record(f"curve of {curve}: {name}", "tokens/s", per_second(turns, "tokens"), "all are ours", True,
               curve=curve, users=n, held=held, **at)


def curve_users():
    users = (1, 4) if args.quick else (1, 2, 4, 8, 16, 32, 64)
    new, most = 8 if args.quick else 24, users[-1]
    jobs_of = {"cartridge of 128": decode_job(most, cartridge=128, new=new),
               "one document of 1,024": decode_job(most, document=1024, new=new),
               "a document of 1,024 each": decode_job(most, document=1024, new=new, private=True)}
    sides = {side: Ours("decode", job) for side, job in jobs_of.items()}
    in_turns(sides, 1)
    points("users", sides, users)
    for side in sides.values():
        side.close()


def curve_length():
    """How long a document must be; the words do not matter, so the text is repeated until it is as long."""
    users = (1, 2) if args.quick else (1, 16)
    new = 8 if args.quick else 24
    cartridge = Ours("decode", decode_job(users[-1], cartridge=128, new=new))
    for rows in (512, 1024) if args.quick else (512, 1024, 2048, 4096, 8000):
        document = Ours("decode", decode_job(users[-1], document=rows, new=new))
        sides = {"cartridge of 128": cartridge, "one document": document}
        in_turns(sides, 1)
        points("length", sides, users, rows=rows)
        document.close()
    cartridge.close()


def curve_rows():
    for rows in (32, 64) if args.quick else (32, 64, 128, 256, 512, 1024):
        train(f"curve of rows: training, {rows}", make.real()[: 4 if args.quick else 8], rows, None,
              way="batch 8", turns=min(3, args.repeats), curve="rows")


def git(*words):
    return subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True).stdout.strip()


def machine():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    import peft

    changed = git("status", "--porcelain", "-uno", "--", "../../kernels", "../../engine", "drive.c")
    cpu = names[0] if names else platform.processor()
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": args.threads, "load": os.getloadavg()[0],
            "system": platform.platform(), "commit": git("rev-parse", "--short", "HEAD"),
            "changed": bool(changed),
            "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
            "model": os.path.basename(os.path.normpath(args.model)), "repeats": args.repeats,
            "quick": args.quick, "date": time.strftime("%Y-%m-%d")}


COMPARISONS = [train_padded, decode_one, decode_llama, decode_cartridge, decode_ours, decode_shared,
               train_equal, study, memory, train_recipe]
CURVES = [curve_users, curve_length, curve_rows]


def main():
    chosen = args.only.split(",") if args.only else [c.__name__ for c in COMPARISONS + CURVES * args.curves]
    about.update(machine())
    say(json.dumps(about))
    for c in COMPARISONS + CURVES:
        if c.__name__ not in chosen:
            continue
        start = time.perf_counter()
        try:
            c()
        except ImportError as e:
            say(f"{c.__name__}: not run: {e}")
        say(f"    ({time.perf_counter() - start:.0f} s)")
        gc.collect()
        if args.out:
            with open(args.out, "w") as f:
                json.dump({"machine": about, "results": results}, f, indent=1)
                f.write("\n")


if __name__ == "__main__":
    main()
