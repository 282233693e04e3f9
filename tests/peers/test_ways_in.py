"""torch modules, JAX functions and PEFT's own allocator and run, through the ways in for others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from adalora_ref import Factors
from adalora_ref.cli import main
from adalora_ref.conformance import jax_layer, peft_run, torch_layer
from adalora_ref.conformance.allocator_check import check_allocator
from adalora_ref.conformance.checking import check_stages, stage_named
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.peft_target import ADAPTER, peers
from adalora_ref.conformance.target import Target, TargetError
from adalora_ref.conformance.trace import Judge
from adalora_ref.conformance.trace_file import write_trace
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import PEFT, SPEC
from tests.pages import blocks, lacking, run

LAYER = ("linear_forward", "linear_backward")


def check(held: Any, *names: str, cases: int = 24, **options: Any) -> list[Row]:
    stages = [stage_named(name) for name in names]
    return list(check_stages([Target("mine", held)], stages, SPEC, cases=cases, seed=0, **options))


def verdicts(held: Any, *names: str, **options: Any) -> list[Verdict]:
    return [row.verdict for row in check(held, *names, **options)]


# A TORCH MODULE


def module_class() -> Any:
    torch, _ = peers()

    class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]
        """B and A are stored transposed, s as a column."""

        def __init__(self, W: Any, bias: Any, r: int, scale: float) -> None:
            super().__init__()
            self.W, self.b, self.scale = W, bias, scale
            self.U = torch.nn.Parameter(torch.zeros(r, W.shape[0], dtype=W.dtype))
            self.E = torch.nn.Parameter(torch.zeros(r, 1, dtype=W.dtype))
            self.V = torch.nn.Parameter(torch.zeros(W.shape[1], r, dtype=W.dtype))
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            y = torch.nn.functional.linear(x, self.W, self.b)
            return y + self.scale * ((self.drop(x) @ self.V) * self.E[:, 0]) @ self.U

        def delta(self) -> Any:
            return self.scale * self.U.T @ (self.E * self.V.T)

    return Layer


def views(module: Any) -> Any:
    return module.U.T, module.E, module.V.T


def test_a_module_may_store_views() -> None:
    """Transposed storage and a column for s: the numbers go in, and the gradients come out, through the views."""
    held = torch_layer(
        module_class(), views, dropout="drop", delta=module_class().delta, merged=lambda m: m.W + m.delta()
    )
    rows = check(held, *LAYER, "increment", "merge", cases=48)
    assert {row.verdict for row in rows} == {Verdict.PASS}
    assert all(row.run == len(row.checks) for row in rows)


def test_without_a_name_for_dropout_masks_are_not_run() -> None:
    """A module whose dropout has no name runs the cases without a mask, and lists the others."""
    layer = module_class()
    held = torch_layer(lambda *args: layer(*args).eval(), views)
    for row in check(held, *LAYER):
        assert row.verdict is Verdict.PASS
        assert {c.reason for c in row.checks if c.verdict is Verdict.NOT_RUN} == {
            f"the target's {row.stage} takes no dropout_mask"
        } or row.stage == "linear_backward"


def forward_of(forward: Callable[[Any, Any], Any]) -> Any:
    """A module like the others, whose forward pass is another."""
    base = module_class()
    return torch_layer(type("Wrong", (base,), {"forward": forward}), views, dropout="drop")


def normalises(self: Any, x: Any) -> Any:
    torch, _ = peers()
    with torch.no_grad():
        self.V.copy_(self.V / 2)
    return module_class().forward(self, x)


def cut_off(self: Any, x: Any) -> Any:
    held, self.E = self.E, peers()[0].nn.Parameter(self.E.detach().clone())
    y = module_class().forward(self, x)
    self.E = held
    return y


def test_a_forward_pass_that_changes_parameters_fails() -> None:
    """What the module does to its own parameters is its failure, and the reason names the parameter."""
    (row,) = check(forward_of(normalises), "linear_forward")
    assert row.first_failure is not None
    assert "the forward pass changed the parameter A of the module" in row.first_failure.reason


def test_a_parameter_that_autograd_does_not_reach_fails_in_its_gradient() -> None:
    """Where s is detached in the forward pass its gradient is zero, and that is what fails."""
    forward, backward = check(forward_of(cut_off), *LAYER)
    assert forward.verdict is Verdict.PASS
    first = backward.first_failure
    assert first is not None
    assert first.divergence is not None
    assert first.divergence.quantity == "d.s"


def test_a_module_stays_on_its_device() -> None:
    """Inputs go to the device of the parameters."""
    seen = []
    base = module_class()

    def forward(self: Any, x: Any) -> Any:
        seen.append(str(x.device))
        return base.forward(self, x)

    held = torch_layer(lambda *args: type("Far", (base,), {"forward": forward})(*args).to("meta"), views)
    check(held, "linear_forward", cases=1, dtypes=["float64"])
    assert set(seen) == {"meta"}


MISUSE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "two": (lambda m: (m.U.T, m.E), "parameters must return the module's tensors (B, s, A); got 2 values"),
    "names": (lambda m: ("U", "E", "V"), "parameters must return the module's tensors (B, s, A); got 3 values"),
    "transposed": (lambda m: (m.U, m.E, m.V), "must have shape ("),
    "copy": (lambda m: (m.U.T * 1, m.E, m.V.T), "B must be a parameter of the module that requires a gradient"),
    "detached": (lambda m: (m.U.T, m.E.detach(), m.V.T), "s must be a parameter of the module that requires a"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_said_in_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `parameters` returns must be B, s and A of the module; anything else is wrong usage, status 2."""
    parameters, message = MISUSE[name]
    held = torch_layer(module_class(), parameters)
    with pytest.raises(TargetError, match=re.escape(message)):
        check(held, "linear_forward", cases=6)


