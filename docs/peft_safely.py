"""Train PEFT's AdaLoRA, save it and load it again, around what docs/field-guide.md warns of."""

import copy
import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model

T, t_init, t_final, delta, gamma = 40, 5, 10, 5, 0.5
assert t_final > 0
assert t_init + t_final < T
assert (T - t_final) % delta == 0

torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)).double()  # on bfloat16 alike
fresh = copy.deepcopy(base)
config = AdaLoraConfig(
    init_r=6, target_r=4, tinit=t_init, tfinal=t_final, deltaT=delta, total_step=T, lora_alpha=8, orth_reg_weight=gamma,
    target_modules=["0", "1"],
)  # fmt: skip
assert config.task_type is None  # so that PEFT does not add the regulariser: it is added below, in training alone
model = get_peft_model(base, config)
for name, parameter in model.named_parameters():
    if ".ranknum." in name:
        parameter.requires_grad_(False)
trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
optimizer = torch.optim.AdamW(trained.values(), lr=0.05)


def regulariser():
    """Return PEFT's own: the mean of ‖AAᵀ − I‖ and ‖BᵀB − I‖ over all factors."""
    A = [p for name, p in trained.items() if ".lora_A." in name]
    B = [p.T for name, p in trained.items() if ".lora_B." in name]
    return torch.stack([torch.norm(p @ p.T - torch.eye(p.shape[0], device=p.device)) for p in A + B]).mean()


micro = [(torch.randn(16, 8).double(), torch.randn(16, 4).double()) for _ in range(2)]
for step in range(T):  # optimiser steps, each of them once
    for x, y in micro:
        (torch.nn.functional.mse_loss(model(x), y) / len(micro)).backward()
    (gamma * regulariser()).backward()  # once a step, not once a micro-batch
    for parameter in trained.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        assert torch.isfinite(parameter.grad).all()
    optimizer.step()
    model.base_model.update_and_allocate(step)  # after the optimiser, before the gradients are cleared
    optimizer.zero_grad()

with tempfile.TemporaryDirectory() as folder:  # in the last phase: what is masked is what is saved
    model.save_pretrained(folder)
    reloaded = PeftModel.from_pretrained(fresh, folder)
kept = sum(int((layer.lora_E["default"] != 0).sum()) for layer in base)
off = float((model(x) - reloaded(x)).detach().abs().max())
print(f"kept {kept} of a target of {config.target_r * len(base)}; reloaded outputs off by {off:.3f}")
