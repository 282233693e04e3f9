"""How many times larger than the reference's own error the bounds are: the median by stage and dtype, over fixed cases.

A bound that grows loses power without failing a test, so the figures stand in tests/slack.json and may not grow. All
cases are small here: the longer a sum, the further its worst case lies from what happens, whatever the bound.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.lifting import ratio
from adalora_ref.conformance.seen import case_inputs
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Lane, Target, on_host
from adalora_ref.convention import SPEC

FILE = Path(__file__).parent.parent / "slack.json"
DTYPES, CASES, SEED = ("float64", "float32"), 24, 7
STAGES_THAT_ROUND = (
    "init_factors", "linear_forward", "linear_backward", "increment", "merge", "unmerge", "orthogonality_penalty",
    "orthogonality_norm", "update_importance", "triplet_scores", "adamw_step", "init_state", "train_step",
)  # fmt: skip


def slacks(name: str, dtype: str) -> Iterator[float]:
    """Bound over error of the worst element of each tensor of each case; exact and unbounded ones say nothing."""
    stage, lane = next(s for s in STAGES if s.name == name), Lane(dtype, "float32", SPEC)
    for index in range(CASES):
        inputs = case_inputs(stage, dtype, SEED, index, small=True)
        got = Target("adalora_ref", reference()).answer(stage, inputs, lane)
        try:
            expected = stage.expect(inputs, lane)
        except Undecided:
            continue
        for path, want in expected.items():
            error = np.asarray(want.error)
            largest = float(np.max(ratio(on_host(got[path]), want), initial=0.0))
            if np.all(np.isfinite(error)) and largest > 0.0:
                yield 1.0 / largest


def median_slack(name: str, dtype: str) -> float:
    """The median over all tensors of all cases, in three digits."""
    found = float(statistics.median(slacks(name, dtype)))
    return round(found, 2 - math.floor(math.log10(found)))


def main() -> int:
    """Print the figures, or write them where the test reads them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name} instead of printing")
    asked = parser.parse_args()
    held = {name: {dtype: median_slack(name, dtype) for dtype in DTYPES} for name in STAGES_THAT_ROUND}
    text = json.dumps(held, indent=1) + "\n"
    if asked.write:
        FILE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