def test_more_misuse() -> None:
    """A dtype that the module does not take, a dropout that it has not, and what is no tensor are wrong usage."""
    layer = module_class()
    single = torch_layer(lambda W, b, r, scale: layer(W.float(), b, r, scale), views)
    with pytest.raises(TargetError, match="B must have W's dtype, float64; got float32"):
        check(single, "linear_forward", cases=1)
    with pytest.raises(TargetError, match="dropout must name an attribute of the module; it has no 'p'"):
        check(torch_layer(layer, views, dropout="p"), "linear_forward", cases=1)
    with pytest.raises(TargetError, match="the module must return a tensor; got tuple"):
        check(forward_of(lambda self, x: (x, x)), "linear_forward", cases=1)
    with pytest.raises(TargetError, match="the module must return a tensor; got float"):
        check(torch_layer(layer, views, penalty=lambda m: 0.0), "orthogonality_penalty", cases=1)


def test_a_module_in_float32_alone() -> None:
    """A module that declares float32 is checked in that, and what else is asked for is not run."""
    held = torch_layer(module_class(), views, dropout="drop", dtypes=("float32",))
    (row,) = check(held, "linear_forward")
    assert (row.verdict, {c.dtype for c in row.checks}) == (Verdict.PASS, {"float32"})


# JAX


def test_jax_functions_without_a_mask() -> None:
    """A forward function without dropout_mask runs the other cases; rank 0 and no samples are among them."""
    pytest.importorskip("jax")

    def forward(x: Any, W: Any, B: Any, s: Any, A: Any, *, scale: float, bias: Any) -> Any:
        y = x @ W.T + scale * ((x @ A.T) * s) @ B.T
        return y if bias is None else y + bias

    held = jax_layer(forward, delta=lambda B, s, A, *, scale: scale * (B * s) @ A)
    rows = check(held, *LAYER, "increment", cases=12, dtypes=["float32"])
    assert {row.verdict for row in rows} == {Verdict.PASS}
    assert rows[0].run < len(rows[0].checks)


def test_jax_misuse() -> None:
    """No function, and a function that returns two arrays, are wrong usage."""
    pytest.importorskip("jax")
    with pytest.raises(TargetError, match="jax_layer needs at least one function"):
        jax_layer()
    with pytest.raises(TargetError, match="must return one array; got tuple"):
        check(jax_layer(penalty=lambda B, s, A: (s, s)), "orthogonality_penalty", cases=1)


