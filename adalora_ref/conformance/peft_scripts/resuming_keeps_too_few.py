"""A run that is saved and resumed while pruning ends below its target; resumed in the last phase it crashes."""

import copy
import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model

torch.manual_seed(0)
x, y = torch.randn(16, 8), torch.randn(16, 4)


def train(model, steps):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in steps:
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()


def resumed_at(pause):
    """Count the triplets at the end of a run of 20 steps, saved and loaded before the step *pause*."""
    base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    fresh = copy.deepcopy(base)
    config = AdaLoraConfig(init_r=4, target_r=2, tfinal=5, total_step=20, target_modules=["0", "1"])
    model = get_peft_model(base, config)
    train(model, range(pause))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        resumed = PeftModel.from_pretrained(fresh, folder, is_trainable=True)
    try:
        train(resumed, range(pause, 20))
    except RuntimeError as error:
        return type(error).__name__
    return sum(int((layer.lora_E["default"] != 0).sum()) for layer in fresh)


got = f"kept at the end: {resumed_at(4)} if resumed at step 4, {resumed_at(18)} if resumed at step 18; target 4"
expected = "kept at the end: 4 if resumed at step 4, 4 if resumed at step 18; target 4"
print(f"got      {got}\nexpected {expected}")
