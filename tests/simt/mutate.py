#!/usr/bin/env python3
"""mutate.py [--only TEXT] [--every N] -- seeds one bug at a time into the kernels and wants the tests to notice.

The bugs stand in mutations/*.txt, blocks separated by empty lines:

    name: the tail of the last page is not masked
    file: kernels/attn_prefill.cu
    tests: attn
    - one line of the file, unique in it
    + what it becomes (empty: the line goes)

A bug in a header needs one line more, the kernel whose tests shall notice it (`through: kernels/norm.cu`); so does one
that another program than test_ops_simt shall notice (`program: test_decode`).

For each one a copy of the kernels is compiled three ways (plainly, with the address and with the thread sanitizer) and
the tests of the program that `tests` names are run, until one of the three fails. A bug that all three let pass is a
hole in the tests. Only the mutated file is compiled anew; everything else comes from a build tree made once, below the
folder that CARTRIDGE_BUILD names. With --every N only each N-th bug is tried. Prints TAP.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
SECONDS = 300

FLAVOURS = {
    # name: (flags of the mutated file, build tree, suffix of the test program)
    "plain": (["-O2"], "plain", ""),
    "address": (["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], "address", ""),
    "thread": (["-O2", "-g", "-fsanitize=thread", "-DSIMT_TSAN"], "plain", "_tsan"),
}
COMMON = ["-std=c++17", "-ffp-contract=off", "-Wno-psabi", "-Wno-unknown-pragmas", "-w"]


class Mutation:
    def __init__(self, block, where):
        self.old, self.new, self.through, self.program = None, "", None, "test_ops_simt"
        for line in block:
            if line.startswith("- "):
                self.old = line[2:]
            elif line.startswith("+"):
                self.new = line[2:]
            else:
                key, _, value = line.partition(":")
                setattr(self, key.strip(), value.strip())
        for field in ("name", "file", "tests", "old"):
            if not getattr(self, field, None):
                sys.exit(f"{where}: a block without `{field}`: {block}")

    def text(self):
        lines = (SOURCE / self.file).read_text().split("\n")
        at = [i for i, line in enumerate(lines) if line.strip() == self.old.strip()]
        if len(at) != 1:
            return None
        indent = lines[at[0]][:len(lines[at[0]]) - len(lines[at[0]].lstrip())]
        lines[at[0]] = indent + self.new.strip() if self.new.strip() else ""
        return "\n".join(lines)


def read_mutations():
    found = []
    for path in sorted((SOURCE / "tests/simt/mutations").glob("*.txt")):
        block = []
        for line in path.read_text().split("\n") + [""]:
            if line.strip():
                block.append(line)
            elif block:
                found.append(Mutation(block, path.name))
                block = []
    return found


def run(command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


class Flavour:
    """A way of building: the tree with everything that is not mutated, and how its test programs are linked."""

    def __init__(self, name, folder, programs):
        self.flags, tree, self.suffix = FLAVOURS[name]
        self.name, self.tree = name, Path(folder) / tree
        self.build("address,undefined" if tree == "address" else "", [p + self.suffix for p in programs])
        self.linking = {p: self.linking_of(p) for p in programs}

    def path(self, program):
        return f"tests/simt/{program}{self.suffix}"

    def linking_of(self, program):
        lines = run(["ninja", "-C", str(self.tree), "-t", "commands", program + self.suffix]).stdout.split("\n")
        linking = [line for line in lines if f"-o {self.path(program)} " in line][-1]
        return linking.split(" && ")[-2] if linking.rstrip().endswith(":") else linking

    def build(self, sanitize, targets):
        flags = ["-G", "Ninja", "-DCARTRIDGE_CUDA=OFF", f"-DCARTRIDGE_SANITIZE={sanitize}",
                 f"-DCMAKE_BUILD_TYPE={'Debug' if sanitize else 'RelWithDebInfo'}"]
        need(["cmake", "-S", str(SOURCE), "-B", str(self.tree), *flags], "configuring")
        need(["ninja", "-C", str(self.tree), *targets], "building")

    def headers(self):
        cache = (self.tree / "CMakeCache.txt").read_text().split("\n")
        return next(line.split("=", 1)[1] for line in cache if line.startswith("CUDA_HEADERS:"))

    def says(self, program, tests):
        """What the tests say of a program; None when they pass."""
        environment = dict(os.environ, OMP_NUM_THREADS="1", ASAN_OPTIONS="detect_leaks=0", TSAN_OPTIONS="halt_on_error=1",
                           UBSAN_OPTIONS="halt_on_error=1")
        try:
            ran = run([str(program), tests], timeout=SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            return "it does not end"
        return None if ran.returncode == 0 else f"exit {ran.returncode}"

    def says_of_mutant(self, bug, text):
        with tempfile.TemporaryDirectory() as folder:
            copy, mutant, program = Path(folder) / bug.file, Path(folder) / "mutant.o", Path(folder) / "program"
            copy.parent.mkdir(parents=True)
            copy.write_text(text) # found before the original, which includes name by their whole path
            compiled = SOURCE / bug.through if bug.through else copy
            need(["g++", *COMMON, *self.flags, f"-I{folder}", f"-I{SOURCE}", f"-isystem{self.headers()}", "-xc++", "-c",
                  str(compiled), "-o", str(mutant)], bug.name)
            # before the libraries: so the original's object is never taken out of them
            linking = self.linking[bug.program].replace(f"-o {self.path(bug.program)} ", f"-o {program} {mutant} ")
            need(linking, bug.name, shell=True, cwd=self.tree)
            return self.says(program, bug.tests)


def need(command, what, **more):
    made = run(command, **more)
    if made.returncode:
        sys.exit(f"{what}: {command} failed:\n{made.stdout[-3000:]}")


def check_originals(flavours, bugs):
    """Without a bug every flavour must pass, or what it says about bugs means nothing."""
    for flavour in flavours:
        for program, tests in sorted({(b.program, b.tests) for b in bugs}):
            said = flavour.says(flavour.tree / flavour.path(program), tests)
            if said:
                sys.exit(f"{flavour.name}: {program} {tests} fails without any bug: {said}")


def main():
    arguments = sys.argv[1:]
    only = arguments[arguments.index("--only") + 1] if "--only" in arguments else ""
    every = int(arguments[arguments.index("--every") + 1]) if "--every" in arguments else 1
    bugs = [m for i, m in enumerate(read_mutations()) if i % every == 0 and (only in m.name or only in m.file)]
    folder = os.environ.get("CARTRIDGE_BUILD") or tempfile.mkdtemp()
    programs = sorted({bug.program for bug in bugs})
    flavours, failed = [Flavour(name, folder, programs) for name in FLAVOURS], 0
    check_originals(flavours, bugs)
    print(f"1..{len(bugs)}", flush=True)
    for n, bug in enumerate(bugs, 1):
        text = bug.text()
        found = text and next(((f.name, said) for f in flavours if (said := f.says_of_mutant(bug, text))), None)
        verdict = f"{found[0]} notices: {found[1]}" if found else "nobody notices"
        if text is None:
            verdict = f"its line is not there exactly once: {bug.old}"
        failed += not found
        print(f"{'ok' if found else 'not ok'} {n} - {bug.file}: {bug.name}: {verdict}", flush=True)
    if not os.environ.get("CARTRIDGE_BUILD"):
        shutil.rmtree(folder)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
