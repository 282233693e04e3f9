"""The report page of a run without a browser: the run's own numbers, its pictures as text, and a small file."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import jaxtyping
import matplotlib.style
import numpy as np
import pytest
from click.testing import CliRunner, Result
from matplotlib.figure import Figure

from adalora_ref.cli import main
from adalora_ref.experiments import digits
from adalora_ref.experiments.digits import Options, Settings
from adalora_ref.experiments.run_folder import Arm, read_run
from adalora_ref.experiments.timeline import Timeline
from adalora_ref.html.drawings import drawing
from adalora_ref.html.elements import data, e
from adalora_ref.html.step_table import step_section
from adalora_ref.html.steps import MOST_NUMBERS, chosen, length, plain, scientific, shown
from adalora_ref.plots import figures
from tests.html_pages import Element, parsed, require_sound

SMALL = Settings(hidden_layers=1, pretraining_steps=4, steps=24, warmup=4, final=6, interval=3, batch_size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run over two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    jaxtyping.config.update("jaxtyping_disable", True)  # training is not what is tested, and takes half of the time
    digits.run(Options(seeds=2, out=folder), SMALL, lambda *_: None)
    jaxtyping.config.update("jaxtyping_disable", False)
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    """The page of its first seed."""
    assert asked(run).output == f"written to {run}.html\n"
    return run.with_name("run.html").read_text(encoding="utf-8")


def asked(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def triplets_of(page: Element) -> dict[str, list[Element]]:
    """The cells of the table of triplets, by matrix."""
    lines = page.one("table", id="triplets").one("tbody").all("tr")
    return {line.one("th").text: [c for c in line.all("td") if c.attributes["class"] != "empty"] for line in lines}


# THE PAGE


def test_the_last_step_stands_on_the_page(run: Path, text: str) -> None:
    """Without its script the page shows every triplet's score, and whether it is kept, after the last step."""
    page = require_sound(text)
    timeline = read_run(run).seeds[0].arms["adalora"].timeline
    cells = triplets_of(page)
    assert cells.keys() == timeline.scores.keys()
    for name, held in cells.items():
        scores = [scientific(float(f"{score:.4g}")) for score in timeline.scores[name][-1]]
        assert [cell.one("span", class_="score").text for cell in held] == scores
        assert [cell.attributes["class"] == "kept" for cell in held] == timeline.masks[name][-1].tolist()
        assert [cell.one("b").text[0] == "●" for cell in held] == timeline.masks[name][-1].tolist()


def test_the_facts_are_those_of_the_last_step(run: Path, text: str) -> None:
    """Budget, phase, loss, the latest allocation with its threshold, and who was dropped and came back there."""
    facts = {span.attributes["id"]: span.text for span in require_sound(text).all("span") if "id" in span.attributes}
    arm = read_run(run).seeds[0].arms["adalora"]
    last, latest = arm.steps[-1], next(step for step in reversed(arm.steps) if step["allocates"])
    names = {term.text for term in parsed(text).one("section", id="steps-shown").all("dt")}
    assert {"Loss (nats)", "Threshold (nats²)"} <= names
    assert parsed(text).one("p", id="said").attributes["aria-live"] == "polite"
    assert facts["fact-step"] == "23 (of 0 to 23)"
    assert (facts["fact-phase"], facts["fact-budget"]) == ("final", str(last["budget"]))
    assert facts["fact-kept"] == f"{sum(last['kept'].values())} of 16 triplets"
    assert facts["fact-loss"] == scientific(float(f"{last['loss']:.4g}"))
    assert facts["fact-latest"] == f"step {latest['step']}" == "step 18"
    assert facts["fact-threshold"] == scientific(float(f"{latest['threshold']:.4g}"))
    changes = "; ".join(f"{n}: {', '.join(map(str, who))}" for n, who in latest["dropped"].items() if who)
    assert facts["fact-dropped"] == (changes or "nobody")


def test_the_data_are_those_of_the_run(run: Path, text: str) -> None:
    """The script is given every step: scores to four digits, masks, budgets, and each allocation."""
    held = json.loads(require_sound(text).one("script", type="application/json").text)
    arm = read_run(run).seeds[0].arms["adalora"]
    scores = np.concatenate(list(arm.timeline.scores.values()), axis=1)
    assert held["steps"] == list(range(24))
    assert np.allclose(held["scores"], scores, rtol=5.1e-4, atol=0)
    masks = np.concatenate(list(arm.timeline.masks.values()), axis=1)
    assert [[sign == "1" for sign in mask] for mask in held["masks"]] == masks.tolist()
    assert held["budgets"] == [step["budget"] for step in arm.steps]
    assert [a["step"] for a in held["allocations"]] == [step["step"] for step in arm.steps if step["allocates"]]
    for allocation in held["allocations"]:
        record = arm.steps[allocation["step"]]
        assert dict(allocation["dropped"]) == {name: who for name, who in record["dropped"].items() if who}
        assert dict(allocation["revived"]) == {name: who for name, who in record["revived"].items() if who}


