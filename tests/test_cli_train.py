"""`adalora-ref train digits` from the shell: what it shows, what it refuses, how it is interrupted."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import adalora_ref
from adalora_ref.experiments import tables
from adalora_ref.experiments.digits import ArmResult, Options, SeedResult, Settings

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(adalora_ref.__file__).parents[1]), "COLUMNS": "100"}
COMMAND = [sys.executable, "-m", "adalora_ref", "train", "digits"]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run with its defaults, and what it printed."""
    folder = tmp_path_factory.mktemp("here")
    done = run(folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_the_defaults_give_table_heat_map_and_folder(finished: tuple[Path, str]) -> None:
    """Off a terminal: plain text with accuracy, parameters, seconds and ranks, the map, and where it is written."""
    folder, text = finished
    assert "\x1b" not in text
    for label in ("accuracy on held-out 5–9", "trainable parameters", "seconds per step", "rank of head"):
        assert sum(line.startswith(label) for line in text.splitlines()) == 1
    assert "standard deviation             –       –        –" in text
    assert "Ranks over time, AdaLoRA, seed 0" in text
    assert text.splitlines()[-1] == "written to runs/digits-numpy-spec-seed0"
    written = json.loads((folder / "runs/digits-numpy-spec-seed0/results.json").read_text(encoding="utf-8"))
    (seed,) = written["seeds"]
    assert seed["accuracy"]["adalora"] > 0.9
    assert f"{100 * seed['accuracy']['adalora']:.1f} %" in text
    assert [path.name for path in (folder / "runs").iterdir()] == ["digits-numpy-spec-seed0"]


def test_a_folder_that_exists_is_refused_at_once(finished: tuple[Path, str]) -> None:
    """The second run with the same name stops before it trains, and changes nothing."""
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    out = "runs/digits-numpy-spec-seed0"
    done = run(folder, "--out", out, "--seeds", "1000000")  # days, if it trained
    assert (done.returncode, done.stdout) == (2, "")
    assert "exists already, and is not overwritten; name another with --out" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


BAD = {
    "convention": (["--convention", "HF"], "the convention must be one of SPEC, PAPER, LORALIB, PEFT, LORA; got 'HF'"),
    "backend": (["--backend", "tensorflow"], "the array library must be one of numpy"),
    "seed": (["--seed", "-1"], "-1 is not in the range x>=0"),
    "seed word": (["--seed", "one"], "'one' is not a valid integer range"),
    "seeds": (["--seeds", "0"], "0 is not in the range x>=1"),
    "below a file": (["--out", "file/run"], "cannot be created: Not a directory"),
    "argument": (["more"], "unexpected extra argument (more)"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_usage(name: str, tmp_path: Path) -> None:
    """Wrong usage is one sentence and status 2; there is no traceback, and nothing is written."""
    (tmp_path / "file").touch()
    arguments, message = BAD[name]
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    """Without scikit-learn, or without CuPy, the sentence says what to install."""
    (tmp_path / "sklearn.py").write_text("raise ImportError('none here')\n", encoding="utf-8")
    (tmp_path / "cupy.py").write_text("raise ImportError('none here')\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    for arguments, message in (([], "pip install scikit-learn"), (["--backend", "cupy"], "cupy is not installed")):
        done = run(tmp_path, *arguments, PYTHONPATH=path)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "runs").exists()


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C on a terminal, with the progress bar running: status 130, one line, no folder."""
    parent, child = pty.openpty()
    process = subprocess.Popen(COMMAND, cwd=tmp_path, env=ENVIRONMENT | {"TERM": "xterm"}, stdout=child, stderr=child)
    os.close(child)
    seen = b""
    while b"warm-up" not in seen:
        seen += os.read(parent, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(parent, 4096):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait(timeout=20) == 130
    os.close(parent)
    assert b"Interrupted; nothing half-written is left." in seen
    assert b"Traceback" not in seen
    assert b"AdaLoRA" in seen
    assert b"budget" in seen
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_terminated_run_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM clears away what was being written, and the folders made for it."""
    process = subprocess.Popen([*COMMAND, "--seeds", "1000"], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE)
    while not list(tmp_path.rglob("*.jsonl")):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=20) == 143
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_to_start(tmp_path: Path) -> None:
    """--help imports neither the kit nor the experiments nor what they need."""
    code = (
        "import sys; from click.testing import CliRunner; from adalora_ref.cli import main;"
        "assert CliRunner().invoke(main, ['train', 'digits', '--help']).exit_code == 0;"
        "assert CliRunner().invoke(main, ['verify', '--help']).exit_code == 0;"
        "assert CliRunner().invoke(main, ['plot', '--help']).exit_code == 0;"
        "slow = {'rich.table', 'matplotlib', 'mpmath', 'sklearn', 'safetensors', 'torch', 'hypothesis'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# WHAT IS SHOWN


def results(*seeds: int) -> list[SeedResult]:
    def arm(right: float, ranks: list[int]) -> ArmResult:
        return ArmResult(
            right, 1234, [{"layer1": 8, "head": 8}] * 5 + [dict(zip(("layer1", "head"), ranks, strict=True))] * 5, 0.25
        )

    return [
        SeedResult(n, 0.9, 0.2, {"lora": arm(0.5, [4, 4]), "adalora": arm(0.5 + n / 10, [5, 3 + n])}) for n in seeds
    ]


def shown(found: list[SeedResult], options: Options, width: int = 100) -> list[str]:
    console = Console(width=width, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    tables.show(found, options, Settings(hidden_layers=1, steps=10, warmup=2, final=3), console)
    console.file.close()
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_means_and_spreads_over_seeds() -> None:
    """Two seeds at 50 % and 60 %: mean 55.0 %, standard deviation 7.1 %; ranks of 3 and 4 are 3.5 on average."""
    lines = shown(results(0, 1), Options(seeds=2))
    rows = {line[:24].strip(): line[24:].split() for line in lines}
    assert "accuracy on held-out 5–9  20.0 %  50.0 %   55.0 %" in lines
    assert "standard deviation         0.0 %   0.0 %    7.1 %" in lines
    assert rows["rank of head"] == ["–", "4", "3.5"]
    assert rows["trainable parameters"] == ["0", "1,234", "1,234"]
    assert any("seeds 0 to 1" in line for line in lines)


def test_the_heat_map_has_a_row_a_matrix_and_a_column_a_step() -> None:
    """Ten steps are ten columns: the ranks, and under them the phases and the numbers of the steps."""
    lines = shown(results(0), Options())
    assert "layer1  8888855555" in lines
    assert "head    8888833333" in lines
    assert "phase   wwpppppfff" in lines
    assert any(line.startswith("step    0") and line.endswith("9") for line in lines)


def test_ranks_have_one_character_each() -> None:
    """0 to 9, then letters, then +."""
    assert [tables.symbol(rank) for rank in (0, 1, 9, 10, 35, 36, 400)] == [".", "1", "9", "a", "z", "+", "+"]
