"""The glossary against the installed PEFT."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from adalora_ref.conformance.peft_target import peers
from tests.test_docs import in_code_font
from tests.test_site import glossary


def cells() -> set[tuple[str, str]]:
    """(file, name) of every name that the glossary gives PEFT."""
    return {
        (cell.rsplit(" ", 1)[1], name) for row in glossary() if (cell := row["PEFT"]) for name in in_code_font(cell)
    }


@pytest.mark.parametrize(("file", "name"), sorted(cells()))
def test_peft_has_the_name(file: str, name: str) -> None:
    """An option is a field of AdaLoraConfig, and every other name stands in the file that the glossary says."""
    _, peft = peers()
    if file == "config.py":
        assert name in {field.name for field in dataclasses.fields(peft.AdaLoraConfig)}
    else:
        source = Path(peft.tuners.adalora.__file__).with_name(file).read_text(encoding="utf-8")
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", source)


def test_options_are_complete() -> None:
    """The glossary has every option that AdaLoRA adds to those of LoRA."""
    _, peft = peers()
    inherited = {field.name for field in dataclasses.fields(peft.LoraConfig)} - {"rank_pattern"}
    added = {field.name for field in dataclasses.fields(peft.AdaLoraConfig)} - inherited
    assert {"init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "total_step"} <= added
    assert added <= {name for file, name in cells() if file == "config.py"}
