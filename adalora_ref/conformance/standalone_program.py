"""What a reproduction of a program carries: the protocol for one case, and a reader of safetensors files."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from adalora_ref.conformance.standalone_comparison import Wanted, compared, outcome


def main(command: str, *, seconds: float = 60.0, **story: str) -> int:
    """Ask the program for the case beside this file, print where its result departs, and return 1; or 0."""
    folder = Path(__file__).resolve().parent
    told = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    with TemporaryDirectory() as place:
        results = Path(place) / "results.safetensors"
        case = {name: told[name] for name in ("stage", "convention", "dtype", "arguments")}
        files = {"tensors": str(folder / "inputs.safetensors"), "results": str(results)}
        try:
            reason = asked(command, {"id": 0, "case": case, **files}, seconds)
        except FileNotFoundError as error:
            print(f"the program cannot be started here ({error}): run this where it can be", file=sys.stderr)
            return 2
        lines = [f"  reason     {reason}"] if reason else answered(results, wanted(folder, told["results"]))
    return outcome(f"{told['stage']} of {command}", lines, **story)


def asked(command: str, request: dict[str, Any], seconds: float) -> str:
    """Greet the program and ask for one case; why there is no result, or nothing."""
    pipe: Any = subprocess.PIPE
    process: Any = subprocess.Popen(shlex.split(command), stdin=pipe, stdout=pipe)  # noqa: S603  the user's own
    end = threading.Timer(seconds, process.kill)
    end.start()
    answer = b""
    try:
        with process:
            for line in ({"protocol": 1, "hello": "adalora-ref"}, request):
                process.stdin.write(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline()
    except BrokenPipeError:
        answer = b""
    finally:
        end.cancel()
    if not answer:
        return f"the program ended before it answered, or took longer than {seconds:g} s"
    return "" if b'"ok"' in answer else f"it answered {answer.decode('utf-8', 'replace').strip()}"


def answered(results: Path, expected: dict[str, Wanted]) -> list[str]:
    """What is wrong with the file of results, in lines; a program may write 32-bit integers."""
    try:
        held = tensors(results)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return [f"  reason     the results cannot be read: {type(error).__name__}: {error}"]
    return compared({n: a.astype(np.int64) if a.dtype == np.int32 else a for n, a in held.items()}, expected)


def wanted(folder: Path, dtypes: dict[str, str]) -> dict[str, Wanted]:
    """What must come back."""
    held = tensors(folder / "expected.safetensors")
    return {n: Wanted(held[f"{n} value"], held[f"{n} rest"], held[f"{n} bound"], d) for n, d in dtypes.items()}


DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4", "BOOL": "?"}


def tensors(path: Path) -> dict[str, Any]:
    """Read a safetensors file: eight bytes with the length of the header, the header as JSON, the arrays."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    spans = {name: data[begin:][slice(*told["data_offsets"])] for name, told in header.items()}
    return {n: np.frombuffer(spans[n], DTYPES[t["dtype"]]).reshape(t["shape"]) for n, t in header.items()}
