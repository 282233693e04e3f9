"""Fuzz the readers of golden vectors.

    python tests/fuzz/fuzz_vectors.py --minutes 10 --seed 0

Valid suites and valid results are mutated: bytes of a file; the JSON of a header, of a case, of the manifest, with the
hashes made right again so that the reader gets past them; single bits of results. A reader may accept an input, or
refuse it with a ValueError of one printable line; a result that differs by more than its bound must never pass. Memory,
time for an input and what is left on disk are watched. The first finding ends the process with status 1, and is printed
with what makes it again. The draws follow from the seed; the minutes are of the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from adalora_ref.conformance.answers import ENDING, Results, answer
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.suite import TINY, Case, Manifest, read_case, read_manifest
from adalora_ref.conformance.suite_writing import write_manifest
from adalora_ref.conformance.target import Target, spoken
from adalora_ref.conformance.tensor_files import read, write
from adalora_ref.conformance.vectors_check import check
from adalora_ref.conformance.verdict import Verdict, deviation

STAGES = ("linear_forward", "init_factors", "allocate", "update_importance", "train_step", "init_state")
"""Those of the small suites that are mutated."""

SECONDS = 20.0
"""No input may take longer; a whole valid check takes a fraction of one."""

MEGABYTES = 600
"""No input may make the process larger; the library alone takes 150."""

ADDRESS_SPACE = 2**32
"""Whatever wants more gets a MemoryError instead of the machine."""

WORDS: list[Any] = [
    *(0, 1, -1, 2**31, 2**63, 2**64, 10**30, 1e308, -0.0, 0.5, True, False, None),
    *("", "..", "../../etc/passwd", "/etc/passwd", "y", "a" * 300, "\x1b[2J", "\ud800", "\u202e", "NaN", "F64", "BF16"),
    *([], {}, [[]], [0], [2**30] * 8, {"tensor": "x"}, {"tensor": []}),
]
"""What is put in the place of other values."""

RAW = [
    *(b"", b"{", b"}", b'"', b",", b"[" * 50_000, b'{"a":' * 20_000),
    *(b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"\x00", b"\xff", b"\xef\xbb\xbf"),
]
"""What is spliced into the bytes of a file."""


class FindingError(Exception):
    """Something that should not be."""


# MUTATIONS


def spliced(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some of them changed, cut out, doubled, cut off, or replaced by something awkward."""
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    short = min(to, at + rng.randrange(1, 64))
    match rng.randrange(6):
        case 0:
            held = bytearray(data)
            for _ in range(rng.randrange(1, 8)):
                held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
            return bytes(held)
        case 1:
            return data[:at] + data[short:]
        case 2:
            return data[:at] + data[at:short] * 2 + data[short:]
        case 3:
            return data[:at]
        case 4:
            return data[:at] + rng.choice(RAW) + data[short:]
        case _:
            return data + rng.randbytes(rng.randrange(1, 64))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((value, key), *places(item))]


def bent(rng: random.Random, said: Any) -> None:
    """Change a value of JSON in place: one of its parts replaced, removed, doubled, renamed or exchanged."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        found = places(said)
        if not found:
            return
        holder, key = rng.choice(found)
        match rng.randrange(5):
            case 0:
                holder[key] = deepcopy(rng.choice(WORDS))
            case 1:
                del holder[key]
            case 2 if isinstance(holder, list):
                holder.insert(key, deepcopy(holder[key]))
            case 2 | 3 if isinstance(holder, dict):
                holder[str(rng.choice(WORDS))] = holder.pop(key) if rng.random() < 0.5 else deepcopy(holder[key])
            case _:
                other, elsewhere = rng.choice(found)
                with contextlib.suppress(KeyError, IndexError):
                    holder[key], other[elsewhere] = deepcopy(other[elsewhere]), deepcopy(holder[key])


def bent_file(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with its header changed as JSON, or its bytes changed."""
    if rng.random() < 0.4:
        return spliced(rng, data)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    bent(rng, header)
    text = json.dumps(header).encode()
    if rng.random() < 0.2:
        text = spliced(rng, text)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


# WHAT IS FUZZED


