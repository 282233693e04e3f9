"""Running the command where a user stands, and what it has written where the package cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from adalora_ref.cli import main

ALONE = """
import io, json, runpy, sys
from contextlib import redirect_stdout
sys.modules["adalora_ref"] = None  # it cannot be imported
said = {}
for path in sys.argv[1:]:
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        said[path] = (ended.code, out.getvalue())
print(json.dumps(said))
"""


def run_alone(folder: Path, *paths: str) -> dict[str, tuple[int, str]]:
    """Exit status and output of scripts, run in *folder* where the package cannot be imported."""
    command = [sys.executable, "-I", "-c", ALONE, *paths]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return {path: tuple(told) for path, told in json.loads(done.stdout).items()}


def verify(folder: Path, *arguments: str) -> Any:
    """Run the command in *folder*."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, ["verify", *arguments])
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in ("spoilt", "mine"):
            sys.modules.pop(name, None)


def scripts(*names: str) -> list[str]:
    """Where the scripts of these names stand."""
    return [f"adalora-ref-repro/{name}/repro.py" for name in names]
