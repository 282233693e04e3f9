"""What is looked for in the installed PEFT: it is found, its script shows it alone, a PEFT without it is cleared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from adalora_ref.cli import main
from adalora_ref.conformance.findings import Finding, Kind, Observed
from adalora_ref.conformance.peft_findings import CLAIMS, Claim, look, observe, written

every_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)

IN_A_PROCESS_EACH = """
import os, runpy, sys
import peft, torch
for path in sys.argv[1:]:
    print("==", path, flush=True)
    if os.fork() == 0:
        runpy.run_path(path, run_name="__main__")
        assert not [name for name in sys.modules if name.startswith("adalora_ref")]
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""
"""A process for each script, forked from one that has done nothing but import what takes seconds to import."""


def named(name: str) -> Claim:
    return next(claim for claim in CLAIMS if claim.name == name)


@pytest.fixture(scope="module")
def looked() -> dict[str, Finding]:
    """Everything that was looked for, by name."""
    return {finding.name: finding for finding in look()}


# FOUND


@every_claim
def test_it_is_found_in_the_installed_version(claim: Claim, looked: dict[str, Finding]) -> None:
    """Every claim holds of the PEFT that is installed."""
    found = looked[claim.name]
    assert found.observed is Observed.FOUND, found.reason
    assert found.got != found.expected


