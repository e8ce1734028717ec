#!/usr/bin/env python3
"""Makes folded.txt: what ptxas folds instructions on constants to.

    python3 folded.py <directory of ptxas and nvdisasm> > folded.txt

Each instruction is put into kernels of its own, on constants, whose result is stored. Where ptxas folds it, the
machine code has a constant in its place, which is read off the disassembly; where it does not, the case is left out.
"""

import random
import re
import struct
import subprocess
import sys
import tempfile

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
NAMES = ["%a", "%b", "%c", "%e"]
KEPT = 5  # cases of an instruction
TRIED = 40

random.seed(1)

WORDS = [0, 1, 2, 5, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0xFFFFFF, 0x800000,
         0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF]
FLOATS = [0, 0x80000000, 1, 0x80000001, 0x7FFFFF, 0x800000, 0x33000000, 0x33800000, 0x38800000, 0x3F000000, 0x3F800000,
          0x3F800001, 0xBF800000, 0x3FC00000, 0xBFC00000, 0x40200000, 0xC0200000, 0x43000000, 0x477FE000, 0x477FF000,
          0x4F000000, 0xCF000000, 0x4F800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001]
DOUBLES = [0, 1 << 63, 1, 0x3FF << 52, 0xBFF << 52, 0x3FE << 52, 0x4004 << 48, 0xC004 << 48, 0x7FEFFFFFFFFFFFFF,
           0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, 0x41E << 52, 0x43E << 52, 0x369 << 52, 0x36A << 52, 0x47EFFFFFE0000000]
HALVES = [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x3C00, 0x3C01, 0xBC00, 0x3800, 0x4100, 0xC100, 0x7BFF, 0xFBFF, 0x7C00,
          0xFC00, 0x7E00, 0x7C37]

WIDTHS = {"w16": 16, "w32": 32, "w64": 64, "small": 32, "f16": 16, "bf16": 16, "f16x2": 32, "f32": 32, "f64": 64}


def operand(kind):
    """A random operand, often one of those where things happen."""
    special = random.random() < 0.45
    if kind == "w16":
        return random.choice(WORDS) & 0xFFFF if special else random.getrandbits(16)
    if kind == "w32":
        return random.choice(WORDS) if special else random.getrandbits(32) >> random.choice([0, 0, random.randrange(32)])
    if kind == "w64":
        edges = WORDS + [x << 32 for x in WORDS] + [(1 << 63) - 1]
        return random.choice(edges) if special else random.getrandbits(64) >> random.choice([0, 0, random.randrange(64)])
    if kind == "small":  # Shifts, positions and lengths; the ISA leaves those of `bfe` and `bfi` above 255 open.
        return random.choice(list(range(70)) + [255])
    if kind == "f32":
        near_one = random.getrandbits(32) & 0x83FFFFFF | random.randrange(0x3A, 0x44) << 24
        return random.choice(FLOATS) if special else random.choice([near_one, random.getrandbits(32)])
    if kind == "f64":
        near_one = random.getrandbits(64) & ~(0x7FF << 52) | random.randrange(1000, 1060) << 52
        return random.choice(DOUBLES) if special else random.choice([near_one, random.getrandbits(64)])
    if kind == "f16":
        return random.choice(HALVES) if special else random.getrandbits(16)
    if kind == "bf16":
        return random.choice(FLOATS) >> 16 if special else random.getrandbits(16)
    return operand("f16") << 16 | operand("f16")


