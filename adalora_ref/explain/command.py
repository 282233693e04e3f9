"""What `adalora-ref explain` does, once its arguments are read."""

from __future__ import annotations

from rich.console import Console

from adalora_ref.explain import asking, playing, showing
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.stages import STAGES


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
    worked = row.work(options)
    if check:
        return asking.ask(row, worked, options, console)
    showing.show(row, worked, options, console)
    return 0
