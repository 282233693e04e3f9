"""The budget schedule: integers only, exact, no arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from adalora_ref.checks import count, instance, items

Phase = Literal["warmup", "pruning", "final"]
Shapes = Mapping[str, tuple[int, int]] | Iterable[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class BudgetSchedule:
    """How many triplets, over all matrices, may live at each step.

    The budget is b⁰ = `initial` until t_i = `warmup`, then falls along a cubic to b^T = `target`, which holds from
    T − t_f = `total` − `final` on. An allocation is due every ΔT = `interval` steps from t_i, and at T − t_f.

    Attributes
    ----------
    initial, target
        Counts of triplets over all matrices, or of parameters where the allocation is given a cost.
    warmup, final, total, interval
        Steps. At least one step of pruning must lie between warm-up and final phase; interval is at least 1.

    Raises
    ------
    TypeError, ValueError
        For what is no integer (bool is none), is negative, or breaks a rule above; target must not exceed initial.

    Notes
    -----
    The paper's equation (12) is misprinted. As printed, the numerator is t − t_i − t_f:

        b(t) = b^T + (b⁰ − b^T) · (1 − (t − t_i − t_f) / (T − t_i − t_f))³

    On the paper's own MNLI settings (T = 85904, t_i = 8000, t_f = 50000, b⁰ = 216, b^T = 144) that gives
    b(t_i) = 1710.8, eight times the initial budget that it should start from, and it jumps from 558.3 to 144 at
    T − t_f. With the numerator t − t_i it runs from b⁰ to b^T, as the text says and as every implementation does.

    Examples
    --------
    >>> schedule = BudgetSchedule(initial=12, target=4, warmup=2, final=3, total=9)
    >>> [budget_at(schedule, t) for t in range(9)]
    [12, 12, 12, 7, 5, 4, 4, 4, 4]
    """

    initial: int
    target: int
    warmup: int
    final: int
    total: int
    interval: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name == "interval" else 0
            object.__setattr__(self, field.name, count(field.name, getattr(self, field.name), least=least))
        if self.target > self.initial:
            raise ValueError(f"target must be at most initial; got target {self.target}, initial {self.initial}")
        if self.warmup + self.final >= self.total:
            raise ValueError(
                "warmup + final must be below total, so that a pruning phase remains; "
                f"got {self.warmup} + {self.final} and {self.total}"
            )

    @classmethod
    def from_ranks(cls, shapes: Shapes, /, *, initial_rank: int, target_rank: int, **steps: int) -> BudgetSchedule:
        """A budget of triplets stated as ranks per matrix: the initial one, and the mean at the end.

        Parameters
        ----------
        shapes
            (d_out, d_in) of each adapted matrix, as a mapping by name or in a row.
        steps
            warmup, final, total and interval of the schedule.

        Examples
        --------
        >>> BudgetSchedule.from_ranks({"q": (8, 8), "v": (8, 8)}, initial_rank=6, target_rank=4,
        ...                           warmup=1, final=1, total=9)
        BudgetSchedule(initial=12, target=8, warmup=1, final=1, total=9, interval=1)
        """
        matrices = len(triplet_costs(shapes))
        initial = matrices * count("initial_rank", initial_rank)
        return cls(initial=initial, target=matrices * count("target_rank", target_rank), **steps)

    @classmethod
    def from_parameters(cls, shapes: Shapes, /, *, initial: int, target: int, **steps: int) -> BudgetSchedule:
        """A budget of trainable parameters; a triplet of a (d_out, d_in) matrix costs d_out + d_in + 1.

        Training starts with one rank in every matrix, so *initial* is lowered to the largest number of parameters,
        at most *initial*, that one rank in every matrix makes up. *target* is taken as given. Allocation and `Config`
        then need the same costs: ``cost={name: d_out + d_in + 1, …}``.

        Examples
        --------
        >>> BudgetSchedule.from_parameters({"q": (4, 3), "v": (5, 6)}, initial=70, target=25,
        ...                                warmup=1, final=1, total=9)  # 3 · (8 + 12) = 60
        BudgetSchedule(initial=60, target=25, warmup=1, final=1, total=9, interval=1)
        """
        one_rank = sum(triplet_costs(shapes))
        if count("initial", initial) < one_rank:
            raise ValueError(f"initial must be at least one rank in every matrix, {one_rank} parameters; got {initial}")
        initial = count("initial", initial) // one_rank * one_rank
        return cls(initial=initial, target=count("target", target), **steps)

    @property
    def end_of_pruning(self) -> int:
        """T − t_f, the step of the last allocation."""
        return self.total - self.final


def triplet_costs(shapes: Shapes, /) -> list[int]:
    """Parameters of one triplet of each matrix, d_out + d_in + 1.

    >>> triplet_costs({"q": (4, 3), "v": (5, 6)})
    [8, 12]
    """
    pairs: list[Any] = list(items("shapes", shapes.values() if isinstance(shapes, Mapping) else shapes))
    if not pairs:
        raise ValueError("a schedule needs the shape of at least one matrix; got none")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"each shape must be (d_out, d_in); got {pair!r}")
    return [count("d_out", d_out, least=1) + count("d_in", d_in, least=1) + 1 for d_out, d_in in pairs]


def budget_at(schedule: BudgetSchedule, step: int, /) -> int:
    """⌊b^T + (b⁰ − b^T) · ((T − t_f − t) / (T − t_f − t_i))³⌋ while pruning; b⁰ before, b^T after.

    The floor is taken of the exact rational value. In doubles it comes out one off in 0.003–0.02 % of cases.

    Raises
    ------
    TypeError, ValueError
        If *step* is no integer, or negative. Steps from *total* on belong to the final phase.

    Examples
    --------
    >>> schedule = BudgetSchedule(initial=1004, target=4, warmup=0, final=1, total=6)
    >>> budget_at(schedule, 2)  # 4 + 1000 · (3/5)³ = 220; in doubles 219.99999999999997
    220

    References
    ----------
    Specification (11); paper equation (12), without its misprint: see `BudgetSchedule`.
    """
    phase, step = phase_at(schedule, step), int(step)
    if phase == "warmup":
        return schedule.initial
    if phase == "final":
        return schedule.target
    left = schedule.end_of_pruning - step
    window = schedule.end_of_pruning - schedule.warmup
    return schedule.target + (schedule.initial - schedule.target) * left**3 // window**3


def allocates_at(schedule: BudgetSchedule, step: int, /) -> bool:
    """t ∈ {t_i, t_i + ΔT, …} while pruning, or t = T − t_f.

    Examples
    --------
    >>> schedule = BudgetSchedule(initial=12, target=4, warmup=2, final=3, total=9, interval=3)
    >>> [t for t in range(12) if allocates_at(schedule, t)]
    [2, 5, 6]

    References
    ----------
    Specification (12).
    """
    phase, step = phase_at(schedule, step), int(step)
    due = phase == "pruning" and (step - schedule.warmup) % schedule.interval == 0
    return due or step == schedule.end_of_pruning


def phase_at(schedule: BudgetSchedule, step: int, /) -> Phase:
    """The phase: "warmup" for t < t_i, "pruning" for t_i ≤ t < T − t_f, "final" from then on.

    Examples
    --------
    >>> schedule = BudgetSchedule(initial=12, target=4, warmup=2, final=3, total=9)
    >>> [phase_at(schedule, t) for t in (0, 1, 2, 5, 6, 100)]
    ['warmup', 'warmup', 'pruning', 'pruning', 'final', 'final']

    References
    ----------
    Specification (10).
    """
    instance("schedule", schedule, BudgetSchedule)
    step = count("step", step)
    if step < schedule.warmup:
        return "warmup"
    return "pruning" if step < schedule.end_of_pruning else "final"
