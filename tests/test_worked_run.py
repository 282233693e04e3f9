"""The worked run: every number on the page, from the core and from fractions."""

from __future__ import annotations

import doctest
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adalora_ref import (
    Factors,
    init_state,
    map_factors,
    orthogonality_penalty,
    scales_of,
    train_step,
    triplet_scores,
)
from adalora_ref.array import backend, like_host, to_numpy

PAGE = (Path(__file__).parents[1] / "docs" / "worked_run.md").read_text(encoding="utf-8")
OVERVIEW = ("scale of q", "scale of v", "y", "loss", "dy", "R of q", "R of v", "γΣR", "budget")
ENTRIES = ("w", "∇loss", "γ∇R", "g", "I", "Ī", "Ū", "w′")
TRIPLETS = ("u", "score")
Row = list[Fraction]
Triplet = list[Fraction]  # B, s and its row of A; d_out is 1 for both matrices
Matrices = list[list[Triplet]]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def numbers(row: list[str]) -> Row:
    return [Fraction(cell.replace("−", "-")) for cell in row]


def page_steps() -> list[dict[str, Any]]:
    """Return, for each step, the rows of the page by their labels, and the mask as words."""
    overview, *sections = PAGE.partition("## The same in code")[0].split("\n## Step ")
    tops = [cells(line) for line in overview.splitlines() if line.startswith("|")]
    assert tuple(tops[0][1:]) == OVERVIEW
    steps = [dict(zip(OVERVIEW, ([n] for n in numbers(row[1:])), strict=True)) for row in tops[2:]]
    assert [row[0] for row in tops[2:]] == [section[0] for section in sections] == ["0", "1", "2", "3"]
    for step, section in zip(steps, sections, strict=True):
        rows = {row[0]: row[1:] for row in (cells(line) for line in section.splitlines() if line.startswith("|"))}
        step.update({label: numbers(rows[label]) for label in (*ENTRIES, *TRIPLETS)})
        step["mask"] = rows["mask"]
    return steps


def program() -> SimpleNamespace:
    """Return the names that the page's program defines, once run."""
    scope: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(PAGE):
        exec(example.source, scope)  # noqa: S102 -- the page's own program
    return SimpleNamespace(**scope)


def words(before: list[bool], after: list[bool]) -> list[str]:
    """Say of each triplet what became of it."""
    fates = {(True, True): "kept", (True, False): "dropped", (False, True): "revived", (False, False): "out"}
    return [fates[pair] for pair in zip(before, after, strict=True)]


def differences(got: dict[str, Any], page: dict[str, Any]) -> list[str]:
    """Return the rows that differ, of those on the page; a row that is missing differs."""
    assert len(page) == len(OVERVIEW) + len(ENTRIES) + len(TRIPLETS) + 1
    return [f"{row}: got {got.get(row)}, page {page[row]}" for row in page if got.get(row) != page[row]]


# the core


def flat(factors: dict[str, Factors]) -> Row:
    """Return the entries in the order of the page's columns: triplet by triplet B, s, A."""
    hosts = [[to_numpy(a) for a in held] for held in factors.values()]
    return [Fraction(float(e)) for B, s, A in hosts for i in range(2) for e in (*B[:, i], s[i], *A[i])]


def each(arrays: dict[str, Any]) -> Row:
    return [Fraction(float(e)) for a in arrays.values() for e in to_numpy(a).reshape(-1)]


