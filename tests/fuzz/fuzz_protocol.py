"""Fuzz what the kit reads of a program: its greeting, its answers, its files of results.

    python tests/fuzz/fuzz_protocol.py --minutes 10 --seed 0

Valid replies and files are mutated: bytes, JSON values, headers, offsets, sizes. Whatever comes of it must be a result,
or the one exception that the caller expects, in one printable sentence, within bounds of memory and time. What is read
is held against what the bytes say, and now and then a real program says it. The draws follow from the seed; the minutes
are of the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from adalora_ref.conformance.program import SPARE, read_results, running
from adalora_ref.conformance.protocol import (
    OPTIONS,
    Hello,
    ProgramError,
    ProtocolError,
    hello,
    read_answer,
    read_hello,
    request,
)
from adalora_ref.conformance.seen import case_inputs
from adalora_ref.conformance.serial import plain_of, tensors_of, with_normals
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import CannotExpress, Lane, spoken
from adalora_ref.conformance.tensor_files import DTYPES, write
from adalora_ref.convention import SPEC

LARGEST = SPARE + 4 * 2**12
"""Bytes of a file of results that is read."""

SECONDS = 3.0
"""In which one input must be dealt with; the machine may be busy."""

BYTES = 2**23
"""Memory that one input may take beyond 40 times its size."""

ADDRESS_SPACE = 2**31
"""Beyond what the process has at the start."""

HELLO = {
    "protocol": 1,
    "name": "fuzz",
    "stages": ["merge", "allocate", "linear_forward"],
    "dtypes": ["float64", "float32"],
    "accumulation": "float32",
    "options": {"allocate": [], "linear_forward": ["bias"]},
}
ANSWERS = [{"id": 3, "ok": True}, {"id": 3, "refused": "no such option"}, {"id": 3, "error": "out of registers"}]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 2**30, 2**31, 2**53, 2**63, 2**64, 10**400, -(2**70), 0.5, 3.0, 1e308, "", "x",
    "F64", "BOOL", "merge", "float64", "\x00", "\x1b[2J", "\ud800", "Ж" * 300, "a" * 70_000, [], {}, [[]], [1, 2],
    [0, 8], [-8, 0], {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}, [0] * 9, [2**30] * 3, ["merge", "merge"],
]  # fmt: skip
RAW = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"[" * 3000, b'{"a":' * 3000, b"\xff\xfe", b"\x00", b"{}", b",",
    b'"\\ud800"', b"1" * 5000, b"[" * 900 + b"]" * 900, b'{"id":3,"id":3}', b"// no", b"'x'", b"\r\n", b"\xef\xbb\xbf",
]  # fmt: skip


# MUTATION


def mutated_json(rng: random.Random, value: Any) -> Any:  # noqa: PLR0911  a return for each mutation
    """Return *value* with something in it replaced, renamed, removed, doubled or added."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return rng.choice(VALUES)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        how = rng.randrange(3)
        if how == 0:
            return value[:place] + value[place + 1 :]
        return [*value[:place], mutated_json(rng, value[place]), *value[place + (how == 1) :]]
    key = rng.choice(list(value))
    how = rng.randrange(5)
    if how == 0:
        return {name: item for name, item in value.items() if name != key}
    if how == 1:
        return {(str(rng.choice(VALUES))[:70_000] if name == key else name): item for name, item in value.items()}
    if how == 2:
        return value | {str(rng.choice(VALUES)): rng.choice(VALUES)}
    return value | {key: mutated_json(rng, value[key])}


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return *data* with bytes flipped, removed, doubled, inserted or cut off."""
    held = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(held) + 1)
        how = rng.randrange(6)
        if how == 0 and held:
            held[place % len(held)] = rng.randrange(256)
        elif how == 1:
            del held[place : place + rng.choice((1, 1, 2, 8, 64))]
        elif how == 2:
            held[place:place] = rng.randbytes(rng.choice((1, 2, 8)))
        elif how == 3:
            held[place:place] = rng.choice(RAW)
        elif how == 4:
            held[place:place] = held[place : place + rng.choice((1, 8, 40))]
        elif rng.random() < 0.2:
            del held[place:]
    return bytes(held)


def spelled(rng: random.Random, value: Any) -> bytes:
    """Write JSON in one of several spellings, at times with a key twice."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, None, 1)))
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1 and b'"dtype"' in data:
        data = data.replace(b'"dtype"', b'"dtype": "F32", "dtype"', 1)
    return data


