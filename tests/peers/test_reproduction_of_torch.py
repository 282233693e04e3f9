"""A failure of a target that takes torch tensors is shown with torch and NumPy alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from adalora_ref.cli import main

pytestmark = pytest.mark.usefixtures("unchecked")


def test_tensors_are_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script makes tensors of the arrays; its status is 1, and 0 once the target is repaired."""
    text = (
        "import torch\narray_library = 'torch'\n"
        "def merge(W, factors, *, scale):\n"
        "    assert isinstance(W, torch.Tensor)\n"
        "    B, s, A = factors\n"
        "    return W + SCALE * (B * s) @ A\n"
    )
    file = tmp_path / "of_torch.py"
    file.write_text(text.replace("SCALE", "1.0"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = CliRunner().invoke(main, ["verify", "of_torch", "--preset", "quick", "--stage", "merge"])
    assert done.exit_code == 1, done.output
    alone = "import runpy, sys; sys.modules['adalora_ref'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-I", "-W", "error", "-c", alone, "adalora-ref-repro/merge/repro.py"]
    statuses = []
    for scale in ("1.0", "scale"):
        file.write_text(text.replace("SCALE", scale), encoding="utf-8")
        statuses.append(subprocess.run(command, env=os.environ, capture_output=True, check=False).returncode)
    assert statuses == [1, 0]
