#!/usr/bin/env python3
"""sass.py OBJECT... -- reads the machine code that nvcc made, without the toolkit's disassembler, and checks it.

An object file holds one ELF image per architecture and source; an instruction is 16 bytes and the low 9 bits of its
first word are the opcode, which is all that is needed to count. Prints TAP: every kernel that is meant for tensor
cores has HMMA in every architecture, the others (so the check can fail) have none, no kernel touches local memory, and
every tensor-core kernel leaves room for two blocks or eight warps on a multiprocessor. With --table: a line a kernel.
"""
import re
import struct
import sys
from collections import Counter

HMMA, LDL, STL = 0x03C, 0x183, 0x187
ELF_MAGIC, EM_CUDA = b"\x7fELF\x02\x01", 190
ATTR_REGISTERS, ATTR_THREADS = 0x2F, 0x05  # of .nv.info: EIATTR_REGCOUNT, EIATTR_MAX_THREADS
REGISTERS = 65536  # of a multiprocessor

TENSOR = re.compile(r"skinny|prefill_tile|attn_decode|back_keys|back_queries|back_row_statistics")


class Image:
    """One architecture's code of one source file."""

    def __init__(self, data, at):
        self.data, self.at = data, at
        flags, = struct.unpack_from("<I", data, at + 0x30)
        self.arch = flags >> 8 & 0xFF or flags & 0xFF
        table, = struct.unpack_from("<Q", data, at + 0x28)
        size, count, names = struct.unpack_from("<HHH", data, at + 0x3A)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, at + table + i * size) for i in range(count)]
        self.section = {}
        for index, h in enumerate(headers):
            self.section[self.text(headers[names][4], h[0])] = (index, h)

    def text(self, section, offset):
        start = self.at + section + offset
        return self.data[start:self.data.index(b"\0", start)].decode()

    def bytes_of(self, name):
        _, h = self.section[name]
        return self.data[self.at + h[4]:self.at + h[4] + h[5]]

    def symbols(self):
        _, h = self.section[".symtab"]
        strings = [s for s in self.section.values() if s[0] == h[6]][0][1][4]
        names = {}
        for i in range(h[5] // 24):
            names[i] = self.text(strings, struct.unpack_from("<I", self.data, self.at + h[4] + 24 * i)[0])
        return names

    def registers(self):
        info, names, found, i = self.bytes_of(".nv.info"), self.symbols(), {}, 0
        while i + 4 <= len(info):
            form, attribute, size = struct.unpack_from("<BBH", info, i)
            if form == 4 and attribute == ATTR_REGISTERS:
                symbol, count = struct.unpack_from("<II", info, i + 4)
                found[names[symbol]] = count
            i += 4 + (size if form == 4 else 0)
        return found

    def threads(self, kernel):
        """Of the launch bounds; 0: none given."""
        info, i = self.bytes_of(".nv.info." + kernel), 0
        while i + 4 <= len(info):
            form, attribute, size = struct.unpack_from("<BBH", info, i)
            if form == 4 and attribute == ATTR_THREADS:
                x, y, z = struct.unpack_from("<III", info, i + 4)
                return x * y * z
            i += 4 + (size if form == 4 else 0)
        return 0

    def kernels(self):
        registers = self.registers()
        for name in self.section:
            if not name.startswith(".text."):
                continue
            kernel, code, ops = name[6:], self.bytes_of(name), Counter()
            for i in range(0, len(code), 16):
                word, = struct.unpack_from("<Q", code, i)
                if word >> 12 & 15 != 15:  # predicated off for ever: padding
                    ops[word & 0x1FF] += 1
            shared = self.section.get(".nv.shared." + kernel, (0, [0] * 6))[1][5]
            yield kernel, ops, registers.get(kernel, 0), shared, self.threads(kernel)


def images(path):
    data, at = open(path, "rb").read(), 1
    while (at := data.find(ELF_MAGIC, at)) >= 0:
        if struct.unpack_from("<H", data, at + 18)[0] == EM_CUDA:
            yield Image(data, at)
        at += 1


def resident_warps(registers, threads):
    per_block = -(-registers // 8) * 8 * 32 * (threads // 32)
    return REGISTERS // per_block * (threads // 32) if per_block else 0


class Tap:
    def __init__(self):
        self.n = self.failed = 0

    def check(self, good, what):
        self.n += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.n} - {what}")


def main():
    table, paths = "--table" in sys.argv, [a for a in sys.argv[1:] if a != "--table"]
    found = [(image.arch, *k) for p in paths for image in images(p) for k in image.kernels()]
    if table:
        for arch, kernel, ops, registers, shared, threads in sorted(found):
            print(f"sm_{arch} {kernel}: {registers} registers, {threads} threads, {shared} bytes static shared, "
                  f"{sum(ops.values())} instructions, {ops[HMMA]} HMMA")
        return 0
    tap = Tap()
    arches = {f[0] for f in found}
    tap.check(arches == {80, 90}, f"code for sm_80 and sm_90 (seen: {sorted(arches)})")
    for arch, kernel, ops, registers, _, threads in sorted(found):
        where = f"sm_{arch} {kernel}"
        tap.check(ops[LDL] + ops[STL] == 0, f"{where} keeps out of local memory")
        if TENSOR.search(kernel):
            tap.check(ops[HMMA] > 0, f"{where} uses tensor cores ({ops[HMMA]} HMMA)")
            warps = resident_warps(registers, threads)
            tap.check(threads > 0 and (warps >= 8 or warps >= 2 * threads // 32),
                      f"{where} leaves room for {warps} warps ({registers} registers, {threads} threads)")
        else:
            tap.check(ops[HMMA] == 0, f"{where} is no tensor-core kernel")
    for kernel in TENSOR.pattern.split("|"):
        tap.check(any(kernel in f[1] for f in found), f"there is a tensor-core kernel {kernel}")
    print(f"1..{tap.n}")
    return tap.failed > 0


if __name__ == "__main__":
    sys.exit(main())
