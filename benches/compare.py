#!/usr/bin/env python3
"""Our benchmarks beside other programs', in one run on one machine, as a Markdown table.

    benches/compare.py --device cpu --peer torch='python3 torch_cpu.py' --peer flex=./burn_cpu > table.md

A peer is a command that prints lines `NAME CASE MILLISECONDS` with the case names below; what it
prints on standard error and lines that start with # are passed over. Peers run one after the other,
then ours, then the peers' order is what the columns keep. Milliseconds are medians; the ratio is the
peer's over ours, so more than 1 means that we are faster.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The peers' names of our cases.
CASES = {
    "matmul/512": "mm_512",
    "matmul/1024": "mm_1024",
    "matmul/2048": "mm_2048",
    "matmul/gpt_forward": "mm_gpt_fwd",
    "matmul/gpt_dx": "mm_gpt_dx",
    "matmul/gpt_dw": "mm_gpt_dw",
    "layer_norm/forward": "ln_fwd",
    "layer_norm/forward_backward": "ln_fwdbwd",
    "attention/forward": "attn_fwd",
    "attention/forward_backward": "attn_fwdbwd",
    "gpt_step/small": "gpt_small_step",
    "gpt_step/char": "gpt_char_step",
}


def run_peer(command, limit):
    """The peer's milliseconds by its case names; what it finished if it ran out of time."""
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    times = {}
    for line in output.splitlines():
        fields = line.split()
        if len(fields) == 3 and not line.startswith("#"):
            times[fields[1]] = float(fields[2])
    return times


def run_ours(device, cases):
    """Our medians in milliseconds, from what criterion leaves behind."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    environment = dict(os.environ, TILEWRIGHT_DEVICE=device)
    pattern = "|".join(f"^{case}$" for case in cases)
    command = ["cargo", "bench", "--bench", "suite", "--", "--noplot", pattern]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    estimates = {case: target / "criterion" / case / "new" / "estimates.json" for case in cases}
    return {case: json.loads(file.read_text())["median"]["point_estimate"] / 1e6 for case, file in estimates.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="what TILEWRIGHT_DEVICE is set to")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a peer may take")
    parser.add_argument("filters", nargs="*", help="parts of our case names; none: all of them")
    arguments = parser.parse_args()

    peers = {}
    for peer in arguments.peer:
        name, _, command = peer.partition("=")
        peers[name] = run_peer(command, arguments.limit)
    cases = [case for case in CASES if not arguments.filters or any(part in case for part in arguments.filters)]
    ours = run_ours(arguments.device, cases)

    print("| case | tilewright, ms |" + "".join(f" {name}, ms | ratio |" for name in peers))
    print("|---|---|" + "---|---|" * len(peers))
    for case, milliseconds in ours.items():
        row = f"| {case} | {milliseconds:.2f} |"
        for times in peers.values():
            other = times.get(CASES[case])
            row += f" {other:.2f} | {other / milliseconds:.2f} |" if other else " not run | |"
        print(row)


if __name__ == "__main__":
    main()
