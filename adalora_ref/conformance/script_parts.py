"""What the text of a `repro.py` is put together from."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from adalora_ref.array import Array
from adalora_ref.conformance import standalone
from adalora_ref.conformance.literals import Text, literal
from adalora_ref.conformance.standalone_comparison import Wanted
from adalora_ref.conformance.verdict import Expected
from adalora_ref.factors import Factors

Data: TypeAlias = dict[str, Array]
"""What is too large for the text: arrays by the names under which the script finds them in the file beside it."""

LARGEST = 800
"""Numbers that stand in a script; with more, all arrays go into a file beside it."""

READING = 'data = np.load(Path(__file__).with_name("data.npz"), allow_pickle=False)'

STATUS = "The exit status is 1 if a result departs from what it should be, 0 if none does."
EXPECTED = "The results to 50 digits, as two doubles, and the bound of their error."
SHARED = "# THE SAME IN EVERY REPRODUCTION"


class About(NamedTuple):
    """Of what a script is: where it stands, what it shows, the target, its library, and what is told of the failure."""

    file: Path
    says: str
    spec: str
    library: str
    equation: str
    diagnosis: str
    step: str = ""

    def told(self, **more: str) -> list[str]:
        """What `main` is told, as keyword arguments."""
        held = more | {"equation": self.equation, "step": self.step, "diagnosis": self.diagnosis}
        return [f"{name}={text!r}" for name, text in held.items() if text or name == "equation"]


def joined(sections: list[str]) -> str:
    """The whole text."""
    return "\n\n\n".join(filter(None, sections)) + "\n"


def heading(says: str, file: Path, *notes: str) -> str:
    """The docstring of a script: what it shows, the command, and what one needs to know."""
    return "\n\n".join([f'"""{says}', f"    {command(file)}", *notes]) + '\n"""'


def command(file: Path) -> str:
    """The command that runs a script, as a shell takes it."""
    return f"python {shlex.quote(file.as_posix())}"


def with_what(needs: Sequence[str], beside: str = "the target") -> str:
    """What a script takes beside the target."""
    return f"It is shown with {' and '.join(['NumPy', *needs]) if needs else 'NumPy alone'} beside {beside}."


def ending(*arguments: str) -> str:
    """The call of `main`."""
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return indented('if __name__ == "__main__":', f"sys.exit(main(\n{lines}))")


def returns(name: str, says: str, value: Any) -> str:
    """A function without arguments that returns *value*."""
    return indented(f"def {name}():", f'"""{says}"""\nreturn {literal(value)}')


def indented(head: str, body: str) -> str:
    """A statement with its block."""
    return head + "".join(f"\n    {line}" for line in body.splitlines())


def imports(*modules: ModuleType, others: tuple[str, ...] = ()) -> str:
    """The imports of modules that are copied, the kit left out, of *others*, and of what each script needs."""
    plain, parts = {"import sys"}, {"pathlib": {"Path"}}
    for module in modules:
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.Import):
                plain |= {f"import {name.name} as {name.asname}" if name.asname else f"import {name.name}"
                          for name in node.names}  # fmt: skip
            elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith(("adalora_ref", "__future__")):
                parts.setdefault(str(node.module), set()).update(name.name for name in node.names)
    library = sorted(line for line in plain if " as " not in line)
    library += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(parts.items())]
    third = sorted({line for line in plain if " as " in line} | {f"import {name}" for name in others})
    return "\n".join(["from __future__ import annotations", "", *library, "", *third])


def body(module: ModuleType) -> str:
    """What a module defines, without its docstring, its imports and its words to linters."""
    return re.sub(r"  # noqa.*", "", inspect.getsource(module).split("\n\n\n", 1)[1]).strip()


def wanted(expected: Mapping[str, Expected]) -> dict[str, Wanted]:
    """What is expected; a part that is zero everywhere is left out."""
    return {
        name: Wanted(want.high, _unless_zero(want.low), _unless_zero(want.error), want.dtype)
        for name, want in expected.items()
    }


def _unless_zero(a: Any) -> Any:
    return a if np.any(a) else 0.0


# DATA BESIDE THE TEXT


def set_aside(parts: dict[str, Any]) -> tuple[dict[str, Any], Data]:
    """The parts of a script and no data if they are small, else the parts with words for their arrays, and these."""
    data: Data = {}
    replaced = {name: _replaced(value, name, data) for name, value in parts.items()}
    return (replaced, data) if sum(a.size for a in data.values()) > LARGEST else (parts, {})


def _replaced(value: Any, name: str, data: Data) -> Any:
    """The value with a word for each array, under which it goes to *data*."""
    if isinstance(value, np.ndarray):
        data[name] = value
        return Text(f'data["{name}"]')
    if isinstance(value, Factors):
        return standalone.Factors(*(_replaced(a, f"{name}.{part}", data) for part, a in zip("BsA", value, strict=True)))
    if isinstance(value, dict):
        return {key: _replaced(item, f"{name}[{key}]", data) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
        return type(value)(*(_replaced(item, f"{name}.{field}", data) for field, item in items))
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, f"{name}[{place}]", data) for place, item in enumerate(value))
    return value
