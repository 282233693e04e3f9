"""The script that the field guide recommends keeps its promises on the installed PEFT."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from adalora_ref.conformance.peft_target import peers

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")
def test_the_safe_script_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    """It keeps the target, reloads what it saved, leaves ranknum alone, and prints what the page says."""
    torch, _ = peers()
    with torch.random.fork_rng():
        held = runpy.run_path(str(DOCS / "peft_safely.py"))
    printed = capsys.readouterr().out.strip()
    assert f"It prints `{printed}`." in (DOCS / "field-guide.md").read_text(encoding="utf-8")
    assert held["kept"] == 8
    assert held["off"] < 1e-12
    assert [float(layer.ranknum["default"]) for layer in held["base"]] == [6.0, 6.0]
    assert not any(name for name in held["trained"] if "ranknum" in name)
    assert held["regulariser"]().item() > 0.0
