"""How long the kit takes: each command as its users run it, in seconds of processor time and of the clock."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
import timeit
from pathlib import Path

import numpy as np

import adalora_ref as ref

TESTS = Path(__file__).parents[1]
"""Where `plain_adalora` stands, a NumPy implementation of every function; the commands are run there."""

COMMANDS = {
    "--help": 0.5,
    "verify plain_adalora --preset quick": None,
    "verify plain_adalora": None,
    "verify plain_adalora --jobs 2": 10.0,
    "verify plain_adalora --preset thorough": 300.0,
    "verify adalora_ref": None,
}
"""Each with the seconds of the clock that it may take on two idle cores."""

HEAD = """# How long the kit takes

`adalora-ref verify` on `tests/plain_adalora.py`, a NumPy implementation of every function, in float64 and float32, and
on the reference, which has 16 bits as well. What a command may take is by the clock, on two cores that do nothing
else; processor time hangs less on what else they do.

| command | processor s | clock s | may take s | checks |
| --- | --- | --- | --- | --- |
"""


def measured(command: str) -> tuple[float, float, str]:
    """Run a command; its processor time, its time on the clock, and how many checks ran."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "adalora_ref", *command.split()],
        cwd=TESTS, capture_output=True, text=True, check=True,
    )  # fmt: skip
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = run.stdout.strip().splitlines()[-1]
    return spent, clock, last.split(": ")[1].split(" checks")[0] if " checks ran" in last else "–"


def yardstick() -> float:
    """Seconds for ten million additions in a loop, the least of five: how fast this machine is."""
    return min(timeit.repeat("for i in range(10_000_000): x += i", "x = 0", number=1, repeat=5))


def main() -> int:
    """Write the table; 1 if a command takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file; without it the table is printed")
    asked = parser.parse_args()
    lines, late = [], False
    for command, limit in COMMANDS.items():
        spent, clock, checks = measured(command)
        late = late or (limit is not None and clock > limit)
        lines.append(f"| `adalora-ref {command}` | {spent:.2f} | {clock:.1f} | {limit or '–'} | {checks} |")
    foot = (
        f"\nMade with `python tests/benchmarks/kit_speed.py` on {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}, "
        f"adalora_ref {ref.__version__}, Python {platform.python_version()}, NumPy {np.__version__}. "
        f"Ten million additions in a Python loop take {yardstick():.2f} s there.\n"
    )
    text = HEAD + "\n".join(lines) + "\n" + foot
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