FIGURES = {
    "equal_ranks_crash": "kthvalue(): selected number k out of range",
    "ties_keep_nothing": "0 of zero scores, 0 of equal ones, 0 with two low and six equal",
    "nan_scores_are_kept": "is kept",
    "regulariser_needs_task_type": "adds 0.0000",
    "regulariser_outside_training": "0.9980 under eval(), 0.9980 under disable_adapter()",
    "trainer_multiplies_regulariser": "the task's gradient × 1.000, the regulariser's × 4.000",
    "forced_prune_at_end_of_pruning": "[4, 6, 8, 10, 11]",
    "saving_loses_regrown_triplets": "8 triplets in memory, 4 in the saved adapter",
    "retraining_keeps_nothing": "4 triplets after training, 0 after training again",
    "scale_after_reload": "[1.0, 1.0] in memory, [0.75, 0.25] reloaded",
    "nothing_is_pruned_unasked": "8 triplets",
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_those_of_the_defect(name: str, looked: dict[str, Finding]) -> None:
    """What was got is what the mechanism of the finding makes, not some other failure."""
    assert FIGURES[name] in looked[name].got


def paths_of(findings: Iterable[Finding]) -> list[Path]:
    """The scripts that were written, from the commands that run them."""
    return [Path(f.reproduction.removeprefix("python ")) for f in findings if f.reproduction]


@pytest.fixture(scope="module")
def told(looked: dict[str, Finding], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the script of each finding, written out and run without this package, prints."""
    folder = tmp_path_factory.mktemp("repro")
    paths = paths_of(written(looked.values(), folder))
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", IN_A_PROCESS_EACH, *paths],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    parts = [part.splitlines() for part in done.stdout.split("== ")[1:]]
    assert [Path(first) for first, *_ in parts] == paths
    return {path.parent.name: lines for path, (_, *lines) in zip(paths, parts, strict=True)}


@every_claim
def test_its_script_shows_it_alone(claim: Claim, looked: dict[str, Finding], told: dict[str, list[str]]) -> None:
    """The written script, in a process of its own, prints what the kit saw."""
    found = looked[claim.name]
    assert told[f"peft-{claim.name}"][-2:] == [f"got      {found.got}", f"expected {found.expected}"]


def test_a_script_runs_by_name(tmp_path: Path) -> None:
    """``python repro.py`` is all that it takes."""
    (path,) = paths_of(written([observe(named("ties_keep_nothing"))], tmp_path))
    done = subprocess.run(
        [sys.executable, "-I", path.name], cwd=path.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("got      kept of 8 for a budget of 4: 0 of zero scores")


# CLEARED


def change(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, better: Callable[..., Any]) -> None:
    """Replace a function of PEFT by *better*, which is given the true one first."""
    true = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda *args, **options: better(true, *args, **options))


def freeze_ranknum(patch: pytest.MonkeyPatch) -> None:
    import peft

    def better(true: Any, *args: Any) -> Any:
        model = true(*args)
        for name, parameter in model.named_parameters():
            if ".ranknum." in name:
                parameter.requires_grad_(False)
        return model

    change(patch, peft, "get_peft_model", better)


def keep_the_best(patch: pytest.MonkeyPatch) -> None:
    """Keep exactly the budget: ties go by order, NaN is the lowest."""
    import torch
    from peft.tuners.adalora import RankAllocator

    def better(_: Any, allocator: Any, model: Any, budget: int) -> dict[str, list[bool]]:
        scores: dict[str, Any] = {}
        parameters = dict(model.named_parameters())
        for name in (n for n in parameters if f"lora_E.{allocator.adapter_name}" in n):
            E, A, B = (allocator._element_score(name.replace("lora_E", f"lora_{part}")) for part in "EAB")
            scores[name] = (E[:, 0] + A.mean(1) + B.mean(0)).nan_to_num(-1.0)
        order = torch.argsort(torch.cat(list(scores.values())), descending=True, stable=True)
        keep = torch.zeros(len(order), dtype=torch.bool).index_fill(0, order[:budget], value=True)
        masks = keep.split([len(s) for s in scores.values()])
        for name, mask in zip(scores, masks, strict=True):
            parameters[name].data[~mask] = 0.0
        return {name: mask.tolist() for name, mask in zip(scores, masks, strict=True)}

    change(patch, RankAllocator, "mask_to_budget", better)


def always_regularise(patch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    patch.setattr(PeftModel, "forward", lambda model, *args, **options: model.base_model(*args, **options))


def regularise_in_training_alone(patch: pytest.MonkeyPatch) -> None:
    from peft import AdaLoraModel

    change(patch, AdaLoraModel, "forward", lambda true, m, *a, **o: (true if m.training else type(m).bare)(m, *a, **o))
    patch.setattr(AdaLoraModel, "bare", lambda m, *a, **o: m.model.forward(*a, **o), raising=False)


def never_force(patch: pytest.MonkeyPatch) -> None:
    from peft.tuners.adalora import RankAllocator

    change(patch, RankAllocator, "update_and_allocate", lambda true, a, model, step, **_: true(a, model, step))


def skip_layers_without_gradient(patch: pytest.MonkeyPatch) -> None:
    import torch
    from peft.tuners.adalora import RankAllocator

    def better(true: Any, allocator: Any, model: Any) -> None:
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        true(allocator, model)

    change(patch, RankAllocator, "update_ipt", better)


def save_whole(patch: pytest.MonkeyPatch) -> None:
    """Save every triplet, and no pattern."""
    from peft import AdaLoraModel

    true = AdaLoraModel._get_adapter_state_dict

    def better(model: Any, config: Any, **options: Any) -> Any:
        config.rank_pattern = None
        return true(model, config, **options)

    patch.setattr(AdaLoraModel, "_get_adapter_state_dict", staticmethod(better))


def scale_as_created(patch: pytest.MonkeyPatch) -> None:
    from peft import AdaLoraModel

    def better(true: Any, base: Any, pattern: Any, adapter: str) -> None:
        true(base, pattern, adapter)
        for layer in base.model:
            layer.scaling[adapter] = float(layer.ranknum[adapter])

    change(patch, AdaLoraModel, "resize_modules_by_rank_pattern", better)


def count_after_loading(patch: pytest.MonkeyPatch) -> None:
    """Count the initial budget of what is there, once a checkpoint has been loaded."""
    from peft.tuners.adalora import RankAllocator

    keep_the_best(patch)

    def better(true: Any, allocator: Any, model: Any, step: int, **options: Any) -> Any:
        allocator._set_budget_scheduler(model)
        return true(allocator, model, step, **options)

    change(patch, RankAllocator, "update_and_allocate", better)


def resume_as_cut(patch: pytest.MonkeyPatch) -> None:
    """Besides, leave matrices alone that were cut to the pattern when they were loaded."""
    from peft.tuners.adalora import RankAllocator

    count_after_loading(patch)

    def better(true: Any, allocator: Any, model: Any, pattern: dict[str, list[bool]]) -> None:
        lengths = [len(p) for name, p in model.named_parameters() if "lora_E" in name]
        if lengths == [len(mask) for mask in pattern.values()]:
            true(allocator, model, pattern)

    change(patch, RankAllocator, "mask_using_rank_pattern", better)


def catch_up(patch: pytest.MonkeyPatch) -> None:
    """Make up for the forced allocation at T − t_f, once it has been passed."""
    from peft import AdaLoraModel

    def better(true: Any, base: Any, step: int) -> None:
        config = base.peft_config["default"]
        end = config.total_step - config.tfinal
        if step > end and base.rankallocator.ipt:
            true(base, end)
        true(base, step)

    change(patch, AdaLoraModel, "update_and_allocate", better)


def refuse(wrong: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> None:
    """Refuse configurations that are *wrong*."""
    from peft import AdaLoraConfig

    def better(true: Any, config: Any) -> None:
        true(config)
        if wrong(config):
            raise ValueError("a configuration that cannot work")

    change(patch, AdaLoraConfig, "__post_init__", better)


def refuse_bad_schedules(patch: pytest.MonkeyPatch) -> None:
    refuse(lambda c: c.init_r <= c.target_r or c.deltaT < 1 or c.tfinal < 0 or c.target_r % 1, patch)


def refuse_options_of_lora(patch: pytest.MonkeyPatch) -> None:
    refuse(lambda c: c.use_rslora or c.alpha_pattern, patch)


def refuse_groups(patch: pytest.MonkeyPatch) -> None:
    from peft.tuners.adalora import SVDConv2d

    def better(true: Any, layer: Any, base: Any, *args: Any, **options: Any) -> None:
        if base.groups > 1:
            raise ValueError("groups cannot be adapted")
        true(layer, base, *args, **options)

    change(patch, SVDConv2d, "__init__", better)


def know_the_adapter(patch: pytest.MonkeyPatch) -> None:
    from peft import AdaLoraModel

    patch.setattr(AdaLoraModel, "trainable_adapter_name", "default", raising=False)


BETTER: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (freeze_ranknum, "ranknum_is_trained"),
    (always_regularise, "regulariser_needs_task_type"),
    (keep_the_best, "equal_ranks_crash"),
    (refuse_bad_schedules, "equal_ranks_crash"),
    (refuse_bad_schedules, "impossible_schedules_are_accepted"),
    (refuse_options_of_lora, "lora_options_are_ignored"),
    (refuse_groups, "grouped_convolution_crashes"),
    (know_the_adapter, "loaded_adapter_has_no_loss"),
    (keep_the_best, "ties_keep_nothing"),
    (keep_the_best, "nan_scores_are_kept"),
    (never_force, "forced_prune_at_end_of_pruning"),
    (save_whole, "saving_loses_regrown_triplets"),
    (save_whole, "checkpoint_does_not_fit"),
    (count_after_loading, "retraining_keeps_nothing"),
    (resume_as_cut, "resuming_keeps_too_few"),
    (scale_as_created, "scale_after_reload"),
    (regularise_in_training_alone, "regulariser_outside_training"),
    (catch_up, "striding_over_end_of_pruning"),
    (skip_layers_without_gradient, "layer_without_gradient_crashes"),
    (skip_layers_without_gradient, "adapter_name_begins_another"),
]


@pytest.mark.parametrize(("better", "name"), BETTER, ids=lambda held: getattr(held, "__name__", held))
def test_a_peft_without_the_defect_is_cleared(
    better: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mend PEFT, and the finding vanishes."""
    better(monkeypatch)
    mended = observe(named(name))
    assert mended.observed is Observed.NOT_FOUND, (mended.reason, mended.got)
    assert mended.got == mended.expected


def test_what_cannot_be_tried_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformers' Trainer its finding is neither found nor cleared; the others are tried as before."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    untried, tried = observe(named("trainer_multiplies_regulariser")), observe(named("equal_ranks_crash"))
    assert untried.observed is Observed.NOT_TRIED
    assert "transformers" in untried.reason
    assert tried.observed is Observed.FOUND


def test_random_numbers_and_output_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """Looking prints nothing, and torch draws afterwards what it would have drawn."""
    import torch

    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    list(look([named(name) for name in ("trainer_multiplies_regulariser", "scale_after_reload")]))
    assert torch.equal(torch.rand(1), first)
    assert capfd.readouterr() == ("", "")


# THE COMMAND


def test_verify_peft_lists_them(tmp_path: Path) -> None:
    """`verify peft` has them in a section, defects first, in JSON, in JUnit and as scripts; the status is 1."""
    files = ["--json", str(tmp_path / "v.json"), "--junit", str(tmp_path / "v.xml"), "--repro", str(tmp_path / "repro")]
    done = CliRunner().invoke(main, ["verify", "peft", "--preset", "quick", *files])
    assert done.exit_code == 1
    section = done.output[done.output.index("\nFindings in peft ") :]
    assert section.index("ranknum_is_trained") < section.index("forced_prune_at_end_of_pruning")
    assert section.count(f"  reproduce  python {(tmp_path / 'repro').as_posix()}/peft-") == len(CLAIMS)
    defects = sum(claim.kind is Kind.DEFECT for claim in CLAIMS)
    assert f"; {defects} of {defects} defects and " in section
    plain = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["findings"]
    assert {f["name"] for f in plain} == {claim.name for claim in CLAIMS}
    suite = ET.parse(tmp_path / "v.xml").getroot()  # noqa: S314  we have just written it
    failed = {case.get("name") for case in suite.findall("testcase[failure]")}
    assert {claim.name for claim in CLAIMS if claim.kind is Kind.DEFECT} <= failed
    assert len(list((tmp_path / "repro").glob("peft-*/repro.py"))) == len(CLAIMS)


def test_a_stage_alone_looks_for_nothing() -> None:
    """Asked for one stage, `verify peft` runs that and no more."""
    done = CliRunner().invoke(main, ["verify", "peft", "--preset", "quick", "--stage", "prune"])
    assert done.exit_code == 0
    assert "Findings" not in done.output
