"""What the tests of docs/verify share: a page's files are written, run as the page says, and its output is compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERIFY = ROOT / "docs" / "verify"


def blocks(page: str, kind: str) -> list[str]:
    """The blocks of a page that are marked as *kind*, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", (VERIFY / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run(folder: Path, *arguments: str, program: str = "adalora_ref") -> subprocess.CompletedProcess[str]:
    """Run the command, or another module, in *folder*."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def bare(text: str) -> list[str]:
    """The lines of an output without its spacing, and without the digits of what is rounded."""
    return [
        re.sub(r"-?\d+(\.\d+)?e[+-]\d+|-?\d+\.\d+|-?\d+(?= units)", "#", " ".join(line.split()))
        for line in text.splitlines()
    ]


def lacking(shown: str, output: str) -> list[str]:
    """The lines that a page shows and an output lacks; an output may have more."""
    held = bare(output)
    return [line for line in bare(shown) if line and line not in held]
