"""The derivations: quoted code stands in the source, solutions are computed, tables and picture are measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from adalora_ref import (
    BudgetSchedule,
    Config,
    Factors,
    init_importance,
    init_state,
    linear_backward,
    linear_forward,
    map_factors,
)
from adalora_ref.experiments import derivations
from adalora_ref.experiments.derivations import Zeroing

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "derivations"
PAGES = sorted(FOLDER.glob("*.md"))
TOPICS = [page for page in PAGES if page.name != "README.md"]
SOLUTION = '<details markdown="1"><summary>Solution</summary>\n'


def quotes(text: str) -> list[tuple[str, list[str]]]:
    """Every quoted piece of code: its file, and its lines without the space at their ends."""
    blocks = re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', text, flags=re.DOTALL | re.MULTILINE)
    return [(file, [line.strip() for line in block.splitlines() if line.strip()]) for file, block in blocks]


def first_missing(quoted: list[str], source: list[str]) -> str | None:
    """The first line that does not follow the ones before it in *source*."""
    rest = iter(line.strip() for line in source)
    return next((line for line in quoted if line not in rest), None)


every_topic = pytest.mark.parametrize("page", TOPICS, ids=lambda page: page.stem)

# THE PAGES


@every_topic
def test_quoted_code_is_the_code(page: Path) -> None:
    """Every quoted line stands in the named file, in the order of the quotation; every page quotes some."""
    found = quotes(page.read_text(encoding="utf-8"))
    assert found
    for file, quoted in found:
        assert quoted
        assert first_missing(quoted, (ROOT / file).read_text(encoding="utf-8").splitlines()) is None


def test_a_wrong_quotation_is_found() -> None:
    """A changed line is missing, and so is one out of order."""
    source = ["a = 1", "b = 2", "", "    c = 3"]
    assert first_missing(["a = 1", "c = 3"], source) is None
    assert first_missing(["a = 1", "b = 3"], source) == "b = 3"
    assert first_missing(["b = 2", "a = 1"], source) == "a = 1"


@every_topic
def test_pages_end_with_an_exercise_and_its_computed_solution(page: Path) -> None:
    """The last section is an exercise, its solution is folded, and the solution has an example that is run."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE)[-1] == "Exercise"
    _, solution = text.split("\n## Exercise\n")[1].split(SOLUTION)
    assert solution.endswith("</details>\n")
    assert "\n```python\n>>> " in solution


def test_quotations_are_not_run(tmp_path: Path) -> None:
    """A block with a title is no example, and one without is."""
    page = tmp_path / "page.md"
    page.write_text('```python title="a.py"\nraise SystemExit\n```\n\n```python\n>>> 1\n1\n\n```\n', encoding="utf-8")
    assert len(list(Document.parse(str(page), PythonCodeBlockParser()).examples())) == 1


def test_reading_order_has_every_page() -> None:
    """The reading order names each page once."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. \[[^\]]+\]\((\w+\.md)\)", text, flags=re.MULTILINE)
    assert len(listed) == 10
    assert sorted(listed) == [page.name for page in TOPICS]


# WHAT IS MEASURED


def table(text: str, head: str) -> list[list[float]]:
    """The numbers below the line that begins with *head*."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(head)) + 1
    rows = []
    for line in lines[start:]:
        if not re.match(r" *[0-9]", line):
            break
        rows.append([float(cell) for cell in line.split() if cell not in derivations.PARTS])
    return rows


@pytest.mark.thorough
def test_measured_tables_are_those_of_the_pages() -> None:
    """The command prints what the pages say: ranks, counts and steps equal, the rest within 0.02."""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", derivations.__name__],
        cwd=ROOT, env={**os.environ, **threads}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = {
        "steps  part": ("sensitivity", 9),
        "steps        S": ("sensitivity", 3),
        "γ    step 0": ("penalty_share", 5),
    }
    for head, (page, rows) in shown.items():
        got, said = table(done.stdout, head), table((FOLDER / f"{page}.md").read_text(encoding="utf-8"), head)
        assert len(said) == len(got) == rows
        assert np.allclose(got, said, rtol=0.0, atol=0.02)


class Bilinear:
    """One layer whose loss is ⟨dy, y⟩: linear in every entry, so that the first-order term is the whole change."""

    def __init__(self) -> None:
        self.weights = {"layer": np.zeros((3, 3))}

    def forward(self, x: Any, factors: Any, scales: Any) -> Any:
        return linear_forward(x, self.weights["layer"], factors["layer"], scale=scales["layer"])

    def loss(self, y: Any, dy: Any) -> Any:
        return np.sum(dy * y), dy

    def backward(self, dy: Any, cache: Any) -> Any:
        return {"layer": linear_backward(dy, cache)[1]}


def test_zeroing_is_exact_where_the_loss_is_linear() -> None:
    """There predicted and true change agree to rounding, and every entry with a product that is not 0 is found."""
    rng = np.random.default_rng(0)
    schedule = BudgetSchedule(initial=2, target=1, warmup=1, final=1, total=3)
    config = Config(schedule=schedule, initial_rank=2, alpha=4.0, learning_rate=0.1)
    state = init_state(Bilinear(), config, rng)
    held = map_factors(lambda w: rng.standard_normal(w.shape), state.factors["layer"])
    state = state._replace(factors={"layer": Factors(held.B, np.array([0.0, 2.0]), held.A)})
    examples = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    begun = derivations.Start(Bilinear(), config, state, [], examples)  # type: ignore[arg-type]
    found = derivations.zeroing(begun, state, entries=100)
    assert {part: len(z.true) for part, z in found.items()} == {"B": 3, "s": 1, "A": 3}
    for z in found.values():
        assert np.allclose(z.predicted, z.true, rtol=1e-9)
    state = state._replace(importance={"layer": init_importance(held)})
    (score,), (product,), (true,) = derivations.scores_against_truth(begun, state)
    assert (score, product) == (0.0, pytest.approx(abs(true)))


def test_agreement_of_known_pairs() -> None:
    """Reversed sizes correlate by −1, one sign of four is wrong, and the median error is by hand."""
    correlation, signs, error = derivations.agreement(
        Zeroing(np.array([1.0, -2.0, 3.0, 4.0]), np.array([8.0, 7.0, 6.0, 5.0]))
    )
    assert correlation == pytest.approx(-1.0)
    assert (signs, error) == (0.75, pytest.approx((1.0 + 4.5) / 2))


def test_the_picture_shows_what_was_measured(tmp_path: Path) -> None:
    """The points of each panel are the sizes handed in, part by part, on logarithmic axes that name their unit."""
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture: pip install '.[plots]'")
    parts = {part: Zeroing(np.array([0.1, -0.2]) * k, np.array([-0.3, 0.4]) * k) for k, part in enumerate("BsA", 1)}
    figure = derivations.draw({"early": parts, "late": parts}, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    assert [panel.get_title() for panel in figure.axes] == ["early", "late"]
    for panel in figure.axes:
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
        assert "nats" in panel.get_xlabel()
        drawn = {points.get_label()[-1]: points.get_offsets() for points in panel.collections}
        assert drawn.keys() == set("BsA")
        for part, (predicted, true) in parts.items():
            assert np.array_equal(drawn[part], np.column_stack([abs(predicted), abs(true)]))


def test_the_stored_picture_is_there() -> None:
    """docs/derivations/sensitivity.png is a PNG of the size that is drawn."""
    data = (FOLDER / "sensitivity.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (1440, 540)
