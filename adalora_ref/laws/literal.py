"""Arguments as Python text."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def source(value: Any) -> str:
    """*value* as Python: arrays, records and what is made of them; every number exactly."""
    if isinstance(value, np.ndarray):
        shaped = f".reshape({value.shape})" if value.size == 0 or value.ndim != 1 else ""
        numbers = value.astype(np.float64) if value.dtype.name == "bfloat16" else value
        flat = numbers.reshape(-1).tolist() if shaped else numbers.tolist()
        return f'array({flat}, dtype="{value.dtype.name}"){shaped}'
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return _called(type(value).__name__, parts)
    if hasattr(value, "_asdict"):
        return _called(type(value).__name__, value._asdict())
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {source(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(source, value)) + ("," if isinstance(value, tuple) and len(value) == 1 else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value)


def _called(name: str, parts: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={source(item)}' for key, item in parts.items())})"
