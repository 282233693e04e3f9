"""safetensors files from anywhere: nothing of a header is believed before it has been checked.

The format: eight bytes with the length of the header, the header as JSON, then the bytes of the tensors. Other checkers
are lenient with duplicate keys and gaps; here they are refused, since two readers would see two files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from adalora_ref.array import Array
from adalora_ref.conformance.untrusted import parse_json, shown

LARGEST = 2**30
"""Bytes of a file that is read at all."""

LARGEST_HEADER = 2**24

LONGEST_NAME = 512
"""Characters of a tensor's name."""

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


def read(path: Path, largest: int = LARGEST) -> TensorFile:
    """Read a safetensors file of at most *largest* bytes.

    Raises
    ------
    ValueError
        If it is no such file; the message names the file and the rule that it breaks. A larger one is not read; of
        another no more memory is taken than twice its size, and some 30 bytes for each byte of its header.
    """
    return parse(_bytes(path, largest), str(path))


def parse(data: bytes, name: str) -> TensorFile:
    """Take the bytes of a safetensors file apart; *name* stands in messages."""
    if len(data) < 8 or (length := int.from_bytes(data[:8], "little")) > min(len(data) - 8, LARGEST_HEADER):
        raise ValueError(f"{name} is no safetensors file: its header is longer than the file, or than {LARGEST_HEADER}")
    try:
        header = parse_json(data[8 : 8 + length])
    except ValueError as error:
        raise ValueError(f"{name} is no safetensors file: its header is no JSON ({error})") from None
    if type(header) is not dict:
        raise ValueError(f"{name} is no safetensors file: its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise ValueError(f"{name}: the metadata must be strings by name")
    _check_spans(header, len(data) - 8 - length, name)
    body = memoryview(data)[8 + length :]
    return TensorFile({key: _array(entry, body, f"{name}: {_tensor(key)}") for key, entry in header.items()}, metadata)


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file; arrays are made contiguous first, since safetensors stores the memory of others as if they were."""
    held = {name: np.require(a, requirements="C") for name, a in tensors.items()}
    data = save(held, dict(metadata) if metadata else None)
    back = parse(data, str(path)).tensors  # safetensors' own reader for NumPy knows no bfloat16
    for name, a in held.items():
        if back[name].tobytes() != a.tobytes() or back[name].shape != a.shape:
            raise ValueError(f"{path} cannot be written: safetensors does not give {name} back as it was")
    path.write_bytes(data)


def _bytes(path: Path, largest: int) -> bytes:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"{path} is larger than {largest} bytes: {size}")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{path} changed its size while it was read")
    return data


def _tensor(key: str) -> str:
    return f"the tensor {key[:80]!r}"


def _check_spans(header: dict[str, Any], size: int, name: str) -> None:
    """Every tensor has a dtype, a shape and the bytes that these need; together they fill the file without overlap."""
    for key in header:
        if len(key) > LONGEST_NAME or not key.isprintable():
            raise ValueError(
                f"{name}: {_tensor(key)} must have a name of at most {LONGEST_NAME} characters, all printable"
            )
    spans = sorted(_span(entry, f"{name}: {_tensor(key)}") for key, entry in header.items())
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
        raise ValueError(f"{what} must have a dtype among {', '.join(DTYPES)}; got {shown(dtype)}")
    if not (_counts(shape) and len(shape) <= 8 and math.prod(n or 1 for n in shape) <= LARGEST):
        raise ValueError(f"{what} must have a shape of at most 8 lengths, of a size that can be; got {shown(shape)}")
    if not (_counts(offsets) and len(offsets) == 2):
        raise ValueError(f"{what} must have two offsets; got {shown(offsets)}")
    if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{what} must have the bytes that its shape and dtype need; got {shown(entry)}")
    return offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= LARGEST for n in value)


def _array(entry: dict[str, Any], body: memoryview, what: str) -> Array:
    begin, end = entry["data_offsets"]
    if entry["dtype"] == "BOOL" and np.frombuffer(body[begin:end], np.uint8).max(initial=0) > 1:
        raise ValueError(f"{what} is boolean and must hold the bytes 0 and 1 alone")
    return np.frombuffer(body[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()
