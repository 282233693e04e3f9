"""The digits run: the data, the pre-training by hand, and both arms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adalora_ref import SPEC, increment, init_state, linear_backward, linear_forward, map_factors
from adalora_ref.array import to_numpy
from adalora_ref.experiments import digits
from adalora_ref.experiments.digits import CLASSES, DENSE, Options, Settings, lora_rank
from adalora_ref.experiments.run_folder import read_run
from adalora_ref.networks.mlp import MLP
from tests.conftest import Library

SMALL = Settings(hidden_layers=1, pretraining_steps=40, steps=60, warmup=10, final=20, interval=5)


def nobody(*_: Any) -> None:
    """Watch nothing."""


# DATA


def test_the_examples_are_split_without_loss(library: Library) -> None:
    """Five digits each, labelled from 0; two thirds to train on, one to hold out, every example in one of them."""
    data = digits.load()
    for first in (0, CLASSES):
        parts = digits.divided(data, np.random.default_rng(0), first=first, like=library.floats([0]))
        wanted = data[0][(first <= data[1]) & (data[1] < first + CLASSES)]
        sizes = [len(to_numpy(y)) for _, y in parts]
        assert sum(sizes) == len(wanted)
        assert sizes[1] == len(wanted) // 3
        assert set(np.concatenate([to_numpy(y) for _, y in parts]).tolist()) == set(range(CLASSES))
        rows = np.concatenate([to_numpy(x) for x, _ in parts])
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, wanted.tolist()))
        assert (rows.min(), rows.max()) == (0.0, 1.0)


def test_batches_pass_through_all_examples(library: Library) -> None:
    """Each pass shows every example at most once, in a new order, with its own label."""
    x = library.floats(np.arange(10.0)[:, None])
    stream = digits.batches((x, library.array(np.arange(10))), 3, 7, np.random.default_rng(0))
    assert len(stream) == 7
    rows = [(to_numpy(batch[0][0])[:, 0], to_numpy(batch[0][1])) for batch in stream]
    assert all(np.array_equal(x, y) for x, y in rows)
    passes = [np.concatenate([y for _, y in rows[at : at + 3]]).tolist() for at in (0, 3)]
    assert [len(set(seen)) for seen in passes] == [9, 9]
    assert passes[0] != passes[1]


# PRE-TRAINING


def test_a_dense_weight_is_a_factor(library: Library) -> None:
    """With s = 1, A = I and scale 1 over a zero weight, ΔW = B, and dB is the gradient of a dense layer, dyᵀ x."""
    rng = np.random.default_rng(0)
    held = DENSE.initial(rng, 3, 4, 4, like=library.floats([0]))
    x, dy, W = library.draw(rng, 5, 4), library.draw(rng, 5, 3), library.floats(np.zeros((3, 4)))
    assert np.array_equal(to_numpy(increment(held, scale=1.0)), to_numpy(held.B))
    y, cache = linear_forward(x, W, held, scale=1.0)
    _, grads = linear_backward(dy, cache)
    assert np.allclose(to_numpy(y), to_numpy(x) @ to_numpy(held.B).T, rtol=1e-14)
    assert np.allclose(to_numpy(grads.B), to_numpy(dy).T @ to_numpy(x), rtol=1e-14)
    moved = DENSE.trained(held, map_factors(lambda a: a + 1.0, held))
    assert [a is b for a, b in zip(moved, held, strict=True)] == [False, True, True]


# THE RUN


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """A short run, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    return digits.run(Options(out=folder), SMALL, nobody), folder


def test_it_learns(results: tuple[list[Any], Path]) -> None:
    """Even a short pre-training and adaptation leave chance, one in five, far behind."""
    (result,), _ = results
    assert result.pretrained > 0.7
    assert all(arm.accuracy > result.frozen + 0.3 for arm in result.arms.values())