# ARRAYS AS SUCH


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_are_handed_over_as_such(library: str) -> None:
    """A target that declares torch or JAX gets their arrays, and must return them; a NumPy result fails."""
    pytest.importorskip(library)
    seen = set()

    def scores(state: Any, /) -> Any:
        seen.add(type(state.sensitivity.s).__module__.split(".")[0])
        return reference().triplet_scores(state)

    held = SimpleNamespace(triplet_scores=scores, array_library=library)
    assert verdicts(held, "triplet_scores", cases=6) == [Verdict.PASS]
    assert seen <= {library, "jaxlib"}
    held.triplet_scores = lambda state: np.zeros(state.sensitivity.s.shape)
    (row,) = check(held, "triplet_scores", cases=2)
    assert row.first_failure is not None
    assert row.first_failure.reason == f"S must be an array of {library}; got numpy.ndarray"


# PEFT


class PeftAllocator:
    """PEFT's own RankAllocator, fed by us."""

    def start(self, weights: Any, schedule: Any, *, beta1: float, beta2: float) -> None:
        torch, peft = peers()
        from peft.tuners.adalora.layer import RankAllocator

        self.model, self.schedule = torch.nn.Module(), schedule
        for name, factors in weights.items():
            layer = torch.nn.Module()
            for part, a in self.parts(factors).items():
                layer.register_module(f"lora_{part}", torch.nn.ParameterDict({ADAPTER: torch.nn.Parameter(a)}))
            self.model.register_module(name, layer)
        r = next(iter(weights.values())).s.shape[0]
        config = peft.AdaLoraConfig(
            init_r=r, target_r=1, tinit=schedule.warmup, tfinal=schedule.final, deltaT=schedule.interval,
            total_step=schedule.total, beta1=beta1, beta2=beta2,
        )  # fmt: skip
        self.allocator = RankAllocator(self.model, config, ADAPTER)
        self.allocator.init_bgt, self.allocator.target_bgt = schedule.initial, schedule.target
        self.masks = {name: np.ones(r, dtype=bool) for name in weights}

    def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
        for name in weights:
            given = self.parts(weights[name]), self.parts(grads[name])
            for part in "ABE":
                parameter = getattr(getattr(self.model, name), f"lora_{part}")[ADAPTER]
                parameter.data.copy_(given[0][part])
                parameter.grad = given[1][part].clone()
        end = self.schedule.total - self.schedule.final
        if step < end:
            budget, pattern = self.allocator.update_and_allocate(self.model, step)
        elif step == end:
            budget, pattern = self.allocator.update_and_allocate(self.model, step, force_mask=True)
            self.frozen = pattern
        else:
            budget, pattern = self.schedule.target, None
            self.allocator.mask_using_rank_pattern(self.model, self.frozen)
        if pattern:
            masks = [np.array(mask) for key, mask in pattern.items()]
            self.masks = dict(zip(weights, masks, strict=True))
        return {
            "masks": {n: m.copy() for n, m in self.masks.items()},
            "importance": {n: [self.held(n, self.averages(n, k)) for k in ("ipt", "unc")] for n in weights},
            "budget": budget,
            "due": bool(pattern),
            "after": {n: self.held(n, None) for n in weights},
        }

    def averages(self, name: str, kind: str) -> dict[str, Any]:
        held = getattr(self.allocator, f"exp_avg_{kind}")
        return {part: held[f"{name}.lora_{part}.{ADAPTER}"] for part in "BEA"}

    def held(self, name: str, values: Any) -> tuple[Any, Any, Any]:
        layer = getattr(self.model, name)
        values = values or {part: getattr(layer, f"lora_{part}")[ADAPTER] for part in "BEA"}
        B, E, A = (values[part].detach().numpy().copy() for part in "BEA")
        return B, E[:, 0], A

    @staticmethod
    def parts(factors: Any) -> dict[str, Any]:
        torch, _ = peers()
        return {"A": torch.tensor(factors.A), "B": torch.tensor(factors.B), "E": torch.tensor(factors.s)[:, None]}


def fed(rules: Any) -> dict[str, Row]:
    rows = check_allocator(Target("peft", PeftAllocator()), rules, dtypes=("float64",), seed=0)
    return {row.stage: row for row in rows}