class Bench:
    """A valid suite of two cases of a stage in a dtype, with valid results."""

    def __init__(self, folder: Path, stage: str, dtype: str) -> None:
        self.folder, self.suite, self.results = folder, folder / "suite", folder / "results"
        manifest = read_manifest(TINY)
        names = [f"{stage}/{dtype}/tiny/{number}" for number in (0, 1)]
        cases = {name: manifest.cases[name] for name in names}
        self.manifest: Manifest = manifest._replace(cases=cases)
        for file in (file for files in cases.values() for file in files):
            (self.suite / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TINY / file, self.suite / file)
        write_manifest(self.suite, self.manifest)
        answer(self.suite, self.results, Target("adalora_ref", reference()))
        if any(row.verdict is not Verdict.PASS for row in check(self.suite, self.results)[1]):
            raise FindingError("the valid results of the valid suite do not pass")

    @contextlib.contextmanager
    def changed(self, path: Path, data: bytes) -> Any:
        """Give a file another content for a while."""
        before = path.read_bytes()
        path.write_bytes(data)
        try:
            yield
        finally:
            path.write_bytes(before)

    def judged(self) -> set[Verdict] | str:
        """The verdicts on the results; or, in words, why there are none."""
        try:
            return {c.verdict for row in check(self.suite, self.results)[1] for c in row.checks}
        except ValueError as error:
            return str(error)


def any_result(bench: Bench, rng: random.Random) -> str:
    """A file of results, its bytes or its header changed."""
    path = bench.results / (rng.choice(list(bench.manifest.cases)) + ENDING)
    data = bent_file(rng, path.read_bytes())
    name = path.relative_to(bench.results).as_posix().removesuffix(ENDING)
    with bench.changed(path, data):
        said = bench.judged()
        if isinstance(said, set) and said == {Verdict.PASS}:
            require_right(read_case(bench.suite, bench.manifest, name), read(path).tensors)
    return outcome(said)


def require_right(case: Case, got: dict[str, Any]) -> None:
    """What passes must have every element of every result within its bound, and nothing more or less."""
    if got.keys() != {spoken(path) for path in case.expected}:
        raise FindingError(f"{case.name} passes with {sorted(got)}")
    for path, want in case.expected.items():
        a = got[spoken(path)]
        if a.shape != want.high.shape or a.dtype.name != want.dtype or not np.all(deviation(a, want)[0] <= want.error):
            raise FindingError(f"{case.name}: {path} passes and is wrong")


def any_element(bench: Bench, rng: random.Random) -> str:
    """One element of a result, moved beyond its bound: it must fail."""
    name = rng.choice(list(bench.manifest.cases))
    path = bench.results / (name + ENDING)
    expected = read_case(bench.suite, bench.manifest, name).expected
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if start == len(data):
        return "empty"
    data[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)
    with bench.changed(path, bytes(data)):
        said = bench.judged()
        try:
            got = read(path).tensors
        except ValueError:
            return outcome(said)
        wrong = any(not np.all(deviation(got[spoken(k)], want)[0] <= want.error) for k, want in expected.items())
        if wrong != (isinstance(said, set) and Verdict.FAIL in said):
            raise FindingError(f"{name} is {'wrong' if wrong else 'right'}, and the verdict is {said}")
    return outcome(said)


def any_manifest(bench: Bench, rng: random.Random) -> str:
    """The manifest, its bytes or its members changed."""
    path = bench.suite / "manifest.json"
    data = path.read_bytes()
    if rng.random() < 0.3:
        data = spliced(rng, data)
    else:
        said = json.loads(data)
        bent(rng, said)
        data = json.dumps(said).encode()
    with bench.changed(path, data):
        return outcome(bench.judged())


def any_case(bench: Bench, rng: random.Random) -> str:
    """A file of a case changed, and its hash in the manifest made right."""
    name = rng.choice(list(bench.manifest.cases))
    file = rng.choice(list(bench.manifest.cases[name]))
    path, manifest = bench.suite / file, bench.suite / "manifest.json"
    data = path.read_bytes()
    if not file.endswith(".json"):
        data = bent_file(rng, data)
    elif rng.random() < 0.2:
        data = spliced(rng, data)
    else:
        said = json.loads(data)
        bent(rng, said["case"] if rng.random() < 0.5 else said)
        data = json.dumps(said).encode()
    said = json.loads(manifest.read_bytes())
    entry = next(entry for entry in said["cases"] if entry["name"] == name)
    entry["files"][file] = hashlib.sha256(data).hexdigest()
    with bench.changed(path, data), bench.changed(manifest, json.dumps(said).encode()):
        return outcome(bench.judged())


