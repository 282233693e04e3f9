"""Handwritten digits: trained on 0–4, frozen, then adapted to 5–9 by AdaLoRA and by LoRA with as many parameters."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

import numpy as np

import adalora_ref
from adalora_ref.allocation import compress
from adalora_ref.array import Array, backend, like_host, namespace, normal
from adalora_ref.budget import BudgetSchedule, phase_at
from adalora_ref.checks import count
from adalora_ref.convention import LORA, Convention, convention
from adalora_ref.experiments.run_folder import FORMAT, new_folder, step_record, write_arm, write_arrays, write_json
from adalora_ref.experiments.timeline import Moment, moment
from adalora_ref.factors import Factors, init_factors, map_factors
from adalora_ref.linear import increment
from adalora_ref.networks.mlp import MLP
from adalora_ref.records import Batch, Config, TrainState
from adalora_ref.training import init_state, scales_of, train_step

PIXELS = 64
"""8 × 8; hidden layers are as wide, so that one rank is full for every matrix."""
CLASSES = 5
ARMS = ("lora", "adalora")
MEASURED = 10
"""Every so many steps, and after the last, accuracy is measured; every step would double the time of a run."""

Examples = tuple[Array, Array]
Watch = Callable[..., None]
"""Told after every step: seed, arm, phase and budget."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes and hyperparameters; both arms have the same steps, batches, α and learning rate.

    Over three seeds, learning rates of 0.002, 0.005 and 0.01 were tried on both arms: 0.01 was best or level for each.
    """

    hidden_layers: int = 3
    batch_size: int = 32
    pretraining_steps: int = 300
    pretraining_rate: float = 0.001
    steps: int = 300
    warmup: int = 40
    final: int = 120
    interval: int = 10
    initial_rank: int = 8
    target_rank: int = 4
    alpha: float = 8.0
    learning_rate: float = 0.01
    orthogonality_weight: float = 0.1

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of every matrix."""
        hidden = {f"layer{k}": (PIXELS, PIXELS) for k in range(1, self.hidden_layers + 1)}
        return {**hidden, "head": (CLASSES, PIXELS)}

    def adaptation(self, initial_rank: int, target_rank: int) -> Config:
        """Configuration of one arm; the budget counts triplets."""
        schedule = BudgetSchedule.from_ranks(
            self.shapes,
            initial_rank=initial_rank,
            target_rank=target_rank,
            warmup=self.warmup,
            final=self.final,
            total=self.steps,
            interval=self.interval,
        )
        return Config(
            schedule=schedule,
            initial_rank=initial_rank,
            alpha=self.alpha,
            learning_rate=self.learning_rate,
            orthogonality_weight=self.orthogonality_weight,
        )

    @property
    def pretraining(self) -> Config:
        """Full rank at scale 1; nothing is ever pruned."""
        schedule = BudgetSchedule.from_ranks(
            self.shapes, initial_rank=PIXELS, target_rank=PIXELS, warmup=0, final=0, total=self.pretraining_steps
        )
        return Config(schedule=schedule, initial_rank=PIXELS, alpha=float(PIXELS), learning_rate=self.pretraining_rate)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for; *seeds* is a count, starting at *seed*."""

    backend: str = "numpy"
    convention: str = "SPEC"
    seed: int = 0
    seeds: int = 1
    out: Path | None = None

    def __post_init__(self) -> None:
        count("seed", self.seed)
        count("seeds", self.seeds, least=1)
        object.__setattr__(self, "convention", convention(self.convention).name)

    @property
    def numbers(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        last = f"-{self.numbers[-1]}" if self.seeds > 1 else ""
        name = f"digits-{self.backend}-{self.convention.lower()}-seed{self.seed}{last}"
        return Path("runs") / name if self.out is None else self.out


class ArmResult(NamedTuple):
    """What one arm came to; `kept` is by step, `seconds` the median step."""

    accuracy: float
    parameters: int
    kept: list[dict[str, int]]
    seconds: float

    @property
    def ranks(self) -> dict[str, int]:
        """The triplets that each matrix kept."""
        return self.kept[-1]


class SeedResult(NamedTuple):
    """One seed: accuracy on 0–4 when pre-trained, on 5–9 when frozen, and both arms."""

    seed: int
    pretrained: float
    frozen: float
    arms: dict[str, ArmResult]


def run(options: Options, settings: Settings, watch: Watch) -> list[SeedResult]:
    """Run every seed and write the run folder; that it can be written is known before training starts.

    Raises
    ------
    RuntimeError
        If scikit-learn is not installed, or the array library cannot be used here.
    OSError
        If the folder exists or cannot be written.
    """
    # A step here costs Python's time and not arithmetic's, so float64 is free, and no rank hangs on rounding.
    xp = backend(options.backend)
    like = xp.zeros((1,), dtype=xp.float64)
    data = load()
    with new_folder(options.folder) as folder:
        write_json(folder / "config.json", config_record(options, settings))
        results = [
            run_seed(seed, options, settings, data, like, folder / f"seed{seed}", watch) for seed in options.numbers
        ]
        write_json(folder / "results.json", results_record(results))
    return results


def run_seed(
    seed: int, options: Options, settings: Settings, data: Examples, like: Array, folder: Path, watch: Watch
) -> SeedResult:
    """Pre-train, freeze, adapt twice; both arms get the same batches and draw the same numbers."""
    split, dense, order, start = np.random.SeedSequence(seed).spawn(4)
    held_out = np.random.default_rng(split)
    old, old_test = divided(data, held_out, first=0, like=like)
    new, new_test = divided(data, held_out, first=CLASSES, like=like)

    frozen = pretrain(old, settings, np.random.default_rng(dense), partial(watch, seed, "pre-training"))
    none = {name: init_factors(held_out, W.shape[0], W.shape[1], 0, like=W) for name, W in frozen.weights.items()}
    pretrained, untouched = (accuracy(frozen, none, dict.fromkeys(none, 1.0), test) for test in (old_test, new_test))
    folder.mkdir()
    write_arrays(folder / "frozen.safetensors", frozen.weights)

    stream = batches(new, settings.batch_size, settings.steps, np.random.default_rng(order))

    def adapt(arm: str, rule: Convention, config: Config) -> ArmResult:
        def look(state: TrainState) -> Moment:
            due = (state.step - 1) % MEASURED == 0 or state.step == settings.steps
            scales = scales_of(state, config, convention=rule)
            return moment(state, accuracy(frozen, state.factors, scales, new_test) if due else None, rule)

        state = init_state(frozen, config, np.random.default_rng(start), convention=rule)
        done = fit(state, stream, frozen, config, rule, partial(watch, seed, arm), look)
        write_arm(folder / arm, done.steps, done.looks, done.state)
        kept = [step["kept"] for step in done.steps]
        right: float = done.looks[-1].accuracy
        return ArmResult(right, trainable(done.state, rule), kept, done.seconds)

    ours = settings.adaptation(settings.initial_rank, settings.target_rank)
    adalora = adapt("adalora", convention(options.convention), ours)
    rank = lora_rank(settings, adalora.parameters)
    lora = adapt("lora", LORA, settings.adaptation(rank, rank))
    return SeedResult(seed, pretrained, untouched, {"lora": lora, "adalora": adalora})


# DATA


def load() -> Examples:
    """(1797, 64) pixels in [0, 1] and (1797,) digits, on the host."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise RuntimeError(f"the digits come with scikit-learn: pip install scikit-learn ({error})") from error
    x, y = load_digits(return_X_y=True)
    return x / 16.0, y


