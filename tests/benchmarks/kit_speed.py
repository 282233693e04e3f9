"""How long the kit takes: each command as its users run it, in seconds of processor time and of the clock."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import adalora_ref as ref

COMMANDS = {
    "--help": 0.5,
    "verify adalora_ref --preset quick": None,
    "verify adalora_ref": 10.0,
    "verify adalora_ref --preset thorough": 300.0,
}
"""Each with the seconds that it may take on two cores."""

HEAD = """# How long the kit takes

`adalora-ref verify` on the reference, a NumPy implementation that has every function, in all four dtypes. Processor
time is what counts: it is the same on a machine that is busy with something else, or nearly so.

| command | processor s | clock s | may take s | checks |
| --- | --- | --- | --- | --- |
"""


def measured(command: str) -> tuple[float, float, str]:
    """Run a command; its processor time, its time on the clock, and how many checks ran."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "adalora_ref", *command.split()], capture_output=True, text=True, check=True
    )
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = run.stdout.strip().splitlines()[-1]
    return spent, clock, last.split(": ")[1].split(" checks")[0] if " checks ran" in last else "–"


def main() -> int:
    """Write the table; 1 if a command takes more processor time than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file; without it the table is printed")
    asked = parser.parse_args()
    lines, late = [], False
    for command, limit in COMMANDS.items():
        spent, clock, checks = measured(command)
        late = late or (limit is not None and spent > limit)
        lines.append(f"| `adalora-ref {command}` | {spent:.2f} | {clock:.1f} | {limit or '–'} | {checks} |")
    foot = (
        f"\nMade with `python tests/benchmarks/kit_speed.py` on {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}, "
        f"adalora_ref {ref.__version__}, Python {platform.python_version()}, NumPy {np.__version__}.\n"
    )
    text = HEAD + "\n".join(lines) + "\n" + foot
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