def observed(before: Any, after: Any, report: Any, network: Any, batch: Any, config: Any) -> dict[str, Any]:
    """Return the rows of one step of the core, under the page's labels."""
    (x, target), scales = batch[0], scales_of(before, config)
    y, cache = network.forward(x, before.factors, scales)
    _, dy = network.loss(y, target)
    penalties = {name: orthogonality_penalty(f) for name, f in before.factors.items()}
    gradient = {name: held.first for name, held in after.optimizer.items()}  # with β1 = 0 the moment is the gradient
    masks = [[bool(k) for mask in state.masks.values() for k in to_numpy(mask)] for state in (before, after)]
    single = {
        **{f"scale of {name}": scale for name, scale in scales.items()},
        **{f"R of {name}": float(R) for name, (R, _) in penalties.items()},
        "y": float(y[0, 0]),
        "loss": report.loss,
        "dy": float(dy[0, 0]),
        "γΣR": report.penalty,
        "budget": report.budget,
    }
    return {
        **{label: [Fraction(value)] for label, value in single.items()},
        "w": flat(before.factors),
        "∇loss": flat(network.backward(dy, cache)),
        "γ∇R": [Fraction(config.orthogonality_weight) * e for e in flat({n: dR for n, (_, dR) in penalties.items()})],
        "g": flat(gradient),
        "I": flat({n: map_factors(lambda w, g: abs(w * g), f, gradient[n]) for n, f in before.factors.items()}),
        "Ī": flat({name: held.sensitivity for name, held in after.importance.items()}),
        "Ū": flat({name: held.uncertainty for name, held in after.importance.items()}),
        "w′": flat(after.factors),
        "u": each({name: held.u for name, held in cache.items()}),
        "score": each({name: triplet_scores(held) for name, held in after.importance.items()}),
        "mask": words(*masks),
    }


@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
def test_core_gives_every_number_of_the_page(library: str) -> None:
    """In float64 each of the four steps equals the page exactly, row by row, on every library."""
    page, given = page_steps(), program()
    like = backend(library).ones(1, dtype=backend(library).float64)
    network = given.SideBySide({name: like_host(W, like) for name, W in given.weights.items()})
    factors = {n: map_factors(lambda a: like_host(a, like), f) for n, f in given.factors.items()}
    batch = [tuple(like_host(a, like) for a in given.batch[0])]
    state = init_state(network, given.config, given.np.random.default_rng(0))._replace(factors=factors)
    for step in page:
        after, report = train_step(state, batch, network, given.config)
        assert differences(observed(state, after, report, network, batch, given.config), step) == []
        state = after


# fractions


def forward(w: Matrices, W: Matrices, x: list[Row], scale: Row) -> tuple[list[Row], Fraction]:
    """Return u for each triplet and y."""
    u = [[sum(a * e for a, e in zip(t[2:], inputs, strict=True)) for t in m] for m, inputs in zip(w, x, strict=True)]
    y = sum(weight * e for row, inputs in zip(W, x, strict=True) for weight, e in zip(row, inputs, strict=True))
    for c, m, reads in zip(scale, w, u, strict=True):
        y += c * sum(t[0] * t[1] * ui for t, ui in zip(m, reads, strict=True))
    return u, y


def loss_gradient(m: list[Triplet], u: Row, x: Row, dz: Fraction) -> list[Triplet]:
    """Return, for each triplet, what dz = dy · scale makes of it."""
    return [[dz * s * ui, dz * B * ui, *(dz * B * s * e for e in x)] for (B, s, *_), ui in zip(m, u, strict=True)]


def penalty(m: list[Triplet]) -> tuple[Fraction, list[Triplet]]:
    """Return R and its gradient, from the inner products of columns of B and of rows of A."""
    R, gradient = Fraction(0), [[Fraction(0)] * len(t) for t in m]
    for i, ti in enumerate(m):
        for j, tj in enumerate(m):
            defect_B = ti[0] * tj[0] - (i == j)
            defect_A = sum(a * b for a, b in zip(ti[2:], tj[2:], strict=True)) - (i == j)
            R += defect_B**2 + defect_A**2
            gradient[i][0] += 4 * defect_B * tj[0]
            for k in range(2, len(ti)):
                gradient[i][k] += 4 * defect_A * tj[k]
    return R, gradient


def over(rule: Any, *trees: Any) -> Any:
    """Apply *rule* entry by entry to nested lists."""
    if isinstance(trees[0], list):
        return [over(rule, *branches) for branches in zip(*trees, strict=True)]
    return rule(*trees)