def instructions():
    """(text, kinds of operands, width of the result)"""

    def op(name, kinds, out):
        return f"{name} %d, {', '.join(NAMES[:len(kinds)])};", kinds, out

    for t, k, w in [(f"{s}{w}", f"w{w}", w) for w in (16, 32, 64) for s in "us"]:
        for name in ["add", "sub", "mul.lo", "mul.hi", "div", "rem", "min", "max"]:
            yield op(f"{name}.{t}", [k, k], w)
        yield op(f"mad.lo.{t}", [k, k, k], w)
        yield op(f"shr.{t}", [k, "small"], w)
        if t[0] == "s":
            yield op(f"abs.{t}", [k], w)
            yield op(f"neg.{t}", [k], w)
        if w < 64:
            yield op(f"mul.wide.{t}", [k, k], 2 * w)
            yield op(f"mad.wide.{t}", [k, k, f"w{2 * w}"], 2 * w)
        if w > 16:
            yield op(f"bfe.{t}", [k, "small", "small"], w)
            yield op(f"bfind.{t}", [k], 32)
            yield op(f"bfind.shiftamt.{t}", [k], 32)
            for c in ["eq", "ne", "lt", "le", "gt", "ge"]:
                yield f"setp.{c}.{t} %p, %a, %b; selp.b32 %d, 1, 0, %p;", [k, k], 32
    for w in (16, 32, 64):
        k = f"w{w}"
        for name in ["and", "or", "xor"]:
            yield op(f"{name}.b{w}", [k, k], w)
        yield op(f"not.b{w}", [k], w)
        yield op(f"cnot.b{w}", [k], w)
        yield op(f"shl.b{w}", [k, "small"], w)
        if w > 16:
            yield op(f"popc.b{w}", [k], 32)
            yield op(f"clz.b{w}", [k], 32)
            yield op(f"brev.b{w}", [k], w)
            yield op(f"bfi.b{w}", [k, k, "small", "small"], w)
    for t in ["u32", "s32"]:
        for half in ["lo", "hi"]:
            yield op(f"mul24.{half}.{t}", ["w32"] * 2, 32)
            yield op(f"mad24.{half}.{t}", ["w32"] * 3, 32)
        for bound in ["clamp", "wrap"]:
            yield op(f"szext.{bound}.{t}", ["w32", "small"], 32)
        for u in ["u32", "s32"]:
            yield op(f"dp4a.{t}.{u}", ["w32"] * 3, 32)
            yield op(f"dp2a.lo.{t}.{u}", ["w32"] * 3, 32)
            yield op(f"dp2a.hi.{t}.{u}", ["w32"] * 3, 32)
    for bound in ["clamp", "wrap"]:
        yield op(f"shf.l.{bound}.b32", ["w32", "w32", "small"], 32)
        yield op(f"shf.r.{bound}.b32", ["w32", "w32", "small"], 32)
    yield op("fns.b32", ["w32", "small", "small"], 32)
    for name in ["add.sat.s32", "sub.sat.s32"]:
        yield op(name, ["w32"] * 2, 32)
    yield op("mad24.hi.sat.s32", ["w32"] * 3, 32)
    yield "{ .reg .b32 %x; add.cc.u32 %x, %a, %b; addc.u32 %d, %c, %c; }", ["w32"] * 3, 32
    yield "{ .reg .b32 %x; sub.cc.u32 %x, %a, %b; subc.u32 %d, %c, %a; }", ["w32"] * 3, 32
    yield op("slct.b32.s32", ["w32"] * 3, 32)
    yield op("slct.f32.f32", ["f32"] * 3, 32)
    yield op("slct.b64.s32", ["w64", "w64", "w32"], 64)

    for ftz in ["", ".ftz"]:
        for name in ["add", "sub", "mul", "min", "max"]:
            yield op(f"{name}{ftz}.f32", ["f32"] * 2, 32)
        for name in ["abs", "neg"]:
            yield op(f"{name}{ftz}.f32", ["f32"], 32)
    for sat in ["add.sat.f32", "mul.sat.f32"]:
        yield op(sat, ["f32"] * 2, 32)
    for name in ["min", "max"]:
        yield op(f"{name}.f64", ["f64"] * 2, 64)
    for name in ["abs", "neg"]:
        yield op(f"{name}.f64", ["f64"], 64)
        yield op(f"{name}.f16", ["f16"], 16)
        yield op(f"{name}.bf16", ["bf16"], 16)
        yield op(f"{name}.f16x2", ["f16x2"], 32)
    for name in ["mul", "mul.ftz"]:
        yield op(f"{name}.f16", ["f16"] * 2, 16)
    ordered = ["eq", "ne", "lt", "le", "gt", "ge"]
    for t in ["f32", "f64"]:
        for c in ordered + [c + "u" for c in ordered if c != "ne"] + ["neu", "num", "nan"]:
            yield f"setp.{c}.{t} %p, %a, %b; selp.b32 %d, 1, 0, %p;", [t, t], 32
        for p in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"]:
            yield f"testp.{p}.{t} %p, %a; selp.b32 %d, 1, 0, %p;", [t], 32
    for c in ["lt", "ge", "eq", "neu"]:
        yield op(f"set.{c}.u32.f32", ["f32"] * 2, 32)
        yield op(f"set.{c}.f32.f32", ["f32"] * 2, 32)

    integers = [f"{s}{w}" for w in (8, 16, 32, 64) for s in "us"]
    for a in integers:
        width = max(16, int(a[1:]))
        for b in integers:
            if a != b:
                yield op(f"cvt.{b}.{a}", [f"w{width}"], max(16, int(b[1:])))
                if b[0] == "u" and a[0] == "s" or int(b[1:]) < int(a[1:]) or b[0] == "s" and b[1:] == a[1:]:
                    yield op(f"cvt.sat.{b}.{a}", [f"w{width}"], max(16, int(b[1:])))
        for f, w in [("f16", 16), ("f32", 32), ("f64", 64)]:
            for r in ["rn", "rz", "rm", "rp"]:
                yield op(f"cvt.{r}.{f}.{a}", [f"w{width}"], w)
                yield op(f"cvt.{r}i.{a}.{f}", [f], width)
    for r in ["rn", "rz", "rm", "rp"]:
        yield op(f"cvt.{r}.f32.f64", ["f64"], 32)
        yield op(f"cvt.{r}.f16.f32", ["f32"], 16)
        yield op(f"cvt.{r}i.f32.f32", ["f32"], 32)
        yield op(f"cvt.{r}i.ftz.f32.f32", ["f32"], 32)
        yield op(f"cvt.{r}i.f64.f64", ["f64"], 64)
        yield op(f"cvt.{r}i.ftz.s32.f32", ["f32"], 32)
    yield op("cvt.f64.f32", ["f32"], 64)
    yield op("cvt.f32.f16", ["f16"], 32)
    yield op("cvt.f64.f16", ["f16"], 64)
    yield op("cvt.sat.f32.f32", ["f32"], 32)
    yield op("cvt.rn.bf16.f32", ["f32"], 16)
    yield op("cvt.rna.tf32.f32", ["f32"], 32)


