"""Hunt for a correct evaluation that lies outside its bound: Hypothesis steers by error over bound.

Everything that is found must be at most 1; otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

sys.path.insert(0, str(Path(__file__).parent))  # beside this script, which is no package
from evaluations import EVALUATIONS, SUMS, Machine, outputs

import adalora_ref as ref
from adalora_ref.conformance.cases import Draw
from adalora_ref.conformance.checking import stage_named
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.lifting import ratio
from adalora_ref.conformance.target import Lane, leaves, on_host, tree_map
from adalora_ref.convention import SPEC

DTYPES = ("float32", "float64")


class Found(NamedTuple):
    """The largest ratio of a stage, and the evaluation that reached it."""

    ratio: float
    evaluation: str


# NUMBERS THAT ROUND BADLY: each makes an array of another one's shape and dtype


def as_drawn(rng: np.random.Generator, a: Any) -> Any:
    """Leave it."""
    return a


def just_above_a_power(rng: np.random.Generator, a: Any) -> Any:
    """1 and a few units in the last place, where a rounding is largest relative to the number."""
    return 1 + rng.integers(0, 8, a.shape) * np.finfo(a.dtype).eps


def of_mixed_size(rng: np.random.Generator, a: Any) -> Any:
    """Over forty powers of two, so that sums lose what they add."""
    return rng.choice([-1.0, 1.0], a.shape) * rng.uniform(1, 2, a.shape) * 2.0 ** rng.integers(-20, 20, a.shape)


def positive(rng: np.random.Generator, a: Any) -> Any:
    """Without cancellation."""
    return rng.uniform(1, 2, a.shape)


def sparse(rng: np.random.Generator, a: Any) -> Any:
    """Mostly zeros."""
    return np.where(rng.random(a.shape) < 0.6, 0.0, of_mixed_size(rng, a))


def near_underflow(rng: np.random.Generator, a: Any) -> Any:
    """So small that products are subnormal."""
    return rng.standard_normal(a.shape) * float(np.finfo(a.dtype).tiny) ** 0.5


def near_overflow(rng: np.random.Generator, a: Any) -> Any:
    """So large that products of some are too large."""
    return rng.standard_normal(a.shape) * float(np.finfo(a.dtype).max) ** rng.choice([0.2, 0.3, 0.45])


KINDS: tuple[Callable[..., Any], ...] = (
    as_drawn, just_above_a_power, of_mixed_size, positive, sparse, near_underflow, near_overflow,
)  # fmt: skip


@st.composite
def trials(draw: st.DrawFn, name: str) -> tuple[str, dict[str, Any], Any, Machine]:
    """A dtype, the inputs of a case, and an evaluation on a machine."""
    dtype, index, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 83)), draw(st.integers(0, 2**32 - 1))
    i = stage_named(name).draw(Draw(np.random.default_rng(seed), dtype, index))
    rng = np.random.default_rng(seed + 1)
    if name != "train_step":
        i = {key: _renumbered(draw, rng, key, value) for key, value in i.items()}
    order = np.random.default_rng(draw(st.integers(0, 999)))
    machine = Machine(order, draw(st.sampled_from(SUMS)), draw(st.booleans()))
    return dtype, i, draw(st.sampled_from(EVALUATIONS[name])), machine


def _renumbered(draw: st.DrawFn, rng: np.random.Generator, key: str, value: Any) -> Any:
    """One input with other numbers: of a kind that rounds badly, or drawn one by one."""
    if key == "dropout_mask":
        return value
    kind = draw(st.none() | st.sampled_from(KINDS))

    def numbers(a: Any) -> Any:
        if kind is None:
            width = 8 * a.dtype.itemsize
            floats = st.floats(-(2.0**30), 2.0**30, width=width, allow_subnormal=True)
            fresh = draw(hnp.arrays(a.dtype, a.shape, elements=floats))
        else:
            fresh = np.asarray(kind(rng, a)).astype(a.dtype)
        return np.abs(fresh) if key == "state" else fresh

    return tree_map(numbers, value)


def largest_ratio(name: str, dtype: str, i: dict[str, Any], evaluate: Any, machine: Machine) -> float:
    """The largest error over bound of an evaluation; 0 where the case decides nothing."""
    try:
        expected = stage_named(name).expect(i, Lane(dtype, "float32", SPEC))
    except Undecided:
        return 0.0
    got = dict(leaves(outputs(evaluate, machine, i)))
    assert got.keys() == expected.keys()
    return max((float(np.max(_ratio(on_host(got[path]), want), initial=0.0)) for path, want in expected.items()))


def _ratio(got: Any, want: Any) -> Any:
    """Error over bound; what has no finite bound decides nothing, overflow included."""
    return np.where(np.isfinite(want.error), ratio(got, want), 0.0)


def search(name: str, examples: int, *, seed: int | None = None) -> Found:
    """Run so many trials of one stage, steered towards the largest ratio; without a seed always the same ones."""
    best = Found(0.0, "–")

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=seed is None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[hypothesis.Phase.generate, hypothesis.Phase.target],
    )  # fmt: skip
    @given(trials(name))
    def hunt(trial: Any) -> None:
        nonlocal best
        found = largest_ratio(name, *trial)
        hypothesis.target(min(found, 1e6), label=name)
        if found > best.ratio:
            best = Found(found, f"{trial[2].__name__}, {trial[3].add.__name__}, {trial[0]}")

    (hunt if seed is None else hypothesis.seed(seed)(hunt))()
    return best


HEAD = """# The search for a bound that is too small

Hypothesis draws cases, numbers that round badly (just above powers of two, over forty powers of two, sparse, near
underflow and overflow, or one by one), an evaluation and a machine, and steers by the largest error over bound. The
evaluations are all correct: `tests/benchmarks/evaluations.py` has them. A ratio above 1 would be a false alarm.

| stage | trials | largest error / bound | reached by |
| --- | --- | --- | --- |
"""


def main() -> int:
    """Write the table; 1 if anything lies outside its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", action="append", choices=tuple(EVALUATIONS))
    parser.add_argument("--out", type=Path, help="Markdown file; without it the table is printed")
    asked = parser.parse_args()
    lines, worst = [], 0.0
    for name in asked.stage or EVALUATIONS:
        found = search(name, asked.examples, seed=asked.seed)
        lines.append(f"| {name} | {asked.examples} | {found.ratio:.3f} | {found.evaluation} |")
        worst = max(worst, found.ratio)
    command = f"python tests/benchmarks/bound_search.py --examples {asked.examples} --seed {asked.seed}"
    foot = (
        f"\nMade with `{command}`, adalora_ref {ref.__version__}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}, Hypothesis {hypothesis.__version__}.\n"
    )
    text = HEAD + "\n".join(lines) + "\n" + foot
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0 if worst <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
