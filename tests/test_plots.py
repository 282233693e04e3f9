"""Pictures of a run: what is drawn is what was recorded; and `adalora-ref plot`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner, Result
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from safetensors.numpy import load_file

from adalora_ref.cli import main
from adalora_ref.experiments import digits
from adalora_ref.experiments.digits import Options, Settings
from adalora_ref.experiments.run_folder import Arm, Run, read_run
from adalora_ref.html.drawings import drawing
from adalora_ref.plots import command, data, figures, pictures
from adalora_ref.plots.style import ink, rank_colours

TINY = Settings(
    hidden_layers=1, pretraining_steps=10, steps=40, warmup=3, final=8, interval=3, learning_rate=0.1, batch_size=8,
    initial_rank=6, target_rank=3,
)  # fmt: skip
"""So fast that a triplet comes back."""
NAMES = ["budget", "ranks", "final_ranks", "scores", "orthogonality", "loss", "revivals"]

every_picture = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    digits.run(Options(out=path), TINY, lambda *_: None)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """The same, read."""
    return read_run(folder)


@pytest.fixture(scope="module")
def drawn(run: Run) -> dict[str, Figure]:
    """Its pictures."""
    return figures(adalora(run), run.config, lora=run.seeds[0].arms["lora"], seed=0)


def adalora(run: Run) -> Arm:
    return run.seeds[0].arms["adalora"]


def lines(axes: Any) -> dict[str, Any]:
    """The heights of every line that has a name."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines if line.get_label()[0] != "_"}


def texts(axes: Any) -> list[tuple[str, float, float]]:
    return [(text.get_text(), *text.get_position()) for text in axes.texts]


def numbers(arm: Arm, field: str) -> Any:
    return np.asarray([step[field] for step in arm.steps])


def recorded_ranks(arm: Arm) -> Any:
    return np.asarray([[step["kept"][name] for step in arm.steps] for name in ("layer1", "head")])


# WHAT IS DRAWN


def check_budget(figure: Figure, arm: Arm) -> None:
    (axes,) = figure.axes
    held, due = lines(axes), numbers(arm, "allocates")
    assert np.array_equal(held["budget"], numbers(arm, "budget"))
    assert np.array_equal(held["kept"], [sum(step["kept"].values()) for step in arm.steps])
    (marks,) = (line for line in axes.lines if line.get_label() == "allocation")
    assert np.array_equal(marks.get_xdata(), np.flatnonzero(due))
    assert np.array_equal(marks.get_ydata(), numbers(arm, "budget")[due])