def line(rng: random.Random, value: Any) -> bytes:
    """A reply, mutated as JSON, as bytes or both; at times large."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        value = mutated_json(rng, value)
    data = spelled(rng, value)
    if rng.random() < 0.4:
        data = mutated_bytes(rng, data)
    return (data + rng.choice(RAW) * rng.choice((1, 100, 5000)))[: 2**20] if rng.random() < 0.02 else data


def file(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A file of results, mutated in its header, its body or its length."""
    data = rng.choice(seeds)
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    how = rng.randrange(8)
    if how == 0:
        return mutated_bytes(rng, data)
    if how == 1:
        names = list(header)
        a, b = rng.choice(names), rng.choice(names)
        header[a], header[b] = header[b], header[a]  # the same tensors under exchanged names
    if how == 2:
        entry = header[rng.choice(list(header))]
        for bound in (0, 1):
            entry["data_offsets"][bound] += rng.choice((0, 1, -1, 8, -8, 4, 2**30, 2**62))
    if how == 3:
        entry = header[rng.choice(list(header))]
        entry["shape"] = rng.choice(
            (entry["shape"] + [1], entry["shape"][::-1], [math.prod(entry["shape"])], [0, 2**30, 2**30])
        )
    if how == 4:
        entry = header[rng.choice(list(header))]
        entry["dtype"] = rng.choice([*DTYPES, "F8_E4M3", "I16", "f64", ""])
    if how == 5:
        body = mutated_bytes(rng, body)
    if how >= 6:
        header = mutated_json(rng, header)
    if rng.random() < 0.05:
        header = bomb(rng)
    text = header if isinstance(header, bytes) else spelled(rng, header)
    size = (
        len(text) if rng.random() < 0.9 else rng.choice((0, 1, len(text) - 1, len(text) + 1, 2**24, 2**63, 2**64 - 1))
    )
    return struct.pack("<Q", max(size, 0)) + text + body


