"""What `adalora-ref explain` does, once its arguments are read."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console

from adalora_ref.explain import asking, playing, showing
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.stages import STAGES, Stage


def run(stage: str | None, options: Options, console: Console, *, check: bool) -> int:
    """Explain *stage*, play the run, or list what there is; return the exit status.

    Raises
    ------
    ValueError
        If there is no such stage, or an option asks for what a stage has not.
    """
    if stage in {None, "run"}:
        if check or options != Options():
            raise ValueError("the options are those of a stage; without one, and for run, there are none")
        (showing.list_stages if stage is None else playing.play)(console)
        return 0
    if stage not in STAGES:
        raise ValueError(f"the stage must be one of {', '.join((*STAGES, 'run'))}; got {stage!r}")
    row = STAGES[stage]
    _require_used(stage, row, options)
    worked = row.work(options)
    if check:
        return asking.ask(row, worked, options, console)
    showing.show(row, worked, options, console)
    return 0


def _require_used(stage: str, row: Stage, options: Options) -> None:
    """Refuse an option that the numbers of a stage do not depend on, as run refuses them all."""
    plain = asdict(Options())
    idle = [_flag(name) for name, value in asdict(options).items() if value != plain[name] and name not in row.uses]
    if idle:
        raise ValueError(f"the options of {stage} are {', '.join(map(_flag, row.uses))}; got {', '.join(idle)}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