def divided(data: Examples, rng: np.random.Generator, /, *, first: int, like: Array) -> tuple[Examples, Examples]:
    """Two thirds and one third, drawn at random, of the five digits from *first* on, labelled from 0."""
    x, y = data
    labels = namespace(like).zeros((1,), dtype=namespace(like).int64)
    order = rng.permutation(np.flatnonzero((first <= y) & (y < first + CLASSES)))
    cut = len(order) // 3
    held_out, kept = (
        (like_host(x[part], like), like_host(y[part] - first, labels)) for part in (order[:cut], order[cut:])
    )
    return kept, held_out


def batches(data: Examples, size: int, steps: int, rng: np.random.Generator, /) -> list[Batch]:
    """As many batches as *steps*; every pass through the examples is in a new order, and drops the incomplete end."""
    x, y = data
    starts = range(0, x.shape[0] - size + 1, size)
    found: list[Batch] = []
    while len(found) < steps:
        order = like_host(rng.permutation(x.shape[0]), y)
        x, y = namespace(x).take(x, order, axis=0), namespace(x).take(y, order, axis=0)
        found += [[(x[at : at + size, ...], y[at : at + size])] for at in starts]
    return found[:steps]


# TRAINING


def initial_dense(rng: np.random.Generator, d_out: int, d_in: int, r: int, /, *, like: Array) -> Factors:
    """B ~ N(0, 1 / d_in), s = 1, A = I: over a zero weight, B is the weight."""
    if r != d_in:
        raise ValueError(f"the rank of a dense weight must be d_in, here {d_in}; got {r}")
    B = normal(rng, (d_out, d_in), std=d_in**-0.5, like=like)
    return Factors(B, like_host(np.ones(d_in), like), like_host(np.eye(d_in), like))


def only_B_moves(held: Factors, moved: Factors) -> Factors:
    """With s = 1, A = I and scale 1, dB is dW."""
    return Factors(moved.B, held.s, held.A)