def check_ranks(figure: Figure, arm: Arm) -> None:
    axes, _ = figure.axes
    kept = recorded_ranks(arm)
    assert np.array_equal(axes.images[0].get_array(), kept)
    assert axes.images[0].get_extent() == [-0.5, len(arm.steps) - 0.5, 1.5, -0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layer1", "head"]
    named = [(int(text), int(row), step) for text, step, row in texts(axes) if text.isdigit()]
    assert all(kept[row, int(np.floor(step))] == kept[row, int(np.ceil(step))] == rank for rank, row, step in named)
    assert {row for _, row, _ in named} == {0, 1}


def check_final_ranks(figure: Figure, arm: Arm) -> None:
    (axes,) = figure.axes
    kept = list(arm.steps[-1]["kept"].values())
    assert axes.images[0].get_array().tolist() == [kept]
    assert texts(axes)[: len(kept)] == [(str(rank), column, 0) for column, rank in enumerate(kept)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["layer1", "head"]


def check_scores(figure: Figure, arm: Arm) -> None:
    (axes,) = figure.axes
    steps = len(arm.steps)
    scores = [np.concatenate([a[t] for a in arm.timeline.scores.values()]) for t in range(steps)]
    kept = [np.concatenate([a[t] for a in arm.timeline.masks.values()]) for t in range(steps)]
    held, bands = lines(axes), [edges_of(band, steps) for band in axes.collections]
    for name, place, choose in (("kept", 0, lambda mask: mask), ("dropped", 2, lambda mask: ~mask)):
        chosen = [row[choose(mask)] for row, mask in zip(scores, kept, strict=True)]
        for t, values in enumerate(chosen):
            wanted = np.percentile(values, [0, 25, 50, 75, 100]) if values.size else [np.nan] * 5
            got = [bands[place][0][t], bands[place + 1][0][t], bands[place + 1][1][t], bands[place][1][t]]
            assert np.allclose(got, np.delete(wanted, 2), rtol=1e-12, equal_nan=True)
            assert np.isclose(held[name][t], wanted[2], rtol=1e-12, equal_nan=True)
    due = [step for step in arm.steps if step["allocates"]]
    (threshold,) = (line for line in axes.lines if line.get_label().startswith("threshold"))
    assert threshold.get_markevery() == [step["step"] for step in due]
    for first, last in pairwise([*(step["step"] for step in due), steps]):
        assert set(threshold.get_ydata()[first:last]) == {arm.steps[first]["threshold"]}


def edges_of(band: Any, steps: int) -> tuple[Any, Any]:
    """The lower and upper edge of a filled band at every step; NaN where it is absent."""
    points = np.concatenate([path.vertices for path in band.get_paths()])
    at = [points[points[:, 0] == step, 1] for step in range(steps)]
    low, high = ([edge(heights) if heights.size else np.nan for heights in at] for edge in (np.min, np.max))
    return low, high


def check_orthogonality(figure: Figure, arm: Arm) -> None:
    panels = figure.axes
    for axes, held in zip(panels, (arm.timeline.defect_B, arm.timeline.defect_A), strict=True):
        assert {name: line.tolist() for name, line in lines(axes).items()} == {n: a.tolist() for n, a in held.items()}
    (least,) = (line for line in panels[0].lines if line.get_label() == "_least")
    assert least.get_ydata() == [1.0, 1.0]  # √(6 − 5): head has six columns in five dimensions


def check_loss(figure: Figure, arm: Arm) -> None:
    above, under = figure.axes
    loss = numbers(arm, "loss")
    assert np.array_equal(above.lines[0].get_ydata(), loss)
    assert np.allclose(lines(above)["AdaLoRA"], [loss[t : t + 2].mean() for t in range(len(loss) - 1)], rtol=1e-12)
    right = 100 * arm.timeline.accuracy
    name, shown = next(iter(lines(under).items()))
    assert name == f"AdaLoRA, {right[-1]:.1f} % at the end"
    assert np.array_equal(shown, right)
    assert under.lines[0].get_xdata().tolist() == arm.timeline.measured.tolist() == [0, 10, 20, 30, 39]


def check_revivals(figure: Figure, arm: Arm) -> None:
    (axes,) = figure.axes
    for bars in axes.containers:
        counts = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in bars}
        sign = {"revived": 1, "dropped": -1}[bars.get_label()]
        wanted = {step["step"]: sign * sum(map(len, step[bars.get_label()].values())) for step in arm.steps}
        assert {round(at): height for at, height in counts.items()} == {at: n for at, n in wanted.items() if n}
    assert [bars.get_label() for bars in axes.containers] == ["revived", "dropped"]
    (marks,) = (line for line in axes.lines if line.get_label() == "allocation")
    assert np.array_equal(marks.get_xdata(), np.flatnonzero(numbers(arm, "allocates")))


CHECKS: dict[str, Callable[[Figure, Arm], None]] = {
    "budget": check_budget,
    "ranks": check_ranks,
    "final_ranks": check_final_ranks,
    "scores": check_scores,
    "orthogonality": check_orthogonality,
    "loss": check_loss,
    "revivals": check_revivals,
}


def at_last(field: str, value: Any) -> Callable[[Arm], Arm]:
    return lambda arm: arm._replace(steps=[*arm.steps[:-1], {**arm.steps[-1], field: value}])


def at_first_allocation(field: str, value: Any) -> Callable[[Arm], Arm]:
    def changed(arm: Arm) -> Arm:
        first = next(step["step"] for step in arm.steps if step["allocates"])
        return arm._replace(steps=[{**s, field: value} if s["step"] == first else s for s in arm.steps])

    return changed


def grown(quantity: str) -> Callable[[Arm], Arm]:
    def changed(arm: Arm) -> Arm:
        held = getattr(arm.timeline, quantity)
        more = {name: a * 1.01 for name, a in held.items()} if isinstance(held, dict) else held * 0.99
        return arm._replace(timeline=arm.timeline._replace(**{quantity: more}))

    return changed


CHANGES: list[tuple[str, str, Callable[[Arm], Arm]]] = [
    ("budget", "budget", at_last("budget", 7)),
    ("budget", "kept", at_last("kept", {"layer1": 1, "head": 3})),
    ("budget", "allocations", at_last("allocates", True)),
    ("ranks", "kept", at_last("kept", {"layer1": 1, "head": 3})),
    ("final_ranks", "kept", at_last("kept", {"layer1": 1, "head": 3})),
    ("scores", "scores", grown("scores")),
    ("scores", "threshold", at_first_allocation("threshold", 1.0)),
    ("orthogonality", "B", grown("defect_B")),
    ("orthogonality", "A", grown("defect_A")),
    ("loss", "loss", at_last("loss", 9.0)),
    ("loss", "accuracy", grown("accuracy")),
    ("revivals", "revived", at_first_allocation("revived", {"layer1": [0], "head": []})),
    ("revivals", "dropped", at_first_allocation("dropped", {"layer1": [0], "head": [1]})),
]


def test_the_pictures_have_their_order(drawn: dict[str, Figure]) -> None:
    """They come in order of display, under the names that a report may rely on."""
    assert list(drawn) == NAMES == list(CHECKS)
    assert all(isinstance(figure, Figure) for figure in drawn.values())


@every_picture
def test_what_is_drawn_is_what_was_recorded(name: str, drawn: dict[str, Figure], run: Run) -> None:
    """Lines, images, bands and bars hold the numbers of the run folder."""
    CHECKS[name](drawn[name], adalora(run))


@pytest.mark.parametrize(("name", "what", "change"), CHANGES, ids=[f"{name}-{what}" for name, what, _ in CHANGES])
def test_a_wrong_picture_is_seen(name: str, what: str, change: Callable[[Arm], Arm], run: Run) -> None:
    """A picture drawn from records in which one number is another fails the comparison with the true ones."""
    draw, needed = getattr(pictures, f"draw_{name}"), {"budget": [run.config], "orthogonality": [run.config]}
    more = needed.get(name, [])

    def drawn_from(arm: Arm) -> Figure:
        return draw({"AdaLoRA": arm} if name == "loss" else arm, *more, "")

    CHECKS[name](drawn_from(adalora(run)), adalora(run))
    with pytest.raises(AssertionError):
        CHECKS[name](drawn_from(change(adalora(run))), adalora(run))


def test_the_tiny_run_has_what_there_is_to_see(run: Run) -> None:
    """Triplets are dropped, one comes back, and the ranks differ in the end: no comparison above is of nothing."""
    arm = adalora(run)
    assert any(step["revived"]["layer1"] or step["revived"]["head"] for step in arm.steps)
    assert recorded_ranks(arm).min() < recorded_ranks(arm)[:, -1].max() < 6


def test_phases_are_shaded_where_they_are(drawn: dict[str, Figure], run: Run) -> None:
    """Every picture over steps has three shades from the first step of a phase to its last, and their names."""
    phases = numbers(adalora(run), "phase")
    wanted = [np.flatnonzero(phases == name) for name in ("warmup", "pruning", "final")]
    for name in ("budget", "scores", "orthogonality", "loss", "revivals"):
        for axes in drawn[name].axes:
            spans = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches[:3]]
            assert spans == [(at[0] - 0.5, at[-1] + 0.5) for at in wanted]
            assert len({p.get_facecolor() for p in axes.patches[:3]}) == 3
    named = [text for text, *_ in texts(drawn["budget"].axes[0]) if text in {"warm-up", "pruning", "final"}]
    assert named == ["warm-up", "pruning", "final"]