def test_the_pictures_are_text(text: str) -> None:
    """Each picture is drawn in the page, says in words what it shows, and has its labels as text."""
    page = require_sound(text)
    figures = page.all("figure")
    kinds = [figure.attributes["id"] for figure in figures]
    assert kinds[:4] == ["picture-budget", "picture-ranks", "picture-final_ranks", "picture-scores"]
    for figure in figures:
        svg = figure.one("svg", role="img")
        written = "".join(held.text for held in svg.all("text"))
        assert svg.attributes["aria-label"].split("; ")[0][:20] in written
        assert figure.one("figcaption").text
        assert not svg.all("style")
        assert not svg.all("script")


def test_a_picture_is_the_same_each_time(run: Path, text: str) -> None:
    """Drawn again, a picture is the same bytes, ids included; and the page is far from large."""
    held = read_run(run)
    arms = held.seeds[0].arms
    with matplotlib.style.context("default"):
        again = figures(arms["adalora"], held.config, lora=arms["lora"], seed=0)
        drawn = [drawing(kind, again[kind]) for kind in ("budget", "ranks")]
    assert all(ET.tostring(held, encoding="unicode", method="html") in text for held in drawn)
    assert len(text.encode()) < 600_000


def test_seed_and_arm_are_chosen(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--seed and --arm name what the page is about, and the page; LoRA drops nobody."""
    asked_for: dict[str, Any] = {}

    def drawn(arm: Arm, config: Any, **more: Any) -> dict[str, Figure]:
        asked_for.update(more, convention=config["convention"])
        return {"scores": Figure()}  # the others take most of the time

    monkeypatch.setattr("adalora_ref.html.run_page.figures", drawn)
    done = asked(run, "--seed", 1, "--arm", "lora")
    assert done.output == f"written to {run}-seed1-lora.html\n"
    page = require_sound(run.with_name("run-seed1-lora.html").read_text(encoding="utf-8"))
    assert page.one("h1").text == "digits: lora, seed 1"
    assert {cell.attributes["class"] for held in triplets_of(page).values() for cell in held} == {"kept"}
    assert page.one("span", id="fact-latest").text == "none yet"
    assert asked_for == {"name": "LoRA", "convention": "LORA", "lora": None, "seed": 1}
    assert page.one("figcaption").text == "Scores of the triplets, which decide nothing here."
    assert "24: none with an allocation" in page.one("header").text
    assert page.one("span", id="fact-phase").text == "–", "an arm that never prunes has no phases"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "7"], "has the seeds 0, 1; got 7"),
        (["--arm", "dora"], "has the arms lora, adalora; got 'dora'"),
    ],
)
def test_what_the_run_has_not_is_refused(arguments: list[str], message: str, run: Path, tmp_path: Path) -> None:
    """A seed or an arm that is not there gives one sentence and status 2."""
    done = asked(run, *arguments, "--out", tmp_path / "page.html")
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert message in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is neither a run folder, which has a config.json, nor a file with a verdict"),
        ("{", "is damaged"),
        ('{"format": "adalora-ref run 1"}', "must have the format 'adalora-ref run"),
        ("{}", "must have the format 'adalora-ref run"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    """Another folder, a damaged one, and one of another version give one sentence and status 2."""
    (tmp_path / "f").mkdir()
    if content is not None:
        (tmp_path / "f" / "config.json").write_text(content, encoding="utf-8")
    done = asked(tmp_path / "f")
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert message in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_without_matplotlib_it_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run cannot be drawn without matplotlib; what to install is said in one sentence."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = asked(run, "--out", tmp_path / "page.html")
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert "pictures are drawn with matplotlib: pip install '.[plots]' in a checkout" in done.output


# THE STEPS


def made(steps: int, due: tuple[int, ...], *names: str) -> Arm:
    """An arm of matrices of rank 2 whose second triplet is dropped at the first allocation and back at the second."""
    records: list[dict[str, Any]] = []
    for at in range(steps):
        changes = [[1] if at in due[turn : turn + 1] else [] for turn in (0, 1)]
        records.append({
            "step": at, "phase": "pruning", "allocates": at in due, "loss": 1.0 / 3, "budget": 2 * len(names),
            "threshold": 1e-7 if at in due else None,
            "dropped": dict.fromkeys(names, changes[0]), "revived": dict.fromkeys(names, changes[1]),
        })  # fmt: skip
    scores = 1e-9 * np.arange(2.0 * steps).reshape(steps, 2)
    away = [due[0] <= at < (*due, steps)[1] for at in range(steps)] if due else [False] * steps
    masks = np.asarray([[True, not gone] for gone in away])
    flat = dict.fromkeys(names, np.zeros(steps))
    each = {"scores": dict.fromkeys(names, scores), "masks": dict.fromkeys(names, masks)}
    measured = np.arange(1, steps, 2)
    timeline = Timeline(**each, defect_B=flat, defect_A=flat, measured=measured, accuracy=measured / 8)
    return Arm(records, timeline, {}, {}, {})


def section(arm: Arm) -> Element:
    """The part of a page about the steps of an arm, with its data."""
    held = shown(arm)
    tree = e("html", step_section(held), data("steps", plain(held)))
    return parsed(ET.tostring(tree, encoding="unicode", method="html"))


def test_accuracy_is_as_last_measured() -> None:
    """Between two measurements the earlier one stands, and before the first there is none."""
    page = section(made(5, (), "q"))
    assert json.loads(page.one("script").text)["accuracies"] == [None, 0.125, 0.125, 0.375, 0.375]


def test_who_left_and_who_came_back_is_marked() -> None:
    """Beside kept and dropped, a sign says what the latest allocation changed."""
    signs = {
        steps: [cell.one("b").text for cell in triplets_of(section(made(steps, (2, 4), "q")))["q"]]
        for steps in (2, 4, 6)
    }
    assert signs == {2: ["●", "●"], 4: ["●", "○↓"], 6: ["●", "●↑"]}


def test_a_long_run_shows_some_of_its_steps() -> None:
    """Of many steps a page holds about 60 000 scores: the first, the last, every allocation, others evenly between."""
    records = [{"allocates": at in (7, 501)} for at in range(5000)]
    few = chosen(records, triplets=200)
    assert {0, 7, 501, 4999} <= set(few)
    assert len(few) * 200 <= MOST_NUMBERS
    assert len(few) > 0.8 * MOST_NUMBERS / 200
    assert max(np.diff(few)) <= 5000 * 200 / MOST_NUMBERS + 1
    assert chosen(records, triplets=12) == list(range(5000))
    assert chosen(records[:1], triplets=10**6) == [0]


def test_a_page_says_how_many_steps_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where steps are left out, the page says so; else it does not."""
    assert "are shown" not in section(made(30, (3,), "q")).text
    monkeypatch.setattr("adalora_ref.html.steps.MOST_NUMBERS", 20)
    assert "Of 30 steps 8 are shown, every one with an allocation among them." in section(made(30, (3,), "q")).text


def test_bars_are_logarithms() -> None:
    """The lowest score has the shortest bar, the highest the longest, 0 none; one score alone is full."""
    scale = (-9.0, -3.0)
    assert [length(score, scale) for score in (0.0, 1e-9, 1e-6, 1e-3)] == pytest.approx([0, 4, 52, 100])
    assert length(1.0, (0.0, 0.0)) == 100


HOSTILE = "</script><script>alert(1)</script><b onclick=x>\u202e"


def test_names_of_matrices_do_not_become_markup() -> None:
    """A run whose matrices have hostile names has the elements of any other."""
    benign, hostile = section(made(6, (2, 4), "q")), section(made(6, (2, 4), HOSTILE))
    assert [element.tag for element in benign.every()] == [element.tag for element in hostile.every()]
    assert json.loads(hostile.one("script").text)["ranks"] == [[HOSTILE, 2]]
    assert not [name for element in hostile.every() for name in element.attributes if name.startswith("on")]


# PICTURES


def picture(svg: str) -> Any:
    """What looks like a figure of matplotlib, and writes this."""

    def savefig(where: StringIO, **_: Any) -> None:
        where.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt">{svg}</svg>')

    return SimpleNamespace(axes=[], savefig=savefig)


@pytest.mark.parametrize(
    ("svg", "message"),
    [
        ("<script>alert(1)</script>", "must be made of .*; got script"),
        ('<image href="http://example.org/a.png"/>', "must load nothing; got 'http://example.org/a.png'"),
        ('<use href="data:text/html,x"/>', "must load nothing"),
        ('<g style="filter: blur(3px)"/>', "must do without the styles filter"),
    ],
)
def test_a_picture_that_a_page_must_not_have_is_refused(svg: str, message: str) -> None:
    """Scripts, files from elsewhere, and what SVG cannot say without a style do not get into a page."""
    with pytest.raises(ValueError, match=message):
        drawing("x", picture(svg))


def test_ids_of_pictures_are_their_own() -> None:
    """What refers to an id still does, under a name that no other picture has; other ids go, and colours stay."""
    svg = '<defs><path id="a" d="M0 0"/></defs><g id="b" clip-path="url(#a)"><use href="#a" style="fill: #abcdef"/></g>'
    held = drawing("budget", picture(svg))
    path, group, use = held[0][0], held[1], held[1][0]
    assert (path.get("id"), group.get("id")) == ("budget-a", None)
    assert (group.get("clip-path"), use.get("href"), use.get("fill")) == ("url(#budget-a)", "#budget-a", "#abcdef")