DENSE = replace(LORA, name="DENSE", initial=initial_dense, trained=only_B_moves)
"""Training of the weights themselves, by the same step: ΔW = B · diag(1) · I."""


def pretrain(data: Examples, settings: Settings, rng: np.random.Generator, watch: Watch) -> MLP:
    """Train dense weights by `train_step`, and return them frozen."""
    x, _ = data
    zero = MLP({name: namespace(x).zeros(shape, dtype=x.dtype) for name, shape in settings.shapes.items()})
    config = settings.pretraining
    state = init_state(zero, config, rng, convention=DENSE)
    stream = batches(data, settings.batch_size, settings.pretraining_steps, rng)
    done = fit(state, stream, zero, config, DENSE, watch, lambda _: None)
    return MLP({name: increment(held, scale=1.0) for name, held in done.state.factors.items()})


class Fitted(NamedTuple):
    """The last state, every step as plain data, what was seen after it, and the seconds of the median step."""

    state: TrainState
    steps: list[dict[str, Any]]
    looks: list[Any]
    seconds: float


def fit(
    state: TrainState,
    stream: list[Batch],
    network: MLP,
    config: Config,
    rule: Convention,
    watch: Watch,
    look: Callable[[TrainState], Any],
) -> Fitted:
    """A step on each batch, and a look at every state; looks take none of the seconds."""
    steps, looks, seconds = [], [], []
    for batch in stream:
        start = time.perf_counter()
        state, report = train_step(state, batch, network, config, convention=rule)
        seconds.append(time.perf_counter() - start)
        t = report.step + rule.first_step
        phase = phase_at(config.schedule, t)
        steps.append(step_record(report, phase, allocates=rule.allocates(config.schedule, t)))
        looks.append(look(state))
        watch(phase, report.budget)
    return Fitted(state, steps, looks, median(seconds))


def accuracy(network: MLP, factors: dict[str, Factors], scales: dict[str, float], data: Examples) -> float:
    """The share of examples whose largest output is that of their label."""
    x, y = data
    output, _ = network.forward(x, factors, scales)
    xp = namespace(output)
    right = int(xp.count_nonzero(xp.argmax(output, axis=-1) == y))
    return right / int(y.shape[0])


def trainable(state: TrainState, rule: Convention) -> int:
    """Parameters of the kept triplets that *rule* trains: without s for LoRA."""
    total = 0
    for name, held in state.factors.items():
        xp = namespace(held.s)
        kept = compress(held, state.masks[name])
        marked = rule.trained(map_factors(xp.zeros_like, kept), map_factors(xp.ones_like, kept))
        total += sum(int(xp.sum(part)) for part in marked)
    return total


def lora_rank(settings: Settings, parameters: int) -> int:
    """The largest rank, one for all matrices, at which A and B have at most *parameters*."""
    return parameters // sum(d_out + d_in for d_out, d_in in settings.shapes.values())


# RECORDS


def config_record(options: Options, settings: Settings) -> dict[str, Any]:
    """Everything needed to repeat the run."""
    libraries = ("numpy", "array-api-compat", "scikit-learn", "safetensors")
    xp = backend(options.backend)
    return {
        "format": FORMAT,
        "experiment": "digits",
        "specification": adalora_ref.SPECIFICATION,
        "backend": options.backend,
        "dtype": "float64",
        "convention": options.convention,
        "seed": options.seed,
        "seeds": options.seeds,
        "arms": list(ARMS),
        "shapes": {name: list(shape) for name, shape in settings.shapes.items()},
        "settings": asdict(settings),
        "adaptation": asdict(settings.adaptation(settings.initial_rank, settings.target_rank)),
        "versions": {
            "adalora_ref": adalora_ref.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
            options.backend: xp.__version__,
        },
    }


def results_record(results: list[SeedResult]) -> dict[str, Any]:
    """The numbers of the table, but for the times, by seed and summed up."""
    figures = {
        "pretrained": [result.pretrained for result in results],
        "frozen": [result.frozen for result in results],
        **{arm: [result.arms[arm].accuracy for result in results] for arm in ARMS},
    }
    return {
        "seeds": [
            {
                "seed": result.seed,
                "accuracy": {name: values[i] for name, values in figures.items()},
                "parameters": {arm: result.arms[arm].parameters for arm in ARMS},
                "ranks": {arm: result.arms[arm].ranks for arm in ARMS},
            }
            for i, result in enumerate(results)
        ],
        "accuracy": {name: {"mean": fmean(values), "spread": spread(values)} for name, values in figures.items()},
    }


def spread(values: list[float]) -> float | None:
    """The standard deviation; None for one value."""
    return stdev(values) if len(values) > 1 else None