def test_lora_is_drawn_beside_it(drawn: dict[str, Figure], run: Run) -> None:
    """Loss and accuracy have a line for the baseline, with its own records; without one they have none."""
    lora = run.seeds[0].arms["lora"]
    above, under = drawn["loss"].axes
    assert np.array_equal(above.lines[2].get_ydata(), numbers(lora, "loss"))
    assert np.array_equal(under.lines[1].get_ydata(), 100 * lora.timeline.accuracy)
    steps = [line for line in above.lines if line.get_label() == "_step"]
    assert len({(line.get_linestyle(), line.get_marker()) for line in steps}) == 2, "each step's too differ in grey"
    alone = figures(adalora(run), run.config)["loss"].axes
    assert [name.split(",")[0] for axes in alone for name in lines(axes)] == ["AdaLoRA", "AdaLoRA"]


# HOW IT READS

UNITS = {
    "budget": ["triplets, over all matrices"],
    "ranks": ["matrix, in forward order", "rank (triplets kept)"],
    "final_ranks": [""],
    "scores": ["score S of a triplet (nats²)"],
    "orthogonality": ["‖BᵀB − I‖$_F$ (no unit)", "‖AAᵀ − I‖$_F$ (no unit)"],
    "loss": ["loss of the task (nats)", "accuracy, held-out (%)"],
    "revivals": ["triplets dropped (−) and revived (+)"],
}


