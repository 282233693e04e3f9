"""How much of its rounding-error bound the core uses: random small cases of every stage, core against oracle.

Every element of every result must lie within its bound of the 50-digit value; otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mpmath
import numpy as np
from rich.console import Console
from rich.progress import track

import adalora_ref as ref
from adalora_ref.conformance import oracles
from adalora_ref.conformance.calls import Outputs
from adalora_ref.conformance.cases import Draw, Inputs
from adalora_ref.conformance.checking import case_inputs
from adalora_ref.conformance.command import reference
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.lifting import evaluate, ratio
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import Lane, Target, on_host
from adalora_ref.convention import CONVENTIONS, SPEC


def loss(name: str, draw: Callable[[Draw], Inputs]) -> Stage:
    """Make a stage of a loss, which is no part of the protocol and has no row in the table."""

    def call(target: Target, i: Inputs, _: Lane) -> Outputs:
        return dict(zip(("loss", "gradient"), target.require(name)(i["output"], i["target"]), strict=True))

    def expect(i: Inputs, lane: Lane) -> Expectation:
        like = {"loss": np.zeros((), i["output"].dtype), "gradient": i["output"]}
        return evaluate(getattr(oracles, name), i["output"], i["target"], working=lane.working, like=like)

    return Stage(name, "", (name,), (), draw, call, expect)


def labelled(draw: Draw) -> Inputs:
    """Draw logits and labels."""
    logits = draw.array(draw.size(1, 4), draw.size(1, 5))
    return {"output": logits, "target": draw.rng.integers(0, logits.shape[1], logits.shape[0])}


def aimed(draw: Draw) -> Inputs:
    """Draw an output and a target."""
    output = draw.array(draw.size(1, 4), draw.size(1, 5))
    return {"output": output, "target": draw.array(*output.shape)}


TRIALS = {s.name: s for s in (*STAGES, loss("cross_entropy", labelled), loss("mean_square", aimed))}


class Measured(NamedTuple):
    """One result of one case: largest error over bound, and whether the bound is 0 or infinite."""

    quantity: str
    ratio: float
    exact: bool
    unbounded: bool


def measure(name: str, index: int, dtype: str, seed: int = 0) -> Iterator[Measured]:
    """Draw one case and hold each result of the core against its bound; steps of training walk the conventions."""
    stage, rules = TRIALS[name], list(CONVENTIONS.values())
    lane = Lane(dtype, "float32", rules[index % len(rules)] if name in ("init_state", "train_step") else SPEC)
    inputs = case_inputs(stage, dtype, seed, index)
    got = Target("adalora_ref", reference(lane.convention)).answer(stage, inputs, lane)
    try:
        expected = stage.expect(inputs, lane)
    except Undecided:
        yield from (Measured(_quantity(path), 0.0, exact=False, unbounded=True) for path in got)
        return
    for path, want in expected.items():
        largest = float(np.max(ratio(on_host(got[path]), want), initial=0.0))
        bounds = np.asarray(want.error)
        yield Measured(_quantity(path), largest, not np.any(bounds), not np.all(np.isfinite(bounds)))


def _quantity(path: str) -> str:
    """Drop the names of matrices: [state].factors[first].B is state.factors.B."""
    return re.sub(r"\[(first|last|layer\d+)\]", "", path).replace("[", "").replace("]", "")


def table(stages: list[str], count: int, dtype: str, console: Console) -> tuple[list[str], float]:
    """Measure *count* cases of each stage; return the rows, and the largest ratio of all."""
    lines, largest = [], 0.0
    for stage in stages:
        found: dict[str, list[Measured]] = {}
        for index in track(range(count), stage, console=console, disable=not console.is_terminal, transient=True):
            for m in measure(stage, index, dtype):
                found.setdefault(m.quantity, []).append(m)
        whole = [quantity for quantity, held in found.items() if all(m.exact for m in held)]
        if whole:
            gathered = [m for quantity in whole for m in found.pop(quantity)]
            found[whole[0] if len(whole) == 1 else f"{len(whole)} exact results"] = gathered
        for quantity, held in found.items():
            worst, typical = max(m.ratio for m in held), [m.ratio for m in held if not m.exact and not m.unbounded]
            median = f"{statistics.median(typical):.3f}" if typical else "–"
            exact, unbounded = sum(m.exact for m in held), sum(m.unbounded for m in held)
            lines.append(f"| {stage} | {quantity} | {len(held)} | {exact} | {unbounded} | {worst:.3f} | {median} |")
            largest = max(largest, worst)
    return lines, largest


HEAD = """# Rounding error of the core

Every element of every stage, computed by the core in {dtype}, lies within its own rounding-error bound of the 50-digit
value if the ratio of error to bound is at most 1. Each row is one result of one public function over random small cases
(sizes up to 5, magnitudes from eighths over ordinary ones to those of training; rank 0 and no samples included).

- *exact*: cases in which nothing can round, so that the bound is 0 and the core must be equal;
- *unbounded*: cases without a finite bound, such as the gradient of an unsquared norm near orthonormality;
- *largest*: largest ratio of error to bound over all elements of all cases;
- *median*: median over the other cases of each case's largest ratio.

| stage | result | cases | exact | unbounded | largest | median |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> int:
    """Write the table; 1 if anything lies outside its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--stage", action="append", choices=tuple(TRIALS))
    parser.add_argument("--out", type=Path, help="Markdown file; without it the table is printed")
    given = parser.parse_args()
    lines, largest = table(given.stage or list(TRIALS), given.cases, given.dtype, Console(stderr=True))
    command = f"python tests/benchmarks/rounding_error.py --cases {given.cases} --dtype {given.dtype}"
    foot = (
        f"\nLargest ratio of all: {largest:.3f}. Made with `{command}`, adalora_ref {ref.__version__}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, mpmath {mpmath.__version__}.\n"
    )
    text = HEAD.format(dtype=given.dtype) + "\n".join(lines) + "\n" + foot
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0 if lines and math.isfinite(largest) and largest <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
