"""safetensors files from anywhere: nothing of a header is believed before it has been checked.

The format: eight bytes with the length of the header, the header as JSON, then the bytes of the tensors. Other checkers
are lenient with duplicate keys and gaps; here they are refused, since two readers would see two files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import load, save

from adalora_ref.array import Array

LARGEST = 2**30
"""Bytes of a file that is read at all."""

LARGEST_HEADER = 2**24

DTYPES: dict[str, Any] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class TensorFile(NamedTuple):
    """The arrays of a file by name, and the strings beside them."""

    tensors: dict[str, Array]
    metadata: dict[str, str]


def read(path: Path) -> TensorFile:
    """Read a safetensors file.

    Raises
    ------
    ValueError
        If it is no such file; the message names the file and the rule that it breaks. No memory beyond the size of the
        file is taken.
    """
    return parse(_bytes(path), str(path))


def parse(data: bytes, name: str) -> TensorFile:
    """Take the bytes of a safetensors file apart; *name* stands in messages."""
    if len(data) < 8 or (length := int.from_bytes(data[:8], "little")) > min(len(data) - 8, LARGEST_HEADER):
        raise ValueError(f"{name} is no safetensors file: its header is longer than the file")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_without_duplicates)
        header = dict(header)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is no safetensors file: its header is no JSON object ({_short(error)})") from None
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise ValueError(f"{name}: the metadata must be strings by name")
    _check_spans(header, len(data) - 8 - length, name)
    body = memoryview(data)[8 + length :]
    return TensorFile({key: _array(entry, body) for key, entry in header.items()}, metadata)


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file; arrays are made contiguous first, since safetensors stores the memory of others as if they were."""
    held = {name: np.require(a, requirements="C") for name, a in tensors.items()}
    data = save(held, dict(metadata) if metadata else None)
    back = load(data)
    for name, a in held.items():
        if back[name].tobytes() != a.tobytes() or back[name].shape != a.shape:
            raise ValueError(f"{path} cannot be written: safetensors does not give {name} back as it was")
    path.write_bytes(data)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST} bytes: {size}")
    return path.read_bytes()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return held


def _check_spans(header: dict[str, Any], size: int, name: str) -> None:
    """Every tensor has a dtype, a shape and the bytes that these need; together they fill the file without overlap."""
    spans = sorted(_span(entry, f"{name}: the tensor {key[:80]!r}") for key, entry in header.items())
    reached = 0
    for begin, end in spans:
        if begin != reached:
            raise ValueError(f"{name}: the tensors must lie one after the other; one begins at {begin}, not {reached}")
        reached = end
    if reached != size:
        raise ValueError(f"{name} is cut off or too long: its tensors take {reached} bytes; got {size}")


def _span(entry: Any, what: str) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{what} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{what} must have a dtype among {', '.join(DTYPES)}; got {str(dtype)[:80]!r}")
    if not (_counts(shape) and len(shape) <= 8):
        raise ValueError(f"{what} must have a shape of at most 8 lengths; got {str(shape)[:80]}")
    if not (_counts(offsets) and len(offsets) == 2):
        raise ValueError(f"{what} must have two offsets; got {str(offsets)[:80]}")
    if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{what} must have the bytes that its shape and dtype need; got {str(entry)[:160]}")
    return offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= LARGEST for n in value)


def _array(entry: dict[str, Any], body: memoryview) -> Array:
    begin, end = entry["data_offsets"]
    if entry["dtype"] == "BOOL" and not set(body[begin:end]) <= {0, 1}:
        raise ValueError("a boolean tensor must hold 0 and 1 alone")
    return np.frombuffer(body[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()


def _short(error: Exception) -> str:
    return str(error)[:120]