@every_picture
def test_axes_have_names_and_units(name: str, drawn: dict[str, Figure]) -> None:
    """Every axis says what it is and in which unit; the title is a sentence, and the line below says which run."""
    panels = drawn[name].axes
    assert [axes.get_ylabel() for axes in panels] == UNITS[name]
    below = [axes.get_xlabel() for axes in panels if axes.get_xlabel()]
    assert below == ["matrix, in forward order" if name == "final_ranks" else "step"]
    assert len(panels[0].get_title(loc="left").split()) >= 5
    assert any(text.startswith("digits · convention SPEC · seed 0") for text, *_ in texts(panels[0]))


@every_picture
def test_no_text_covers_another(name: str, drawn: dict[str, Figure]) -> None:
    """Titles, labels, numbers and legends lie inside the picture and beside one another."""
    figure = drawn[name]
    FigureCanvasAgg(figure).draw()
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = {text: text.get_window_extent() for text in shown if not hidden_tick(text, figure)}
    assert len(boxes) > 5
    width, height = figure.canvas.get_width_height()
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text  # noqa: PT018
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 1, (one, other)


def hidden_tick(text: Text, figure: Figure) -> bool:
    """Whether it belongs to a tick beyond the ends of its axis, which matplotlib does not draw."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if text in {tick.label1, tick.label2}:
                    return not (text.get_visible() and low <= tick.get_loc() <= high)
    return False


@every_picture
def test_nothing_is_said_by_colour_alone(name: str, drawn: dict[str, Figure]) -> None:
    """Lines with a name differ in dash or marker, bars in hatch, and cells have numbers."""
    for axes in drawn[name].axes:
        named = [line for line in axes.lines if line.get_label()[0] != "_"]
        looks = [(str(line._dash_pattern), line.get_marker(), line.get_linestyle()) for line in named]
        assert len(set(looks)) == len(looks)
        hatches = [bars[0].get_hatch() for bars in axes.containers]
        assert len(set(hatches)) == len(hatches)
        assert not axes.images or any(text.isdigit() for text, *_ in texts(axes))


def test_ink_is_readable_on_every_colour() -> None:
    """Each rank's number has a contrast of at least 4 to 1 with its cell, by the luminances of WCAG 2."""
    for full in (1, 6, 12, 60):
        image = Figure().subplots().imshow([[0, full]], **rank_colours(0, full))
        for rank in range(full + 1):
            rgb = np.asarray(image.cmap(image.norm(rank))[:3])
            linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
            luminance = float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05
            assert (luminance / 0.05 if ink(image, rank) == "black" else 1.05 / luminance) >= 4, (full, rank)


