"""The checks inside a user's own pytest suite, run as users run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import adalora_ref as ref
from adalora_ref.conformance import conformance_checks
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Target, TargetError
from tests.test_program import GOES_ON, HONEST

ROOT = Path(ref.__file__).parents[1]

MINE = """
from adalora_ref import prune
class Right:
    prune = staticmethod(prune)
class Wrong(Right):
    def triplet_scores(self, state):
        return state.sensitivity.s * state.uncertainty.s
class Nothing:
    pass
"""

HEAD = "from adalora_ref.conformance import conformance_checks\nimport mine\n"


def run(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a file of that text, beside the implementations."""
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    (folder / "test_mine.py").write_text(HEAD + text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def counted(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The numbers of pytest's last line, by what they count."""
    return {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}


ALLOCATORS = """
import numpy as np
from adalora_ref import allocate, init_importance, triplet_scores, update_importance
from adalora_ref import allocates_at, budget_at, prune
class Allocator:
    def start(self, weights, schedule, *, beta1, beta2):
        self.schedule, self.betas = schedule, {"beta1": beta1, "beta2": beta2}
        self.importance = {n: init_importance(f) for n, f in weights.items()}
        self.masks = {n: np.ones(f.s.shape, dtype=bool) for n, f in weights.items()}
    def update(self, step, weights, grads):
        if step < self.schedule.total - self.schedule.final:
            self.importance = {
                n: update_importance(self.importance[n], weights[n], grads[n], **self.betas) for n in weights
            }
        if allocates_at(self.schedule, step):
            self.masks = self.chosen({n: triplet_scores(i) for n, i in self.importance.items()}, step)
        return {"masks": self.masks, "importance": self.importance}
    def chosen(self, scores, step):
        return allocate(scores, budget_at(self.schedule, step))
class Worst(Allocator):
    def chosen(self, scores, step):
        return allocate({n: -s for n, s in scores.items()}, budget_at(self.schedule, step))
test_right = conformance_checks(Allocator)
test_wrong = conformance_checks(Worst)
"""


def test_allocators_have_an_item_for_each_quantity(tmp_path: Path) -> None:
    """A stateful allocator is played once; what it does wrong fails by name, what it does not show is skipped."""
    done = run(tmp_path, ALLOCATORS)
    text = done.stdout
    assert counted(done)["failed"] == 1
    assert "FAILED test_mine.py::test_wrong[allocate]" in text
    assert "expected " in text
    assert "quantity   allocate[" in text
    assert "SKIPPED" in text


def test_programs(tmp_path: Path) -> None:
    """A program is asked item by item: what is right passes, what is wrong fails, and it is ended with pytest."""
    late = "def phase(s, t): return 0 if t <= s['warmup'] else 1 if t < s['total'] - s['final'] else 2\n"
    right = written(tmp_path / "right.py", GOES_ON)
    wrong = written(tmp_path / "wrong.py", late + GOES_ON)
    text = (
        f"test_right = conformance_checks({right!r}, stages=['phase_at', 'merge'])\n"
        f"test_wrong = conformance_checks({wrong!r}, stages=['phase_at'])\n"
    )
    done = run(tmp_path, text)
    assert counted(done).keys() == {"failed", "passed", "skipped"}, done.stdout + done.stderr
    assert counted(done)["skipped"] == 6
    assert "the target has no merge" in done.stdout
    assert "in Python: phase_at/float64/0/1 fails" in done.stdout
    assert "warmup_includes_t_i" in done.stdout
    assert "FAILED test_mine.py::test_right" not in done.stdout
    assert not still_running(tmp_path)


def test_a_program_that_dies_is_started_again(tmp_path: Path) -> None:
    """A program that ends in the middle of a check fails that check with its last words, and the next one is asked."""
    dies = "say(told)\nfor r in requests():\n    if r['case']['stage'] == 'phase_at': sys.exit('out of memory')\n"
    honest = "    compute(r); say({'id': r['id'], 'ok': True})\n"
    spec = written(tmp_path / "dies.py", dies + honest)
    done = run(tmp_path, f"test_it = conformance_checks({spec!r}, stages=['phase_at', 'allocates_at'])\n")
    assert counted(done) == {"failed": 6, "passed": 6}, done.stdout + done.stderr
    assert "in Python: phase_at/float64/0/0 fails" in done.stdout
    assert "its standard error ends: out of memory" in done.stdout
    assert not still_running(tmp_path)


def test_a_program_that_does_not_start_is_an_error_of_collection(tmp_path: Path) -> None:
    """A command that cannot be started must not pass as a suite without items."""
    done = run(tmp_path, f"test_it = conformance_checks('exec:{tmp_path}/nothing')\n")
    assert done.returncode == 2
    assert "cannot be started" in done.stdout


def written(path: Path, goes_on: str) -> str:
    """A program in Python that notes its number, begins honestly and goes on as told; the target."""
    noted = f"import os; print(os.getpid(), file=open({str(path.parent / 'numbers')!r}, 'a'))\n"
    path.write_text(noted + HONEST + goes_on, encoding="utf-8")
    return f"exec:{sys.executable} -S -E {path}"


def still_running(folder: Path) -> list[int]:
    """Those of the programs that have not ended."""

    def runs(number: int) -> bool:
        with suppress(ProcessLookupError):
            os.kill(number, 0)
            return True
        return False

    numbers = [int(line) for line in (folder / "numbers").read_text(encoding="utf-8").split()]
    assert numbers
    return [number for number in numbers if runs(number)]


def test_right_wrong_and_classes(tmp_path: Path) -> None:
    """Right passes, wrong fails item by item with the text of the report; in modules, classes, and several workers."""
    pytest.importorskip("xdist")
    text = (
        "test_right = conformance_checks(mine.Right, stages=['prune', 'merge'])\n"
        "test_wrong = conformance_checks(mine.Wrong(), stages=['triplet_scores'], dtypes=['float64'], seed=3)\n"
        "class TestMine:\n"
        "    test_by_name = conformance_checks('mine:Right', stages=['prune'], preset='default', dtypes=['float32'])\n"
    )
    done = run(tmp_path, text, "-v", "-n", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    found = counted(done)
    wrong = len(
        re.findall(r"^FAILED test_mine.py::test_wrong\[triplet_scores/float64/3/\d\]", done.stdout, re.MULTILINE)
    )
    assert (found["failed"], found["passed"], found["skipped"]) == (wrong, 12 + (6 - wrong) + 24, 12)
    assert wrong > 2
    assert "test_mine.py::TestMine::test_by_name[prune/float32/0/23]" in done.stdout
    lines = done.stdout.splitlines()
    assert "Wrong: triplet_scores/float64/3/1 fails" in lines
    assert "  equation   (9) S_i = (Ī·Ū)(s_i) + mean_j (Ī·Ū)(B_ji) + mean_j (Ī·Ū)(A_ij)" in lines
    assert any(line.startswith("  expected   ") for line in lines)
    assert any(line.startswith("  diagnosis  matches `scores_of_s_alone`") for line in lines)
    assert "the target has no merge" in done.stdout
    assert "Traceback" not in done.stdout


def test_known_failures_are_expected(tmp_path: Path) -> None:
    """Known failures are xfail with their reason, and strict: a check that a pattern matches and that passes fails."""
    (tmp_path / "known.toml").write_text(
        '[[known]]\npattern = "triplet_scores/float64/0/[123]"\nreason = "s alone"\nlink = "see #7"\n'
        '[[known]]\npattern = "prune/float64/0/2"\nreason = "repaired"\n',
        encoding="utf-8",
    )
    text = (
        "test_wrong = conformance_checks(\n"
        "    mine.Wrong, stages=['triplet_scores', 'prune'], dtypes=['float64'], known='known.toml')\n"
    )
    done = run(tmp_path, text)
    assert done.returncode == 1
    assert "XFAIL test_mine.py::test_wrong[triplet_scores/float64/0/1] - s alone see #7" in done.stdout
    (failed,) = re.findall(r"^FAILED (.*)$", done.stdout, re.MULTILINE)
    assert failed == "test_mine.py::test_wrong[prune/float64/0/2] - [XPASS(strict)] repaired"


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    """An implementation with none of the functions is an error of collection, with the names of those it might have."""
    done = run(tmp_path, "test_nothing = conformance_checks(mine.Nothing)\n")
    assert done.returncode == 2
    assert "'Nothing' has none of the functions that can be checked: init_factors, linear_forward" in done.stdout


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "target": ("nowhere", {}, "there is no module 'nowhere' to import"),
    "convention": (ref, {"convention": "HF"}, "the convention must be one of SPEC"),
    "preset": (ref, {"preset": "slow"}, "the preset must be one of quick, default, thorough; got 'slow'"),
    "dtype": (ref, {"dtypes": ["int8"]}, "the dtype must be one of float64, float32, float16, bfloat16; got 'int8'"),
    "stage": (ref, {"stages": ["merg"]}, "the stage must be one of init_factors"),
    "known": (ref, {"known": "no.toml"}, "known failures must stand in a file that exists; got 'no.toml'"),
    "library": (Target("t", ref, "tensorflow"), {}, "t.array_library cannot be used here: the array library must be"),
    "no functions": (object(), {}, "'object' has none of the functions that can be checked"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    """What is unknown is refused when the tests are collected, by one sentence that states the rule."""
    implementation, options, message = BAD[name]
    with pytest.raises((ValueError, TargetError), match=re.escape(message)):
        conformance_checks(implementation, **options)


def items(implementation: Any, **options: Any) -> list[str]:
    (mark,) = conformance_checks(implementation, **options).__func__.pytestmark  # type: ignore[attr-defined]
    return [parameter.id for parameter in mark.args[1]]


def test_ids_are_those_of_the_report() -> None:
    """An item's id is that of the check, in the order of the table, without what the convention lacks."""
    assert items(ref, stages=["prune"], dtypes=["float16"], seed=7) == [f"prune/float16/7/{i}" for i in range(6)]
    every = items(ref)
    assert len(every) == len(set(every)) == 2 * 6 * len(STAGES)
    assert list(dict.fromkeys(case.split("/")[0] for case in every)) == [stage.name for stage in STAGES]
    assert not [case for case in items(ref, convention="PEFT") if case.startswith("phase_at")]
    assert items(Target("t", ref)) == every


test_conforms = conformance_checks(ref, stages=["merge", "compress"], convention="LORALIB")


def test_the_page_runs(tmp_path: Path) -> None:
    """The file that the page shows, and its known failures, are collected and give what the page says."""
    page = (ROOT / "docs" / "verify" / "pytest.md").read_text(encoding="utf-8")
    python, toml = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL).group(1) for kind in ("python", "toml"))
    (tmp_path / "known_failures.toml").write_text(toml, encoding="utf-8")
    done = run(tmp_path, python)
    assert done.returncode == 1, done.stdout
    said = re.search(r"```text\n(.*?)```", page, re.DOTALL).group(1)
    assert set(said.splitlines()) <= set(done.stdout.splitlines())
