"""What a reproduction of a program carries: the protocol for one case, and safetensors files."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from adalora_ref.conformance.standalone_comparison import Wanted, compared, outcome


class Unstarted(Exception):
    """Why the program cannot be asked at all, in words."""


def main(
    command: str,
    case: dict[str, Any],
    arrays: Callable[[], dict[str, Any]],
    expected: Callable[[], dict[str, Wanted]],
    *,
    seconds: float = 60.0,
    **story: str,
) -> int:
    """Ask the program for the case, print where its result departs, and return 1; or 0; 2 where it does not start."""
    with TemporaryDirectory() as place:
        tensors, results = (Path(place) / f"{name}.safetensors" for name in ("inputs", "results"))
        write(tensors, arrays())
        files = {"tensors": str(tensors), "results": str(results)}
        try:
            reason = asked(command, {"id": 0, "case": case, **files}, seconds)
        except (OSError, Unstarted) as error:
            print(f"the program cannot be started here ({error}): run this where it can be", file=sys.stderr)
            return 2
        lines = [f"  reason     {reason}"] if reason else answered(results, expected())
    return outcome(f"{case['stage']} of {command}", lines, **story)


def asked(command: str, request: dict[str, Any], seconds: float) -> str:
    """Greet the program and ask for one case; why there is no result, or nothing."""
    pipe: Any = subprocess.PIPE
    process: Any = subprocess.Popen(shlex.split(command), stdin=pipe, stdout=pipe)  # noqa: S603  the user's own
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    end = threading.Timer(seconds, stop)
    end.start()
    try:
        greeting = said(process, {"protocol": 1, "hello": "adalora-ref"})
        answer = said(process, request) if b'"protocol"' in greeting else b""
    finally:
        process.communicate()
        end.cancel()
    why = f"took longer than {seconds:g} s" if late.is_set() else f"ended with exit status {process.returncode}"
    if b'"protocol"' not in greeting:
        told = greeting.decode("utf-8", "replace").strip()
        raise Unstarted(f"to the greeting it answered {told}" if told else f"it {why} and did not answer the greeting")
    if not answer:
        return f"the program {why} and did not answer"
    return "" if b'"ok"' in answer else f"it answered {answer.decode('utf-8', 'replace').strip()}"


def said(process: Any, line: dict[str, Any]) -> bytes:
    """What the program answers to a line; nothing if it is gone."""
    try:
        process.stdin.write(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    answer: bytes = process.stdout.readline()
    return answer


def answered(results: Path, expected: dict[str, Wanted]) -> list[str]:
    """What is wrong with the file of results, in lines; a program may write 32-bit integers."""
    try:
        held = read(results)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return [f"  reason     the results cannot be read: {type(error).__name__}: {error}"]
    return compared({n: a.astype(np.int64) if a.dtype == np.int32 else a for n, a in held.items()}, expected)


DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "BOOL": "bool",
}


def read(path: Path) -> dict[str, Any]:
    """Read a safetensors file: eight bytes with the length of the header, the header as JSON, the arrays."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    spans = {name: data[begin:][slice(*told["data_offsets"])] for name, told in header.items()}
    return {n: np.frombuffer(spans[n], DTYPES[t["dtype"]]).reshape(t["shape"]) for n, t in header.items()}


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {}
    codes, data = {name: code for code, name in DTYPES.items()}, b""
    for name, a in arrays.items():
        raw, form = a.tobytes(), {"dtype": codes[a.dtype.name], "shape": list(a.shape)}
        header[name] = form | {"data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header, ensure_ascii=False).encode("utf-8")
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