# WITHOUT ALLOCATIONS; OTHER NETWORKS


def test_a_run_without_allocations_is_drawn_too(run: Run) -> None:
    """The LoRA arm drops nothing: the pictures say so, and name nothing that they have not."""
    found = figures(run.seeds[0].arms["lora"], run.config, name="LoRA")
    titles = {name: figure.axes[0].get_title(loc="left") for name, figure in found.items()}
    rank = run.results["seeds"][0]["ranks"]["lora"]["head"]
    assert titles["budget"] == f"The budget stays at {2 * rank} triplets, with no allocations"
    assert titles["ranks"] == f"Every matrix has rank {rank} from the first step to the last"
    assert titles["revivals"] == "Without allocations, no triplet is dropped or revived"
    assert list(lines(found["scores"].axes[0])) == ["kept"]
    assert not found["revivals"].axes[0].containers
    assert [name.split(",")[0] for axes in found["loss"].axes for name in lines(axes)] == ["LoRA", "LoRA"]
    bar = found["ranks"].axes[1]
    assert [tick for tick in bar.get_yticks() if rank - 0.5 <= tick <= rank + 0.5] == [rank], "of one rank, one tick"
    for name in ("budget", "ranks", "scores", "orthogonality", "loss", "revivals"):
        for axes in found[name].axes:
            assert not {"warm-up", "pruning", "final"} & {text for text, *_ in texts(axes)}, "it is not divided"
            assert len({patch.get_facecolor() for patch in axes.patches}) <= 1


def spread_out(run: Run, names: list[str]) -> tuple[Arm, dict[str, Any]]:
    """An arm with so many matrices, each a copy of the first of the run, a little larger than the one before."""
    arm, config = adalora(run), run.config

    def copied(held: dict[str, Any]) -> dict[str, Any]:
        return dict.fromkeys(names, held["layer1"])

    def grown_each(held: dict[str, Any]) -> dict[str, Any]:
        return {name: held["layer1"] * (1 + at / 100) for at, name in enumerate(names)}

    line = arm.timeline
    line = line._replace(defect_B=grown_each(line.defect_B), defect_A=grown_each(line.defect_A))
    shapes = dict.fromkeys(names, (3, 64))  # six columns in three dimensions
    return arm._replace(timeline=line, factors=copied(arm.factors)), {**config, "shapes": shapes}


def test_many_matrices_are_drawn_as_their_percentiles(run: Run) -> None:
    """Of 72 matrices with long names, range, middle half and median stand for the lines, and all text is inside."""
    kinds = ("attention.self.query_proj", "attention.output.dense", "intermediate.dense")
    names = [f"encoder.layer.{layer}.{kind}" for layer in range(24) for kind in kinds]
    arm, config = spread_out(run, names)
    figure = pictures.draw_orthogonality(arm, config, "digits")
    for axes, held in zip(figure.axes, (arm.timeline.defect_B, arm.timeline.defect_A), strict=True):
        wanted = np.percentile(np.stack(list(held.values())), [0, 25, 50, 75, 100], axis=0)
        assert np.array_equal(lines(axes)["median of 72 matrices"], wanted[2])
        (low, high), (first, third) = (edges_of(band, len(arm.steps)) for band in axes.collections)
        assert np.array_equal([low, first, third, high], np.delete(wanted, 2, axis=0))
    FigureCanvasAgg(figure).draw()
    width, height = figure.canvas.get_width_height()
    for text in figure.findobj(Text):
        if text.get_text().strip() and not hidden_tick(text, figure):
            box = text.get_window_extent()
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, text
    few, config = spread_out(run, names[:7])
    legend = pictures.draw_orthogonality(few, config, "digits").legends[0]
    assert (len(legend.get_texts()), legend._ncols) == (7, 2)


