"""safetensors files: what is written comes back, and what two readers could understand in two ways is refused."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from adalora_ref.conformance.tensor_files import DTYPES, LARGEST_HEADER, parse, read, write
from adalora_ref.conformance.untrusted import parse_json, printable


def file(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a file with this header, as JSON or as it stands."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(dtype: Any = "F32", shape: Any = (1,), begin: Any = 0, end: Any = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """Every dtype, transposed, empty and single arrays, and the strings beside them."""
    held = {f"a[{name}].B": np.arange(6).reshape(2, 3).astype(dtype).T for name, dtype in DTYPES.items()}
    held |= {"empty": np.zeros((0, 3), np.float32), "one": np.array(2.5), "half": np.ones(3, ml_dtypes.bfloat16)}
    write(tmp_path / "f", held, {"case": "x"})
    tensors, metadata = read(tmp_path / "f")
    assert metadata == {"case": "x"}
    assert tensors.keys() == held.keys()
    for name, a in held.items():
        assert (tensors[name].dtype, tensors[name].shape) == (a.dtype, a.shape)
        assert tensors[name].tobytes() == a.tobytes()


HOSTILE = {
    "nothing": (b"", "its header is longer than the file"),
    "no header": (struct.pack("<Q", 0), "its header is no JSON"),
    "a header beyond the file": (file({}, length=3), "its header is longer than the file"),
    "a header without end": (struct.pack("<Q", 2**64 - 1) + b"{}", "its header is longer than the file"),
    "a header that is too long": (file(b" " * (LARGEST_HEADER + 1)), f"or than {LARGEST_HEADER}"),
    "a list": (file([]), "its header is no JSON object"),
    "null": (file(b"null"), "its header is no JSON object"),
    "an empty string": (file(b'""'), "its header is no JSON object"),
    "no UTF-8": (file(b'{"\xff": 1}'), "its header is no JSON"),
    "nesting": (file(b"[" * 10**5), "nested too deep"),
    "a key twice": (file(b'{"a": {}, "a": {}}'), "the key 'a' stands there twice"),
    "a key twice below": (file(b'{"a": {"dtype": "F32", "dtype": "F64"}}'), "the key 'dtype' stands there twice"),
    "NaN": (file(b'{"a": {"shape": [NaN]}}'), "NaN is no number in JSON"),
    "a long number": (file(b'{"a": ' + b"1" * 5000 + b"}"), "its header is no JSON"),
    "metadata that is no string": (file({"__metadata__": {"a": 1}}), "the metadata must be strings by name"),
    "a long name": (file({"a" * 513: entry()}, b"abcd"), "a name of at most 512 characters, all printable"),
    "a name that steers": (file({"\x1b[2J": entry()}, b"abcd"), "a name of at most 512 characters, all printable"),
    "half a character": (file(b'{"\\ud800": {}}'), "a name of at most 512 characters, all printable"),
    "no entry": (file({"a": 1}), "must have dtype, shape and data_offsets"),
    "more in an entry": (file({"a": entry() | {"x": 1}}), "must have dtype, shape and data_offsets"),
    "an unknown dtype": (file({"a": entry("F8_E4M3")}), "must have a dtype among F64"),
    "a dtype that is a list": (file({"a": entry(["F32"])}), "must have a dtype among F64"),
    "a negative length": (file({"a": entry(shape=[-1])}), "must have a shape of at most 8 lengths"),
    "a length that is true": (file({"a": entry(shape=[True])}, b"abcd"), "must have a shape of at most 8 lengths"),
    "a length with a point": (file({"a": entry(shape=[1.0])}, b"abcd"), "must have a shape of at most 8 lengths"),
    "nine axes": (file({"a": entry(shape=[1] * 9)}, b"abcd"), "must have a shape of at most 8 lengths"),
    "an absurd shape": (file({"a": entry(shape=[2**30] * 3)}, b"abcd"), "of a size that can be"),
    "an absurd empty shape": (file({"a": entry(shape=[0, *[2**30] * 3], end=0)}), "of a size that can be"),
    "three offsets": (file({"a": entry() | {"data_offsets": [0, 4, 4]}}, b"abcd"), "must have two offsets"),
    "an offset below 0": (file({"a": entry(begin=-4, end=0)}), "must have two offsets"),
    "too few bytes for a shape": (file({"a": entry(shape=[2])}, b"abcd"), "the bytes that its shape and dtype need"),
    "a gap": (file({"a": entry(begin=4, end=8)}, b"abcdefgh"), "one after the other; one begins at 4, not 0"),
    "an overlap": (file({"a": entry(), "b": entry()}, b"abcd"), "one after the other; one begins at 0, not 4"),
    "cut off": (file({"a": entry()}, b"abc"), "is cut off or too long: its tensors take 4 bytes; got 3"),
    "too long": (file({"a": entry()}, b"abcde"), "is cut off or too long: its tensors take 4 bytes; got 5"),
    "a byte that is no boolean": (file({"a": entry("BOOL", end=1)}, b"\x02"), "must hold the bytes 0 and 1 alone"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file(what: str) -> None:
    """It is refused in one printable sentence that names the file and the rule."""
    data, message = HOSTILE[what]
    with pytest.raises(ValueError, match=r"^FILE") as caught:
        parse(data, "FILE")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_file_is_as_large_as_it_says(tmp_path: Path) -> None:
    """One that is larger than allowed is not read, whatever it holds."""
    with (tmp_path / "f").open("wb") as large:
        large.truncate(10**11)
    tracemalloc.start()
    with pytest.raises(ValueError, match="is larger than 1000 bytes: 100000000000"):
        read(tmp_path / "f", 1000)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_json_has_one_reading() -> None:
    """Duplicate keys, NaN, infinity, other encodings and endless nesting are refused; the rest is what it is."""
    assert parse_json(b' {"a": [1, 2.5, null, "\xc3\xa9"]}\n') == {"a": [1, 2.5, None, "é"]}
    for data in (
        b"",
        b"{",
        b'{"a": 1, "a": 1}',
        b"NaN",
        b"[-Infinity]",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a":' * 10**5,
        b"{}{}",
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            parse_json(data)
        assert str(caught.value).isprintable()


def test_text_is_safe_to_show() -> None:
    """What steers a terminal or breaks XML becomes a space, and what is long is cut."""
    assert printable("a\x1b[2J\nb\u202e\ud800é", 50) == "a [2J b  é"
    assert printable("abc", 3) == "abc"
    assert printable("abcd", 3) == "abc…"
