"""The page of a run: its pictures, and a slider over the steps with every triplet's score and whether it is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from adalora_ref.experiments.run_folder import Arm, Run, read_run
from adalora_ref.html.drawings import drawing
from adalora_ref.html.elements import code, data, e, table, terms
from adalora_ref.html.shell import page
from adalora_ref.html.step_table import step_section
from adalora_ref.html.steps import Shown, plain, shown
from adalora_ref.plots import figures
from adalora_ref.plots.command import require_matplotlib

CAPTIONS = {
    "budget": "How many triplets may live, and how many do, over the three phases.",
    "ranks": "The rank of every matrix after every step: where the budget went.",
    "final_ranks": "The rank of every matrix at the end.",
    "scores": "Scores of the triplets that are kept and of those that are dropped, with the threshold between them.",
    "orthogonality": "How far B and A of every matrix are from having orthonormal columns and rows.",
    "loss": "Loss on the batches, and accuracy on what was held out.",
    "revivals": "Who came back and who was dropped, at every allocation.",
}

OF_ONE_RANK = {
    "budget": "How many triplets may live, and how many do.",
    "ranks": "The rank of every matrix after every step: always the same.",
    "scores": "Scores of the triplets, which decide nothing here.",
    "revivals": "Nobody is dropped, and nobody comes back.",
}
"""What the captions are of a run without an allocation."""

NAMES = {"adalora": "AdaLoRA", "lora": "LoRA"}


def run_page(folder: Path, number: int | None, arm: str | None) -> str:
    """Return the page of one seed and one arm of a run.

    Raises
    ------
    ValueError
        If it is no run folder, or is damaged, or has no such seed or arm.
    RuntimeError
        If matplotlib is not installed.
    """
    run = _read(folder)
    number = next(iter(run.seeds)) if number is None else number
    if number not in run.seeds:
        raise ValueError(f"the run {folder} has the seeds {', '.join(map(str, run.seeds))}; got {number}")
    arms = run.seeds[number].arms
    name = arm or ("adalora" if "adalora" in arms else next(iter(arms)))
    if name not in arms:
        raise ValueError(f"the run {folder} has the arms {', '.join(arms)}; got {name!r}")
    if not arms[name].steps:
        raise ValueError(f"the run {folder} has no step, so there is nothing to show")
    title = f"{run.config['experiment']}: {name}, seed {number}"
    held = shown(arms[name])
    main = e(
        "main",
        _top(run, title, name, held, arms[name].steps),
        _results(run, number),
        _pictures(arms, name, run.config, number),
        step_section(held),
        data("steps", plain(held)),
    )
    return page(title, main, "steps.js")


def _read(folder: Path) -> Run:
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} is neither a run folder, which has a config.json, nor a file with a verdict")
    return read_run(folder)


def _top(run: Run, title: str, name: str, held: Shown, steps: Sequence[Mapping[str, Any]]) -> ET.Element:
    config, phases = run.config, Counter(step["phase"] for step in steps)
    lengths = ", ".join(f"{phase} {number}" for phase, number in phases.items())
    number = len(held.allocations)
    divided = f"{lengths}; {number} with an allocation" if held.allocations else "none with an allocation"
    facts: list[tuple[str, ET.Element | str]] = [
        ("Convention", _convention(run.config, name)),
        ("Steps", f"{len(steps)}: {divided}"),
        ("Matrices", ", ".join(f"{matrix} {d_out} × {d_in}" for matrix, (d_out, d_in) in config["shapes"].items())),
        ("Arrays", f"{config['dtype']} on {config['backend']}"),
        ("Specification", str(config["specification"])),
        ("Made with", ", ".join(f"{library} {version}" for library, version in config["versions"].items())),
    ]
    links = [("#pictures", "the pictures"), ("#steps-shown", "step by step")]
    nav = e("nav", *_joined([e("a", words, href=link) for link, words in links]), aria_label="On this page")
    return e("header", e("h1", title), terms(facts, "facts"), nav)


def _convention(config: Mapping[str, Any], name: str) -> str:
    return "LORA" if name == "lora" else str(config["convention"])


def _joined(links: list[ET.Element]) -> Iterator[ET.Element | str]:
    for at, link in enumerate(links):
        yield " · " if at else "On this page: "
        yield link


def _results(run: Run, number: int) -> ET.Element:
    """Accuracy, parameters and ranks of both arms."""
    found: Mapping[str, Any] = next(held for held in run.results["seeds"] if held["seed"] == number)
    rows: list[list[ET.Element | str]] = [["not adapted", _percent(found["accuracy"]["frozen"]), "0", "–"]]
    for arm in run.config["arms"]:
        ranks = ", ".join(f"{name} {rank}" for name, rank in found["ranks"][arm].items())
        rows.append([code(arm), _percent(found["accuracy"][arm]), f"{found['parameters'][arm]:,}", ranks])
    heads = ("", "accuracy on what was held out", "parameters", "ranks at the end")
    return e("section", e("h2", "What it came to"), table(f"Seed {number}", heads, rows, "plain"), aria_label="Results")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _pictures(arms: Mapping[str, Arm], name: str, config: Mapping[str, Any], number: int) -> ET.Element:
    require_matplotlib()
    import matplotlib.style

    beside = arms.get("lora") if name != "lora" else None
    captions = CAPTIONS if any(step["allocates"] for step in arms[name].steps) else CAPTIONS | OF_ONE_RANK
    told = {**config, "convention": _convention(config, name)}
    with matplotlib.style.context("default"):  # whatever style the user has set
        found = figures(arms[name], told, name=NAMES.get(name, name), lora=beside, seed=number)
        held = [
            e("figure", drawing(kind, figure), e("figcaption", captions.get(kind, kind)), id=f"picture-{kind}")
            for kind, figure in found.items()
        ]
    return e("section", e("h2", "Pictures"), e("div", *held, class_="pictures"), id="pictures", aria_label="Pictures")