def test_hatches_are_seen_on_their_ground(drawn: dict[str, Figure]) -> None:
    """The hatch of what was dropped has no ground of its own, which SVG would fill with its very colour."""
    pale, hatched = drawn["scores"].axes[0].collections[3:5]
    assert (hatched.get_hatch(), hatched.get_edgecolor()[0, 3]) == ("///", 1.0)
    assert pale.get_facecolor()[0, 3] < 0.5
    patterns = list(drawing("scores", drawn["scores"]).iter("pattern"))
    assert len(patterns) == 1
    assert [rect.get("fill") for rect in patterns[0].iter("rect")] == ["none"]


def test_ranks_are_told_apart_in_grey(drawn: dict[str, Figure], run: Run) -> None:
    """The colours reach from the least rank that occurs to the largest; a cell as wide as a digit has its number."""
    kept = recorded_ranks(adalora(run))
    for name in ("ranks", "final_ranks"):
        image = drawn[name].axes[0].images[0]
        assert image.get_clim() == (kept.min() - 0.5, kept.max() + 0.5)
    named = [text for text, *_ in texts(drawn["ranks"].axes[0]) if text.isdigit()]
    assert len(named) == 2 + np.count_nonzero(np.diff(kept)), "every stretch of equal ranks is long enough here"


def test_kinds_and_layers() -> None:
    """Names of a kind and one number make a grid, whatever their order; others, or one kind alone, make a row."""
    kinds, layers, ranks = data.grid({"layer10.q": 1, "layer2.q": 2, "layer2.v": 3})
    assert (kinds, layers) == (["layer.q", "layer.v"], ["2", "10"])
    assert ranks.tolist() == [[2, 1], [3, -1]]
    deep = data.grid({f"encoder.layer.{i}.attention.{kind}": i for i in range(2) for kind in "qv"})
    assert deep.kinds == ["encoder.layer.attention.q", "encoder.layer.attention.v"], "of two dots one is left"
    for names in (["layer1", "layer2"], ["layer1", "head"], ["q", "v"]):
        kinds, layers, ranks = data.grid(dict.fromkeys(names, 4))
        assert (layers, ranks.tolist()) == (names, [[4, 4]])


def test_the_page_cites_the_equations_that_are_drawn() -> None:
    """The numbers on the page of the pictures are those under which the specification has the two functions."""
    specification, page = (
        (Path(__file__).parents[1] / "docs" / name).read_text(encoding="utf-8")
        for name in ("specification.md", "plots.md")
    )
    numbers = {name: number for number, name in re.findall(r"^\*\*(\(\d+\))\*\* `(\w+)`", specification, re.MULTILINE)}
    assert f"The cubic schedule {numbers['budget_at']} of the [specification](specification.md)" in page
    assert f"S of every triplet after each step, over all matrices: {numbers['triplet_scores']} of" in page


# THE COMMAND


def plot(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["plot", *map(str, arguments)])


@pytest.fixture
def only_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw one picture instead of seven."""

    def drawn(arm: Arm, config: Any, **_: Any) -> dict[str, Figure]:
        return {"scores": pictures.draw_scores(arm, "")}

    monkeypatch.setattr(command, "figures", drawn)


@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_second_call_writes_the_same_bytes(
    form: str, start: bytes, folder: Path, tmp_path: Path, only_scores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No form holds a date, a random name or a user's own style; each bears the mark by which it is replaced."""
    file, held = tmp_path / f"seed0-scores.{form}", []
    for _ in range(2):
        assert plot(folder, "--out", tmp_path, "--format", form).exit_code == 0
        held.append(file.read_bytes())
        file.write_bytes(held[-1] + b" ")  # ours still
        monkeypatch.setitem(mpl.rcParams, "font.size", 20)  # of the user, which changes nothing
    assert held[0] == held[1]
    assert held[0].startswith(start)
    assert not re.search(rb"CreationDate|dc:date|tIME|20\d\d-\d\d-\d\d", held[0])