def bomb(rng: random.Random) -> bytes:
    """A header that is larger in memory than on the disk."""
    times = rng.choice((1000, 30_000, 300_000))
    unit = rng.choice((b"{}", b"[]", b"0", b"1e5", b'""', b"1234567", b'{"a":0}'))
    inside = b",".join([unit] * min(times, 10**6 // len(unit)))
    return rng.choice(
        (b'{"a":[' + inside + b"]}", b'{"a":{"dtype":"F64","data_offsets":[0,0],"shape":[' + inside + b"]}}")
    )


# WHAT MUST HOLD


class FoundError(AssertionError):
    """Something that must not be."""


def in_one_sentence(error: Exception) -> None:
    """The message of a refusal is one line that can be printed, of a length that can be read."""
    text = str(error)
    if not text or not text.isprintable() or len(text) > 1500:
        raise FoundError(f"the message must be one printable line of at most 1500 characters; got {text[:300]!r}")


def try_hello(data: bytes) -> str:
    """A greeting gives a `Hello` of known names, or `ProtocolError`."""
    try:
        held = read_hello(data)
    except ProtocolError as error:
        in_one_sentence(error)
        return "greeting refused"
    known = isinstance(held, Hello) and held.name.isprintable() and set(held.stages) <= OPTIONS.keys()
    if not known or held.options.keys() != set(held.stages):
        raise FoundError(f"a greeting was taken that says what cannot be: {held!r}"[:300])
    return "greeting taken"


def try_answer(data: bytes) -> str:
    """An answer is one of the three, to the request with that number, or `ProtocolError`."""
    try:
        read_answer(data, 3)
    except (CannotExpress, ProgramError) as error:
        in_one_sentence(error)
        said = "answer: refused" if isinstance(error, CannotExpress) else "answer: error"
    except ProtocolError as error:
        in_one_sentence(error)
        return "answer refused by the kit"
    else:
        said = "answer: ok"
    held = json.loads(data)
    if held["id"] != 3 or isinstance(held["id"], bool):
        raise FoundError("an answer to another request was taken")
    return said


def try_file(data: bytes, path: Path) -> str:
    """A file gives the arrays that safetensors finds in it, or `ProtocolError`."""
    path.write_bytes(data)
    try:
        held = read_results(path, LARGEST)
    except ProtocolError as error:
        in_one_sentence(error)
        return "file refused"
    theirs = {
        name: (entry["dtype"], entry["shape"], bytes(entry["data"])) for name, entry in safetensors.deserialize(data)
    }
    if len(theirs) != len(held):
        raise FoundError("safetensors finds other tensors in a file that was taken")
    for name, a in held.items():
        dtype, shape, content = theirs[spoken(name)]
        ours = a.astype(np.int32) if dtype == "I32" else a
        if list(a.shape) != shape or ours.tobytes() != content or ours.dtype != DTYPES[dtype]:
            raise FoundError(f"safetensors reads {name!r} in another way")
    return "file taken"


def try_program(data: bytes, path: Path) -> str:
    """A program that says these bytes, whatever it is asked, is taken for one or ends in `ProtocolError`."""
    path.write_bytes(data)
    try:
        with running(f"sh -c 'cat {path}; cat > {path}.heard'", seconds=0.5) as program:
            program.answer(STAGES[3], case_inputs(STAGES[3], "float64", 0, 1), Lane("float64", "float32", SPEC))
    except (CannotExpress, ProgramError, ProtocolError) as error:
        in_one_sentence(error)
        return f"program: {type(error).__name__}"
    raise FoundError("a program was believed that leaves no file")


def seeds(folder: Path) -> list[bytes]:
    """Valid files: the arguments of a case of every stage, which have every dtype, and results with their names."""
    found = []
    for stage in STAGES:
        for dtype in ("float64", "bfloat16"):
            tensors = tensors_of(with_normals(case_inputs(stage, dtype, 0, 3))) or {"b": np.arange(5, dtype=np.int32)}
            write(folder / "seed", tensors)
            found.append((folder / "seed").read_bytes())
    return found


def measured(attempt: Callable[[bytes], str], data: bytes, *, watched: bool) -> str:
    """Make the attempt within its time, and where *watched* within its memory."""
    if watched:
        tracemalloc.start()
    begun = time.process_time()
    try:
        outcome = attempt(data)
        took = time.process_time() - begun
        peak = tracemalloc.get_traced_memory()[1] if watched else 0
    finally:
        tracemalloc.stop()
    if took > SECONDS * (5 if watched else 1):
        raise FoundError(f"{len(data)} bytes took {took:.1f} s")
    if peak > 40 * len(data) + BYTES:
        raise FoundError(f"{len(data)} bytes took {peak} bytes of memory")
    return outcome


def fuzz(minutes: float, seed: int, folder: Path) -> tuple[Counter[str], list[str], int]:
    """Draw inputs until the time is over; return what came of them, one finding for each place, and the largest."""
    rng, outcomes, largest = random.Random(seed), Counter[str](), 0
    found: dict[str, str] = {}
    files, path, until = seeds(folder), folder / "results", time.process_time() + 60 * minutes
    stage = STAGES[3]
    inputs = case_inputs(stage, "float64", 0, 1)
    asked = request(3, {"stage": stage.name, "arguments": plain_of(inputs)}, path, path)
    while time.process_time() < until:
        kind = rng.randrange(3)
        if rng.random() < 0.002:
            replies = [line(rng, HELLO), *(line(rng, answer | {"id": 0}) for answer in ANSWERS[:1])]
            data, attempt = b"\n".join(replies), lambda content: try_program(content, path)
        elif kind == 0:
            data, attempt = line(rng, HELLO if rng.random() < 0.95 else json.loads(hello())), try_hello
        elif kind == 1:
            data, attempt = line(rng, rng.choice(ANSWERS) if rng.random() < 0.95 else json.loads(asked)), try_answer
        else:
            data, attempt = file(rng, files), lambda content: try_file(content, path)
        largest = max(largest, len(data))
        try:
            outcomes[measured(attempt, data, watched=rng.random() < 0.05 or len(data) > 10**5)] += 1
        except Exception as error:  # noqa: BLE001  whatever is raised here is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
            outcomes["FOUND"] += 1
            found.setdefault(place, f"{place}: {str(error)[:200]!r}; first by {data[:200]!r}")
    return outcomes, list(found.values()), largest


def main() -> int:
    """Fuzz for so many minutes of processor time; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_SPACE, taken + ADDRESS_SPACE))
    with tempfile.TemporaryDirectory() as folder:
        outcomes, found, largest = fuzz(options.minutes, options.seed, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{outcomes.total()} inputs of at most {largest} bytes, seed {options.seed}, peak memory {peak:.0f} MiB")
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:>9}  {outcome}")
    print("\n".join(found) or "nothing was found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
