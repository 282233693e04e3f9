"""A program in any language as a target: it is asked case by case, and answers with files of tensors."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from adalora_ref.array import Array
from adalora_ref.conformance import protocol
from adalora_ref.conformance.conversation import Conversation
from adalora_ref.conformance.limits import SECONDS
from adalora_ref.conformance.protocol import Hello, ProtocolError
from adalora_ref.conformance.serial import path_of, plain_of, tensors_of, with_normals
from adalora_ref.conformance.target import Lane, Target, spoken
from adalora_ref.conformance.tensor_files import read, write

if TYPE_CHECKING:
    from adalora_ref.conformance.stages import Stage

SPARE = 2**20
"""Bytes that a file of results may have beyond four times those of its case."""


@dataclass(frozen=True)
class Program(Target):
    """A program that speaks protocol 1, under the name that it gives itself; `held` is what it says it can do."""

    held: Hello
    _: KW_ONLY
    conversation: Conversation
    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    def lacks(self, stage: Stage, options: Sequence[str]) -> str:
        """Why the program cannot be asked for *stage* with these optional arguments, or nothing."""
        if stage.name not in self.held.stages:
            return f"the target has no {stage.name}"
        lacking = [option for option in options if option not in self.held.options[stage.name]]
        return f"the target's {stage.name} takes no {' and no '.join(lacking)}" if lacking else ""

    def limit(self, seconds: float) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing: the conversation has a limit of its own, after which there is nobody left to ask."""
        return nullcontext()

    def answer(self, stage: Stage, inputs: dict[str, Any], lane: Lane) -> dict[str, Any]:
        """Ask for one case and read what came of it.

        Raises
        ------
        CannotExpress, ProgramError
            If the program refuses the case, or was unable to compute it.
        ProtocolError
            If it does not keep to the protocol.
        """
        number, whole = next(self.numbers), with_normals(inputs)
        tensors, results = (self.folder / f"{number}-{kind}.safetensors" for kind in ("case", "results"))
        case = {"stage": stage.name, "convention": lane.convention.name, "dtype": lane.dtype}
        try:
            write(tensors, tensors_of(whole))
            asked = protocol.request(number, case | {"arguments": plain_of(whole)}, tensors, results)
            answered = self.conversation.ask(asked, f"{stage.name} in {lane.dtype}")
            protocol.read_answer(answered, number)
            return read_results(results, 4 * tensors.stat().st_size + SPARE)
        finally:
            for path in (tensors, results):
                with suppress(OSError):
                    path.unlink()


def read_results(path: Path, largest: int) -> dict[str, Array]:
    """Read a program's results, each under the path that `leaves` gives it; 32-bit integers may stand for 64-bit ones.

    Raises
    ------
    ProtocolError
        If there is no such file, or it is not what it should be.
    """
    try:
        tensors = read(path, largest).tensors
    except (OSError, ValueError) as error:
        raise ProtocolError(f"the program's results cannot be read: {error}") from None
    for name in tensors:
        if path_of(name) == name or spoken(path_of(name)) != name:
            raise ProtocolError(f"the program's results must have the names of docs/verify/stages.md; got {name!r}")
    return {path_of(name): a.astype(np.int64) if a.dtype == np.int32 else a for name, a in tensors.items()}


@contextmanager
def running(command: str, *, seconds: float = SECONDS) -> Iterator[Program]:
    """Start a program, hear what it can do, and end it in the end; its files live as long as it does.

    Parameters
    ----------
    command
        The program and its arguments, as a shell would read them.
    seconds
        The time limit of each of its answers.

    Raises
    ------
    ProtocolError
        If it cannot be started, or does not speak the protocol.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ProtocolError(f"the command of a program must be one that a shell can read: {error}") from None
    if not words:
        raise ProtocolError("a program is written exec:COMMAND; got no command")
    with TemporaryDirectory(prefix="adalora-ref-") as folder:
        conversation = Conversation(words, seconds=seconds)
        try:
            held = protocol.read_hello(conversation.ask(protocol.hello(), "the greeting"))
            yield Program(held.name, held, conversation=conversation, folder=Path(folder))
        finally:
            conversation.end()