def test_dots_per_inch_are_chosen(folder: Path, tmp_path: Path, only_scores: None) -> None:
    """A png has as many pixels as --dpi says, 100 an inch by default; no other form has any."""
    widths = []
    for more in ([], ["--dpi", 300]):
        assert plot(folder, "--out", tmp_path, *more).exit_code == 0
        with Image.open(tmp_path / "seed0-scores.png") as held:
            widths.append(held.width)
    assert widths == [840, 2520]
    done = plot(folder, "--out", tmp_path / "svg", "--format", "svg", "--dpi", 300)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--dpi is for --format png, which alone is made of pixels; got --format svg" in done.stderr


def test_the_folder_of_the_run_is_the_default(tmp_path: Path, folder: Path, only_scores: None) -> None:
    """Without --out the pictures lie in RUN/plots, and the run can still be read."""
    copy = tmp_path / "run"
    for path in folder.rglob("*.*"):
        (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(folder)).write_bytes(path.read_bytes())
    assert plot(copy).stdout == f"{copy / 'plots' / 'seed0-scores.png'}\n"
    assert read_run(copy).config


def test_a_file_of_someone_else_is_not_replaced(folder: Path, tmp_path: Path, only_scores: None) -> None:
    """It is named, status 2, and no other picture is written."""
    (tmp_path / "seed0-scores.png").write_bytes(b"mine")
    done = plot(folder, "--out", tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "seed0-scores.png exists already, and adalora-ref plot has not made it" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["seed0-scores.png"]
    assert (tmp_path / "seed0-scores.png").read_bytes() == b"mine"


def test_what_cannot_be_drawn_is_told_in_a_sentence(folder: Path, tmp_path: Path, only_scores: None) -> None:
    """No folder, no run, a seed that it has not, a place that cannot be, another form: status 2, nothing written."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    bad = {
        "RUN must be a run folder, as adalora-ref train writes it": [tmp_path / "nowhere"],
        "config.json is missing from the run folder": [tmp_path / "empty"],
        "the seed must be one of 0, which the run has; got 3": [folder, "--seed", 3],
        "cannot be written to": [folder, "--out", tmp_path / "file" / "below"],
        "'gif' is not one of": [folder, "--format", "gif"],
    }
    for message, arguments in bad.items():
        done = plot(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]
    assert not (folder / "plots").exists()


def test_without_matplotlib_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the extra."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = plot(folder)
    assert done.exit_code == 2
    assert "pip install '.[plots]' in a checkout" in done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(error: type[BaseException], tmp_path: Path, monkeypatch: Any) -> None:
    """Neither hidden files nor the folders made for them."""

    def stop(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(error):
        command.write_all({tmp_path / "a" / "b" / "x.png": b"x"})
    assert not list(tmp_path.iterdir())


def test_it_writes_every_picture_and_says_where(folder: Path, tmp_path: Path) -> None:
    """A small file for each picture, by seed and name, each printed; a user's own style stays.

    pyplot, which has global state and may want a display, is never imported.
    """
    code = (
        "import sys, matplotlib; from adalora_ref.cli import main;"
        "matplotlib.rcParams['font.size'] = 20;"
        f"main(['plot', {str(folder)!r}, '--out', {str(tmp_path / 'a')!r}], standalone_mode=False);"
        "assert (matplotlib.rcParams['font.size'], matplotlib.rcParams['svg.hashsalt']) == (20, None);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    files = [tmp_path / "a" / f"seed0-{name}.png" for name in NAMES]
    assert (done.stdout.splitlines(), done.stderr) == (list(map(str, files)), "")
    assert sorted((tmp_path / "a").iterdir()) == sorted(files)
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 100_000 for path in files)


def test_the_records_are_those_of_the_files(folder: Path, run: Run) -> None:
    """What the comparisons above call recorded is what stands in the run folder."""
    stored = load_file(folder / "seed0" / "adalora" / "timeline.safetensors")
    for name in ("layer1", "head"):
        assert np.array_equal(stored[f"{name}.scores"], adalora(run).timeline.scores[name])
        assert np.array_equal(stored[f"{name}.masks"], adalora(run).timeline.masks[name])