def entries(tree: Any) -> Row:
    return [e for branch in tree for e in entries(branch)] if isinstance(tree, list) else [tree]


def best(scores: Row, budget: int) -> list[bool]:
    """Keep the triplets that fewer than *budget* others beat; of equals the earlier one wins."""
    return [
        sum(other > score or (other == score and j < i) for j, other in enumerate(scores)) < budget
        for i, score in enumerate(scores)
    ]


def recomputed(w: Matrices, given: SimpleNamespace) -> list[dict[str, Any]]:
    """Return the rows of the whole run in fractions, from the page's definitions."""
    config, x1, x2 = given.config, *(Fraction(e) for e in given.batch[0][0][0])
    W, x = [[Fraction(e) for e in W[0]] for W in given.weights.values()], [[x1], [x1, x2]]
    target, rate = Fraction(given.batch[0][1][0, 0]), Fraction(config.learning_rate)
    alpha, gamma = Fraction(config.alpha), Fraction(config.orthogonality_weight)
    mean = deviation = over(lambda e: Fraction(0), w)
    kept, steps = [True] * 4, []
    for t, budget in enumerate((4, 2, 2, 2)):  # 2 + 2 · (1 − t/3)³, rounded down; then the target
        scale = [alpha / max(1, sum(kept[:2])), alpha / max(1, sum(kept[2:]))]
        u, y = forward(w, W, x, scale)
        dy = 2 * (y - target)
        task = [loss_gradient(*parts, dy * c) for *parts, c in zip(w, u, x, scale, strict=True)]
        R, dR = zip(*(penalty(m) for m in w), strict=True)
        regular = over(lambda e: gamma * e, list(dR))
        g = over(lambda p, q: p + q, task, regular)
        sensitivity = over(lambda a, b: abs(a * b), w, g)
        if t < 3:
            mean = over(lambda old, new: (old + new) / 2, mean, sensitivity)
            deviation = over(lambda old, new, m: (old + abs(new - m)) / 2, deviation, sensitivity, mean)
        product = over(lambda a, b: a * b, mean, deviation)
        scores = [p[0] + p[1] + sum(p[2:]) / len(p[2:]) for m in product for p in m]
        keep = best(scores, budget)
        after = over(lambda a, b: a - rate * ((b > 0) - (b < 0)), w, g)
        for triplet, stays in zip([t for m in after for t in m], keep, strict=True):
            triplet[1] *= stays
        numbers = [*scale, y, (y - target) ** 2, dy, *R, gamma * sum(R), Fraction(budget)]
        rows = dict(zip(OVERVIEW, ([n] for n in numbers), strict=True))
        trees = (w, task, regular, g, sensitivity, mean, deviation, after)
        rows |= dict(zip(ENTRIES, map(entries, trees), strict=True))
        steps.append(rows | {"u": entries(u), "score": scores, "mask": words(kept, keep)})
        w, kept = after, keep
    return steps


def test_fractions_give_every_number_of_the_page() -> None:
    """Recomputed in fractions from the first row alone, the run has exactly the numbers of the page."""
    page = page_steps()
    start = page[0]["w"]
    w = [[start[0:3], start[3:6]], [start[6:10], start[10:14]]]
    for got, step in zip(recomputed(w, program()), page, strict=True):
        assert differences(got, step) == []


def test_page_keeps_its_promises() -> None:
    """Every number is a multiple of 1/32, no gradient is zero, and triplets are dropped and revived."""
    page = page_steps()
    assert all(
        (32 * n).denominator == 1 for step in page for row in (*OVERVIEW, *ENTRIES, *TRIPLETS) for n in step[row]
    )
    assert all(n != 0 for step in page for n in step["g"])
    assert {word for step in page for word in step["mask"]} == {"kept", "dropped", "revived", "out"}
    assert [step["w"] for step in page[1:]] == [step["w′"] for step in page[:-1]]
