"""What is looked for in the installed PEFT beside its stages: each claim is a script in `peft_scripts/`, run here.

The scripts use PEFT as its users do: `get_peft_model`, a training loop in the order that PEFT documents, saving and
loading. They need torch and PEFT alone, one of them transformers' Trainer, and nothing of this package. Nothing is
claimed unseen: a finding is what a script measured on the PEFT that is installed.
"""

from __future__ import annotations

import ast
import runpy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from adalora_ref.conformance.findings import Finding, Kind, Observed
from adalora_ref.conformance.peft_target import peers
from adalora_ref.conformance.report import write_text
from adalora_ref.conformance.script_parts import command

SCRIPTS = Path(__file__).with_name("peft_scripts")


class Claim(NamedTuple):
    """What is looked for: the name of its script, its kind, the function of PEFT that does it, and what is known."""

    name: str
    kind: Kind
    where: str
    known: str = ""

    @property
    def path(self) -> Path:
        """The script."""
        return SCRIPTS / f"{self.name}.py"


LAYER, MODEL, CONFIG = (f"peft/tuners/adalora/{name}.py" for name in ("layer", "model", "config"))
DEFECT, CONVENTION = Kind

CLAIMS = (
    # IN TRAINING
    Claim(
        "ranknum_is_trained", DEFECT,
        "peft/tuners/tuners_utils.py, _move_adapter_to_device_of_base_layer and cast_adapter_dtype: wrap it anew, "
        f"unfrozen; {MODEL}, AdaLoraModel._get_adapter_state_dict: leaves it out",
        "no report is known; huggingface/peft#3490 brought it with 0.21.0",
    ),
    Claim(
        "regulariser_needs_task_type", DEFECT,
        "peft/peft_model.py, PeftModel.forward: calls the base model, past AdaLoraModel.forward",
        "huggingface/peft#432",
    ),
    Claim(
        "equal_ranks_crash", DEFECT, f"{LAYER}, RankAllocator.mask_to_budget: kthvalue with k = 0",
        "huggingface/peft#2337, the same crash by another schedule",
    ),
    Claim("ties_keep_nothing", DEFECT, f"{LAYER}, RankAllocator.mask_to_budget: drops all that is ≤ the threshold"),
    Claim("nan_scores_are_kept", DEFECT, f"{LAYER}, RankAllocator.mask_to_budget: NaN ≤ the threshold is false"),
    Claim("regulariser_outside_training", DEFECT, f"{MODEL}, AdaLoraModel.forward", "huggingface/peft#1798, perhaps"),
    Claim("trainer_multiplies_regulariser", DEFECT, f"{MODEL}, AdaLoraModel.forward: all of it in each micro-batch"),
    Claim("striding_over_end_of_pruning", DEFECT, f"{MODEL}, AdaLoraModel.update_and_allocate: asks for == T − t_f"),
    Claim(
        "layer_without_gradient_crashes", DEFECT, f"{LAYER}, RankAllocator.update_ipt: p * p.grad",
        "huggingface/peft#1721, QingruZhang/AdaLoRA#21",
    ),
    Claim("grouped_convolution_crashes", DEFECT, f"{LAYER}, SVDConv2d: its factors take no account of groups"),
    Claim(
        "impossible_schedules_are_accepted", DEFECT, f"{CONFIG}, AdaLoraConfig.__post_init__",
        "huggingface/peft#2341 added checks of tinit, tfinal and total_step alone",
    ),
    Claim("lora_options_are_ignored", DEFECT, f"{LAYER}, AdaLoraLayer.update_layer; {CONFIG} inherits them"),
    # IN SAVING AND LOADING
    Claim("saving_loses_regrown_triplets", DEFECT, f"{MODEL}, AdaLoraModel.resize_state_dict_by_rank_pattern"),
    Claim("scale_after_reload", DEFECT, f"{MODEL}, AdaLoraModel.resize_modules_by_rank_pattern: by update_layer"),
    Claim(
        "retraining_keeps_nothing", DEFECT,
        f"{LAYER}, RankAllocator: init_bgt is counted before loading cuts the matrices to the saved pattern",
    ),
    Claim(
        "resuming_keeps_too_few", DEFECT,
        f"{LAYER}, RankAllocator: init_bgt, likewise; mask_using_rank_pattern has the pattern of the uncut matrix",
    ),
    Claim(
        "checkpoint_does_not_fit", DEFECT,
        "peft/peft_model.py, PeftModel.load_adapter: goes by the pattern in the model, not by that in the checkpoint",
    ),
    Claim(
        "loaded_adapter_has_no_loss", DEFECT, f"{MODEL}, AdaLoraModel.forward: reads trainable_adapter_name",
        "huggingface/peft#571; #745 mended the call without labels",
    ),
    Claim(
        "adapter_name_within_module_name", DEFECT,
        f"{MODEL}, AdaLoraModel.resize_state_dict_by_rank_pattern: adapter_name in name",
    ),
    Claim("adapter_name_begins_another", DEFECT, f"{LAYER}, RankAllocator.update_ipt: adapter_name in n"),
    # CHOICES
    Claim(
        "forced_prune_at_end_of_pruning", CONVENTION, f"{MODEL}, AdaLoraModel.update_and_allocate: force_mask",
        "a comment in PEFT's code there; docs/conventions.md, `allocates_as_peft` beside `allocates_as_released`",
    ),
    Claim(
        "regulariser_is_a_mean_of_norms", CONVENTION, f"{MODEL}, AdaLoraModel.forward",
        "the authors' release, compute_orth_regu; docs/conventions.md, `orthogonality_norm` and `mean_over_norms`",
    ),
    Claim(
        "nothing_is_pruned_unasked", CONVENTION, f"{MODEL}, AdaLoraModel.update_and_allocate",
        "PEFT's docstring there; huggingface/peft#432, #1327 and #1801 are by users who did not know",
    ),
)  # fmt: skip


def look(claims: Iterable[Claim] = CLAIMS) -> Iterator[Finding]:
    """Run the script of each claim against the installed PEFT."""
    peers()
    yield from map(observe, claims)


def observe(claim: Claim) -> Finding:
    """Run one script; where it is stopped by an error that it does not expect, it could not be tried."""
    script = claim.path.read_text(encoding="utf-8")
    says = str(ast.get_docstring(ast.parse(script)))
    finding = Finding(
        claim.name, claim.kind, says, claim.where, claim.known, observed=Observed.NOT_TRIED, script=script
    )
    try:
        with _silence():
            held = runpy.run_path(str(claim.path))
    except Exception as error:  # noqa: BLE001  another PEFT may refuse anything
        return finding._replace(reason=f"{type(error).__name__}: {error}")
    got, expected = held["got"], held["expected"]
    observed = Observed.NOT_FOUND if got == expected else Observed.FOUND
    return finding._replace(observed=observed, got=got, expected=expected)


@contextmanager
def _silence() -> Iterator[None]:
    """Swallow what is printed and warned of, and leave torch's random numbers as they were."""
    torch, _ = peers()
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        yield


def written(findings: Iterable[Finding], folder: Path) -> Iterator[Finding]:
    """Write ``folder/peft-NAME/repro.py`` for everything that was found, and say in the finding where it is."""
    for finding in findings:
        path = folder / f"peft-{finding.name}" / "repro.py"
        if finding.observed is Observed.FOUND:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, finding.script)
            yield finding._replace(reproduction=command(path))
        else:
            yield finding