def test_both_arms_have_as_many_parameters(results: tuple[list[Any], Path]) -> None:
    """AdaLoRA ends with the target; LoRA has the largest rank that does not exceed its parameters."""
    (result,), folder = results
    adalora, lora = result.arms["adalora"], result.arms["lora"]
    shapes = SMALL.shapes
    assert sum(adalora.ranks.values()) == SMALL.target_rank * len(shapes)
    assert adalora.parameters == sum(adalora.ranks[n] * (sum(shape) + 1) for n, shape in shapes.items())
    one_rank = sum(sum(shape) for shape in shapes.values())
    assert lora.parameters == lora.ranks["head"] * one_rank
    assert lora.parameters <= adalora.parameters < lora.parameters + one_rank
    assert lora_rank(SMALL, one_rank * 3 - 1) == 2
    arrays = read_run(folder).seeds[0].arms["lora"].factors
    assert all(np.all(held.s == 1) for held in arrays.values())


@pytest.mark.thorough
def test_two_runs_with_one_seed_are_the_same_bytes(results: tuple[list[Any], Path], tmp_path: Path) -> None:
    """Every file of a second run is identical to the first's; another seed gives other weights."""
    _, folder = results
    digits.run(Options(out=tmp_path / "again"), SMALL, nobody)
    files = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = {p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert len(files) == 9
    assert files == again
    digits.run(Options(seed=1, out=tmp_path / "other"), SMALL, nobody)
    assert (tmp_path / "other" / "seed1" / "frozen.safetensors").read_bytes() not in files.values()


def test_every_step_is_watched(tmp_path: Path) -> None:
    """Progress hears of every step of pre-training and of both arms, with phase and budget."""
    heard: list[tuple[Any, ...]] = []
    tiny = Settings(hidden_layers=1, pretraining_steps=2, steps=6, warmup=1, final=2, interval=1, batch_size=4)
    digits.run(Options(seed=4, out=tmp_path / "run"), tiny, lambda *what: heard.append(what))
    assert [what[1] for what in heard] == ["pre-training"] * 2 + ["adalora"] * 6 + ["lora"] * 6
    assert {what[0] for what in heard} == {4}
    assert [what[2:] for what in heard[2:8]] == [
        ("warmup", 16), ("pruning", 16), ("pruning", 10), ("pruning", 8), ("final", 8), ("final", 8),
    ]  # fmt: skip


def test_every_state_is_looked_at_after_its_step() -> None:
    """The looks are those at the states that the steps lead to, in order, and the last is at the last."""
    rng = np.random.default_rng(0)
    network = MLP({name: rng.standard_normal(shape) for name, shape in SMALL.shapes.items()})
    config = SMALL.adaptation(2, 1)
    stream = digits.batches((rng.random((20, 64)), rng.integers(0, CLASSES, 20)), 8, 5, rng)
    done = digits.fit(init_state(network, config, rng), stream, network, config, SPEC, nobody, lambda state: state)
    assert [state.step for state in done.looks] == [1, 2, 3, 4, 5]
    assert done.looks[-1] is done.state
    assert [step["step"] for step in done.steps] == [0, 1, 2, 3, 4]


def test_a_diverging_run_leaves_nothing(tmp_path: Path) -> None:
    """A learning rate that makes the loss overflow stops the run, and no folder stays."""
    wild = Settings(hidden_layers=1, pretraining_steps=2, steps=6, warmup=1, final=2, learning_rate=1e200)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"^step \d, .*: the .* is not finite$"):
        digits.run(Options(out=tmp_path / "run"), wild, nobody)
    assert not list(tmp_path.iterdir())


def test_results_are_summed_up(results: tuple[list[Any], Path]) -> None:
    """The mean of one seed is its value, and its spread is null."""
    (result,), folder = results
    accuracy = read_run(folder).results["accuracy"]
    assert math.isclose(accuracy["adalora"]["mean"], result.arms["adalora"].accuracy)
    assert accuracy["adalora"]["spread"] is None
    assert digits.spread([1.0, 3.0]) == math.sqrt(2)