def doubtful(text, operands):
    """NaN from f64 to f32 is folded as the host converts it, not to the NaN of other f32 results."""
    return ".f32.f64" in text and operands[0] & ~(1 << 63) > 0x7FF << 52


def kernel(name, text, kinds, out, operands, immediate):
    lines = [f".visible .entry {name}(.param .u64 k_0) {{", ".reg .b64 %at;", ".reg .pred %p;", f".reg .b{out} %d;"]
    for register, kind, value in zip(NAMES, kinds, operands):
        if immediate and register != "%a":
            text = text.replace(register, hex(value))
        else:
            lines += [f".reg .b{WIDTHS[kind]} {register};", f"mov.b{WIDTHS[kind]} {register}, {value:#x};"]
    lines += ["ld.param.u64 %at, [k_0];", text, f"st.global.b{out} [%at], %d;", "ret;", "}"]
    return "\n".join(lines) + "\n"


def half(text):
    value = float(text.replace("INF", "inf").replace("QNAN", "nan"))
    return struct.unpack("<H", struct.pack("<e", value))[0]


def stored(code):
    """What the first store stores, if registers that hold constants say so."""
    registers = {"RZ": 0}

    def constant(text):
        if text in registers:
            return registers[text]
        return int(text, 16) & 0xFFFFFFFF if re.fullmatch(r"-?0x[0-9a-f]+", text) else None

    def next_register(name):
        return f"R{int(name[1:]) + 1}"

    for line in code:
        opcode, _, rest = line.partition(" ")
        args = [arg.strip() for arg in rest.split(",")]
        if opcode.startswith("@") or opcode == "EXIT":
            return None
        if opcode.startswith("STG"):
            if args[1] == "RZ":
                return 0
            low, high = registers.get(args[1]), registers.get(next_register(args[1])) if ".64" in opcode else 0
            return None if low is None or high is None else high << 32 | low
        if not re.fullmatch(r"R\d+", args[0]):
            continue
        if opcode == "MOV":
            registers[args[0]] = constant(args[1])
        elif opcode.startswith("IMAD.MOV") and args[1:3] == ["RZ", "RZ"]:
            registers[args[0]] = constant(args[3])
        elif opcode.startswith("HFMA2") and args[1:3] == ["-RZ", "RZ"] and not any("NAN" in arg for arg in args):
            registers[args[0]] = half(args[3]) << 16 | half(args[4])
        elif opcode.startswith("CS2R") and args[1] == "SRZ":
            registers[args[0]] = 0
            if ".32" not in opcode:
                registers[next_register(args[0])] = 0
        else:
            registers[args[0]] = registers[next_register(args[0])] = None


def fold(tools, kernels):
    """The constants that kernels k0, k1 ... store."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = f"{folder}/k.ptx", f"{folder}/k.cubin"
        with open(source, "w") as file:
            file.write(HEADER + "".join(kernels))
        subprocess.run([f"{tools}/ptxas", "-arch=sm_80", source, "-o", binary], check=True)
        listing = subprocess.run([f"{tools}/nvdisasm", binary], check=True, capture_output=True, text=True).stdout
    code = {}
    for line in listing.splitlines():
        if label := re.match(r"\.text\.k(\d+):", line):
            current = code.setdefault(int(label[1]), [])
        elif line.startswith("//---"):
            current = None
        elif (instruction := re.match(r"\s+/\*[0-9a-f]{4}\*/\s+([^.].*?)\s*;", line)) and current is not None:
            current.append(instruction[1])
    return [stored(code[i]) for i in range(len(kernels))]


def main():
    tools = sys.argv[1]
    cases = []
    for text, kinds, out in instructions():
        for _ in range(TRIED):
            operands = [operand(kind) for kind in kinds]
            if not doubtful(text, operands):
                # Some instructions are folded on immediates alone.
                immediate = not any("f" in kind for kind in kinds) and random.random() < 0.5
                cases.append((text, kinds, out, operands, immediate))
    found = {}
    for start in range(0, len(cases), 500):
        part = cases[start : start + 500]
        results = fold(tools, [kernel(f"k{i}", *case) for i, case in enumerate(part)])
        for (text, kinds, out, operands, _), result in zip(part, results):
            if result is not None:
                widths = ",".join(str(WIDTHS[kind]) for kind in kinds)
                values = ",".join(f"{value:x}" for value in operands)
                line = f"{text}|{widths}|{out}|{values}|{result & ((1 << out) - 1):x}"
                lines = found.setdefault(text, [])
                if len(lines) < KEPT and line not in lines:
                    lines.append(line)
    for lines in found.values():
        print("\n".join(lines))


main()