def any_diagnosis(bench: Bench, rng: random.Random) -> str:
    """The arguments of a case changed, and all its results wrong, so that the diagnosis computes with the arguments."""
    name = rng.choice(list(bench.manifest.cases))
    path, manifest, results = (
        bench.suite / f"{name}.json",
        bench.suite / "manifest.json",
        bench.results / (name + ENDING),
    )
    said = json.loads(path.read_bytes())
    bent(rng, said["case"]["arguments"])
    data = json.dumps(said).encode()
    listed = json.loads(manifest.read_bytes())
    entry = next(entry for entry in listed["cases"] if entry["name"] == name)
    entry["files"][f"{name}.json"] = hashlib.sha256(data).hexdigest()
    wrong = bytearray(results.read_bytes())
    wrong[8 + int.from_bytes(wrong[:8], "little") :] = bytes(len(wrong) - 8 - int.from_bytes(wrong[:8], "little"))
    changed = ((path, data), (manifest, json.dumps(listed).encode()), (results, bytes(wrong)))
    with contextlib.ExitStack() as stack:
        for file, content in changed:
            stack.enter_context(bench.changed(file, content))
        return outcome(bench.judged())


def one_file(bench: Bench, rng: random.Random) -> str:
    """All results in one file, its bytes or its header changed: what passes whole must be right whole."""
    path = bench.folder / "one.safetensors"
    names = list(bench.manifest.cases)
    held = {f"{name}/{key}": a for name in names for key, a in read(bench.results / (name + ENDING)).tensors.items()}
    write(path, held)
    path.write_bytes(bent_file(rng, path.read_bytes()))
    try:
        said = {c.verdict for row in check(bench.suite, path)[1] for c in row.checks}
    except ValueError as error:
        return outcome(str(error))
    if said == {Verdict.PASS}:
        got = Results(path, bench.manifest)
        for name in names:
            case = read_case(bench.suite, bench.manifest, name)
            given = got.of(case)
            require_right(case, given.outputs if given else {})
    return outcome(said)


def outcome(said: set[Verdict] | str) -> str:
    """Sum up; a refusal must be one printable line, and not a long one."""
    if isinstance(said, set):
        return "failed" if Verdict.FAIL in said else "not run" if Verdict.NOT_RUN in said else "accepted"
    if not said or not said.isprintable() or len(said) > 2000:
        raise FindingError(f"a refusal must be one line; got {said[:300]!r}")
    return "refused"


ATTACKS: tuple[Callable[[Bench, random.Random], str], ...] = (
    any_result,
    any_element,
    any_manifest,
    any_case,
    any_diagnosis,
    one_file,
)


def main() -> int:
    """Fuzz for so many minutes of CPU; return 1 at the first finding."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=int, help="run this input alone")
    parser.add_argument("--start", type=int, default=0, help="the first input")
    options = parser.parse_args()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    seen: Counter[str] = Counter()
    slowest, number = 0.0, options.input or options.start
    with tempfile.TemporaryDirectory() as folder:
        kinds = [(stage, dtype) for stage in STAGES for dtype in ("float64", "float32")]
        benches = [Bench(Path(folder) / "-".join(kind), *kind) for kind in kinds]
        there = sorted(Path(folder).rglob("*"))
        while time.process_time() < 60 * options.minutes and (options.input is None or number == options.input):
            attack, bench = ATTACKS[number % len(ATTACKS)], benches[number // len(ATTACKS) % len(benches)]
            began = time.process_time()
            try:
                seen[f"{attack.__name__}: {attack(bench, random.Random(f'{options.seed}/{number}'))}"] += 1
                taken = time.process_time() - began
                if taken > SECONDS:
                    raise FindingError(f"it took {taken:.1f} s")  # noqa: TRY301
                if memory() > MEGABYTES:
                    raise FindingError(f"the process has grown to {memory()} MB")  # noqa: TRY301
            except BaseException as error:
                print(f"FOUND by {attack.__name__}, --seed {options.seed} --input {number}: {error!r}")
                raise
            slowest, number = max(slowest, taken), number + 1
        left = [p for p in sorted(Path(folder).rglob("*")) if p not in there and p.name != "one.safetensors"]
    for line, count in sorted(seen.items()):
        print(f"{count:8d}  {line}")
    print(f"{seen.total()} inputs, slowest {slowest:.2f} s, largest {memory()} MB, left on disk: {left or 'nothing'}")
    return 1 if left else 0


def memory() -> int:
    """The most memory that the process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
