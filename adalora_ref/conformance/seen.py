"""One case and what came of it: the arguments, what the oracles say, and what a target returned."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from adalora_ref.conformance.calls import Outputs
from adalora_ref.conformance.cases import Draw, Inputs
from adalora_ref.conformance.expectations import Expectation
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import Lane, Target

NOT_DRAWN = -1
"""The number of a case that no generator gave: its arguments are all there is of it."""


class Seen(NamedTuple):
    """A case that a target answered: what it was given, what it returned, what was expected, whether it failed.

    `returned` is what the target handed out, `outputs` a copy of it on the host, made at once.
    """

    target: Target
    lane: Lane
    seed: int
    number: int
    inputs: Inputs
    returned: Outputs
    outputs: Outputs
    expected: Expectation
    failed: bool


def case_inputs(stage: Stage, dtype: str, seed: int, index: int, *, small: bool = False) -> Inputs:
    """The arguments of one case, the same on every machine; its stable id is stage/dtype/seed/index.

    *small* asks for a small case where this is a large one.
    """
    digest = hashlib.sha256(f"{stage.name}/{dtype}/{seed}/{index}".encode()).digest()
    return stage.draw(Draw(np.random.default_rng(int.from_bytes(digest[:8], "big")), dtype, index, small))


@lru_cache(maxsize=512)
def expectation(stage: Stage, lane: Lane, seed: int, index: int) -> Expectation:
    """What the oracles say of one case; the same for every library, so it is computed once."""
    return stage.expect(case_inputs(stage, lane.dtype, seed, index), lane)
