"""Known failures are listed, and strict; several processes say what one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

import adalora_ref as ref
from adalora_ref.cli import main

Verified: TypeAlias = Callable[..., Result]

ROOT = Path(ref.__file__).parents[1]
QUICK = ("--preset", "quick", "--no-repro")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a target that has one function right and one wrong."""
    (tmp_path / "mine.py").write_text(
        "from adalora_ref import prune\ndef triplet_scores(state): return state[0].s * state[1].s\n", encoding="utf-8"
    )
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "adalora_ref", "verify", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture
def verified(folder: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Callable[..., Result]:
    """The command in this process, in that folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return lambda *arguments: CliRunner().invoke(main, ["verify", *arguments])


def test_machines_see_what_people_see(folder: Path, verified: Verified) -> None:
    """A pass that was not expected, and a required stage that did not run, are failures in JUnit and named in words."""
    (folder / "known.toml").write_text('[[known]]\npattern = "prune/*"\nreason = "why"\n', encoding="utf-8")
    passes = verified("mine", *QUICK, "--stage", "prune", "--known", "known.toml", "--junit", "v.xml")
    suite = ET.parse(folder / "v.xml").getroot()  # noqa: S314  our own file
    assert (passes.exit_code, suite.get("failures"), len(suite.findall("testcase/failure"))) == (1, "1", 1)
    needs = verified("mine", *QUICK, "--stage", "prune", "--require", "merge", "--junit", "v.xml")
    suite = ET.parse(folder / "v.xml").getroot()  # noqa: S314  our own file
    assert (needs.exit_code, suite.get("failures")) == (3, "1")
    assert suite.find("testcase[@classname='required']").get("name") == "merge"
    assert "required, but not run: merge" in needs.stdout


def write(folder: Path, *entries: str) -> Path:
    path = folder / "known.toml"
    path.write_text("".join(f"[[known]]\n{entry}\n" for entry in entries), encoding="utf-8")
    return path


SCORES = 'pattern = "triplet_scores/*"\nreason = "s alone, for speed"\nlink = "https://example.org/7"'


def test_known_failures_do_not_fail(folder: Path, verified: Verified) -> None:
    """A failure that is known is listed with reason and link, counted in the sentence, and leaves the status at 0."""
    write(folder, SCORES)
    done = verified("mine", *QUICK, "--known", "known.toml", "--json", "v.json", "--junit", "v.xml")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert any(line.split()[:2] == ["triplet_scores", "KNOWN"] for line in lines)
    assert "triplet_scores: 6 of 12 checks fail as known: s alone, for speed (https://example.org/7)" in lines
    assert lines[-1] == "mine conforms: 24 of 252 checks ran, 0 of them inconclusive, 6 known to fail"
    assert not (folder / "adalora-ref-repro").exists()

    checks = [c for row in json.loads((folder / "v.json").read_text(encoding="utf-8"))["rows"] for c in row["checks"]]
    told = [(c["known"], c["link"]) for c in checks if c["verdict"] == "KNOWN"]
    assert told == [("s alone, for speed", "https://example.org/7")] * 6
    suite = ET.parse(folder / "v.xml").getroot()  # noqa: S314  our own file  # noqa: S314  our own file
    skipped = [found for found in suite.iter("skipped") if found.attrib["message"] == "KNOWN: s alone, for speed"]
    assert (len(skipped), suite.attrib["failures"]) == (6, "0")
    assert len(list(suite.iter("skipped"))) == int(suite.attrib["skipped"])


def test_a_failure_that_is_not_known_still_fails(folder: Path, verified: Verified) -> None:
    """A pattern covers what it matches and no more."""
    write(folder, 'pattern = "triplet_scores/float32/*"\nreason = "single precision"')
    done = verified("mine", *QUICK, "--known", "known.toml")
    assert done.exit_code == 1
    assert "triplet_scores: FAIL in 3 of 12 checks, first in triplet_scores/float64/0/1" in done.stdout
    assert "triplet_scores: 3 of 12 checks fail as known: single precision" in done.stdout


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("prune/float64/*", "6 checks ran that match it, and none failed"),
        ("merge/*", "no check that matches it ran"),
        ("Triplet_scores/*", "no check that matches it ran"),
    ],
)
def test_known_failures_are_strict(folder: Path, verified: Verified, pattern: str, why: str) -> None:
    """An entry that matches no failure is a failure, with a sentence that says which."""
    write(folder, SCORES, f'pattern = "{pattern}"\nreason = "so it is"')
    done = verified("mine", *QUICK, "--known", "known.toml", "--json", "v.json")
    assert done.exit_code == 1
    sentence = f"the known failure '{pattern}' did not show: {why}; so it is"
    assert sentence in done.stdout.splitlines()
    assert json.loads((folder / "v.json").read_text(encoding="utf-8"))["unexpected"] == [sentence]
    assert done.stdout.splitlines()[-1].startswith("mine passes what is known to fail: 24 of 252 checks ran")


BAD = {
    "no file": (None, "known failures must stand in a file that exists; got 'known.toml'"),
    "no TOML": ("[[known", "known.toml is no TOML: "),
    "no text": (b"\xff\xfe", "known.toml is no TOML: "),
    "deep": ("a = " + "[" * 5000, "known.toml is no TOML: "),
    "twice": ("[[known]]\npattern = 'a'\npattern = 'b'\n", "known.toml is no TOML: "),
    "other table": ("[other]\n", "known.toml must hold [[known]] tables and nothing else; got other"),
    "no tables": ("known = 3\n", "known.toml must hold [[known]] tables and nothing else; got known"),
    "no table": ("known = [3]\n", "known.toml: entry 1 of known must be a table of pattern, reason, link; got 3"),
    "unknown key": (
        "[[known]]\npattern = 'a'\nreason = 'b'\nurl = 'c'\n",
        "known.toml: entry 1 of known must be a table of pattern, reason, link; got pattern, reason, url",
    ),
    "no reason": ("[[known]]\npattern = 'a'\n", "known.toml: entry 1 of known needs a reason; got pattern"),
    "no pattern": ("[[known]]\n", "known.toml: entry 1 of known needs a pattern; got nothing"),
    "empty reason": (
        "[[known]]\npattern = 'a'\nreason = ' '\n",
        "known.toml: entry 1 of known must have text as its reason; got ' '",
    ),
    "number": (
        "[[known]]\npattern = 'a'\nreason = 'b'\n[[known]]\npattern = 7\nreason = 'b'\n",
        "known.toml: entry 2 of known must have text as its pattern; got 7",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_of_known_failures(folder: Path, verified: Verified, name: str) -> None:
    """Bad TOML, unknown keys and missing reasons are one sentence that names the rule, before any work; status 2."""
    text, message = BAD[name]
    if text is not None:
        (folder / "known.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    done = verified("mine", "--known", "known.toml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {message}")
    assert len(done.stderr.splitlines()) == 1


# SEVERAL PROCESSES


def test_several_processes_say_the_same(folder: Path) -> None:
    """With --jobs the report, its files and its reproductions are the same to the byte, in the same order."""
    said = []
    for jobs in ("1", "2"):
        write(folder, 'pattern = "triplet_scores/float32/*"\nreason = "single precision"')
        options = ("--preset", "quick", "--known", "known.toml", "--json", "v.json", "--junit", "v.xml")
        done = verify(folder, "mine", *options, "--jobs", jobs)
        assert done.returncode == 1, done.stderr
        files = [folder / name for name in ("v.json", "v.xml", "adalora-ref-repro/triplet_scores/repro.py")]
        said.append((done.stdout, done.stderr, [path.read_bytes() for path in files]))
    assert said[0] == said[1]


def test_an_error_in_a_process_is_one_sentence(folder: Path) -> None:
    """A target that cannot be loaded, or ends the process that checks it, is one sentence and status 2."""
    (folder / "late.py").write_text(
        "import multiprocessing\nif multiprocessing.parent_process(): 1 / 0\ndef prune(factors, keep): return 0\n",
        encoding="utf-8",
    )
    (folder / "dies.py").write_text("import os\ndef prune(factors, keep): os._exit(3)\n", encoding="utf-8")
    for name, sentence in (
        ("late", "the target 'late' raised ZeroDivisionError when it was imported"),
        ("dies", "the target ended the process that checked it; --stage NAME shows which stage does"),
    ):
        done = verify(folder, name, *QUICK, "--stage", "prune", "--jobs", "2")
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {sentence}\n")


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_a_number_of_processes_is_positive(verified: Verified, jobs: str) -> None:
    """--jobs takes a positive integer, and nothing else."""
    done = verified("mine", "--jobs", jobs)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--jobs" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")
def test_an_interruption_ends_the_processes(folder: Path) -> None:
    """Ctrl-C ends the processes too, with one sentence and status 130."""
    (folder / "slow.py").write_text(
        "import os, pathlib, time\n"
        "def prune(factors, keep):\n"
        "    pathlib.Path(f'{os.getpid()}.pid').touch()\n"
        "    time.sleep(50)\n",
        encoding="utf-8",
    )
    with subprocess.Popen(
        command("slow", *QUICK, "--stage", "prune", "--jobs", "2"), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while not list(folder.glob("*.pid")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            out, error = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, out, error) == (130, "", "Interrupted; nothing half-written is left.\n")
    (child,) = (int(path.stem) for path in folder.glob("*.pid"))
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the process still runs")
