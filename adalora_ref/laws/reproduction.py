"""What stays of a law that broke: a script with the case in it, and, if asked, the case as a permanent vector."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from adalora_ref.array import HALF
from adalora_ref.conformance.suite_writing import ACCUMULATION, add_case
from adalora_ref.laws.asking import Answer, Failed
from adalora_ref.laws.literal import source
from adalora_ref.laws.running import Failure
from adalora_ref.laws.searching import Outcome

FOLDER = Path("adalora-ref-laws")
"""In the current directory, a folder for each law that broke."""

SCRIPT = '''\
"""{law} broke for {target}.

{says}

Run it where the target can be imported: python {path} [TARGET]
"""

import sys
import traceback

from numpy import array, bool_, float32, float64  # noqa: F401

from adalora_ref import *  # noqa: F403
from adalora_ref.conformance.target import TargetError, load_target
from adalora_ref.laws import Broken, {imports}

{case}

try:
    target = load_target(sys.argv[1] if len(sys.argv) > 1 else "{target}")
    {check}
except TargetError as error:
    sys.exit(f"Error: {{error}}")
except Broken as error:
    if error.__cause__:
        traceback.print_exception(error.__cause__)
    sys.exit(f"{law} is broken: {{error}}")
print("{law} holds")
'''


def script(outcome: Outcome, failure: Failure, target: str, path: Path) -> str:
    """The text of ``repro.py``."""
    name = str(outcome.law.name)
    if failure.case is None:
        imports, case, check = (
            "check_run",
            f"RUN = {failure.blob.removeprefix('@reproduce_failure')}",
            "check_run({}, target, RUN)",
        )
        case += "\n# Its rules:" + "".join(f"\n#   {line}" for line in failure.steps.splitlines())
    else:
        items = ",\n".join(f"    {key!r}: {source(value)}" for key, value in failure.case.items())
        imports, case = "check, law_named", f"CASE = {{\n{items},\n}}"
        check = f'check(law_named({{}}), target, "{failure.dtype}", CASE)'
    return SCRIPT.format(
        law=name,
        says=outcome.law.says,
        target=target,
        path=path.as_posix(),
        imports=imports,
        case=case,
        check=check.format(f'"{name}"'),
    )


def write_reproduction(outcome: Outcome, target: str, folder: Path = FOLDER) -> Path:
    """Write ``<folder>/<law>/repro.py``; return its path."""
    if outcome.failure is None:
        raise ValueError(f"only a law that broke leaves a case; got {outcome.law.name}, {outcome.verdict}")
    path = folder / str(outcome.law.name) / "repro.py"
    _put(path, script(outcome, outcome.failure, target, path).encode("utf-8"))
    return path


def keep(answer: Answer | Failed, law: str, folder: Path) -> Path:
    """Add the call that departs to a suite of golden vectors, ``<folder>/<convention>``; return the path of the case.

    ``adalora-ref vectors check`` takes such a suite. Numbers are never given twice:
    ``<stage>/<dtype>/<law>/0.json``, then 1, and so on.

    Raises
    ------
    ValueError
        If no suite can hold the case, such as one in which correct computations may differ; it says why.
    """
    stage, lane = answer.stage, answer.lane
    known = {name: answer.inputs[name] for name in ARGUMENTS.get(stage.name, answer.inputs) if name in answer.inputs}
    if lane.dtype not in HALF:  # how 16-bit results are computed is then no matter, and one suite holds one way
        lane = lane._replace(accumulation=ACCUMULATION)
    suite = folder / lane.convention.name
    return suite / f"{add_case(suite, stage, known, lane, law.lower()[:LONGEST_SOURCE])}.json"


LONGEST_SOURCE = 40
"""Letters of the source in the name of a case."""

LAYER = ("x", "W", "factors", "scale", "bias", "dropout_mask", "dy")
AVERAGES = ("state", "weights", "grads", "beta1", "beta2")

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "linear_forward": LAYER,
    "linear_backward": LAYER,
    **dict.fromkeys(("increment", "merge", "unmerge"), ("W", "factors", "scale")),
    **dict.fromkeys(("orthogonality_penalty", "orthogonality_norm"), ("factors",)),
    "update_importance": AVERAGES,
    "triplet_scores": ("state",),
    **dict.fromkeys(("phase_at", "budget_at", "allocates_at"), ("schedule", "steps")),
    "adamw_step": ("weights", "grads", "state", "learning_rate", "weight_decay"),
}
"""What a stage takes; a law's case has more, such as an order or a direction."""


def require_place(folder: Path) -> None:
    """Refuse, with ValueError, a folder in which nothing can be written, before any work is done."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"reproductions must be written into a folder; got {str(folder)!r}")


def _put(path: Path, data: bytes) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        shutil.move(beside, path)
    finally:
        beside.unlink(missing_ok=True)
