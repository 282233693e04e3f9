"""A finished adapter, loaded and trained again from step 0 by its own configuration, ends with no triplet at all."""

import copy
import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model


def train(model):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(20):
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()


def kept(base):
    return sum(int((layer.lora_E["default"] != 0).sum()) for layer in base)


torch.manual_seed(0)
x, y = torch.randn(16, 8), torch.randn(16, 4)
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
fresh = copy.deepcopy(base)
config = AdaLoraConfig(init_r=4, target_r=2, tfinal=5, total_step=20, target_modules=["0", "1"])
model = get_peft_model(base, config)
train(model)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(fresh, folder, is_trainable=True)
try:
    train(again)
    got = f"{kept(base)} triplets after training, {kept(fresh)} after training again; target 4"
except RuntimeError as error:
    got = f"{kept(base)} triplets after training, then RuntimeError: {error}"
expected = "4 triplets after training, 4 after training again; target 4"
print(f"got      {got}\nexpected {expected}")
