"""What a reproduction of an allocator carries besides: how it is fed."""

from __future__ import annotations

import copy
from typing import Any

from adalora_ref.conformance.standalone import Departed, changed, named, on_host


def fed(target: Any, schedule: Any, betas: dict[str, float], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Start the allocator, update it at every step, and return what it said of the last; it may change no answer."""
    target.start(copy.deepcopy(steps[0]["weights"]), schedule, **betas)
    said: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for number, step in enumerate(steps):
        before, said = said, target.update(number, step["weights"], step["grads"])
        now = named(before)
        if names := changed({name: a for name, a in kept.items() if name in now}, now):
            raise Departed(f"update changed {names[0]} that the step before returned")
        kept = {name: on_host(value) for name, value in named(said).items()}
    return said