def test_peft_s_allocator_conforms_to_its_convention() -> None:
    """PEFT's RankAllocator, adapted, passes under PEFT and under SPEC is recognised as PEFT."""
    rows = {
        row.stage: row for row in check_allocator(Target("peft", PeftAllocator()), PEFT, dtypes=("float64",), seed=0)
    }
    assert {name: row.verdict for name, row in rows.items() if row.verdict is not Verdict.PASS} == {
        "triplet_scores": Verdict.NOT_RUN
    }, [row.first_failure for row in rows.values()]
    rows = {
        row.stage: row for row in check_allocator(Target("peft", PeftAllocator()), SPEC, dtypes=("float64",), seed=0)
    }
    wrong = {name: row for name, row in rows.items() if row.verdict is Verdict.FAIL}
    assert "allocates_at" in wrong
    assert all("PEFT" in row.conventions for row in wrong.values())


def test_peft_s_run_as_a_trace(tmp_path: Path) -> None:
    """PEFT's recorded run, written to a trace file, passes under PEFT; under SPEC the verdict says which it is."""
    recorded = peft_run.record("float32", freeze_ranknum=False)
    path = tmp_path / "peft.safetensors"
    write_trace(path, [step.run for step in recorded.steps], Judge(peft_run.CONFIG, PEFT, "float32"))
    passed = CliRunner().invoke(main, ["verify", f"trace:{path}"])
    assert passed.exit_code == 0, passed.output
    assert "NOT RUN" not in passed.output
    failed = CliRunner().invoke(main, ["verify", f"trace:{path}", "--convention", "SPEC", "--no-repro"])
    assert failed.exit_code == 1
    assert re.search(r"this is convention PEFT, not SPEC: \d differences, .*update_importance, ", failed.output), (
        failed.output
    )


# THE PAGES


def verified(folder: Path, file: str, *options: str) -> Any:
    (folder / "my_adalora.py").write_text(file, encoding="utf-8")
    return run(folder, "verify", "my_adalora:layer", *options)


def spoilt(file: str, right: str, wrong: str) -> str:
    assert right in file
    return file.replace(right, wrong)


def test_the_torch_page_shows_what_is_printed(tmp_path: Path) -> None:
    """The module of docs/verify/torch.md conforms as the page shows, and fails as it shows with one line changed."""
    (file, _), (right, wrong) = blocks("torch.md", "python"), blocks("torch.md", "text")
    done = verified(tmp_path, file)
    assert (done.returncode, lacking(right, done.stdout)) == (0, []), done.stderr
    done = verified(
        tmp_path, spoilt(file, "return self.base(x) + self.scaling * update", "return self.base(x) + update")
    )
    assert (done.returncode, lacking(wrong, done.stdout)) == (1, [])


def test_the_torch_adapter_has_under_ten_lines() -> None:
    """From `build` on, the page's file is the adapter."""
    file = blocks("torch.md", "python")[0]
    assert 5 < len([line for line in file[file.index("def build") :].splitlines() if line.strip()]) < 10


def test_the_jax_page_shows_what_is_printed(tmp_path: Path) -> None:
    """The functions of docs/verify/jax.md conform as the page shows, and fail as it shows with one line changed."""
    pytest.importorskip("jax")
    (file, _), (right, wrong) = blocks("jax.md", "python"), blocks("jax.md", "text")
    done = verified(tmp_path, file, "--preset", "quick")
    assert (done.returncode, lacking(right, done.stdout)) == (0, []), done.stderr
    wide = "jnp.sum((A.T @ A - jnp.eye(A.shape[1], dtype=s.dtype)) ** 2)"
    done = verified(tmp_path, spoilt(file, "jnp.sum((A @ A.T - eye) ** 2)", wide), "--preset", "quick")
    assert (done.returncode, lacking(wrong, done.stdout)) == (1, [])


def test_factors_are_what_helpers_return() -> None:
    """The gradients of a module come back as Factors of NumPy arrays in the shapes of the case."""
    held = torch_layer(module_class(), views, dropout="drop")
    given = Factors(np.ones((3, 2)), np.ones(2), np.ones((2, 4)))
    _, cache = held.linear_forward(np.ones((5, 4)), np.ones((3, 4)), given, scale=0.5)
    _, grads = held.linear_backward(np.ones((5, 3)), cache)
    assert [a.shape for a in grads] == [(3, 2), (2,), (2, 4)]
