"""An adapter whose name is part of a module's name, once pruned, cannot be saved."""

import tempfile
from collections import OrderedDict

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["lin0", "lin1"])
base = torch.nn.Sequential(OrderedDict(lin0=torch.nn.Linear(8, 8), lin1=torch.nn.Linear(8, 4)))
model = get_peft_model(base, config, adapter_name="lin")
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for step in range(5):
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()

got = expected = "the adapter is saved"
with tempfile.TemporaryDirectory() as folder:
    try:
        model.save_pretrained(folder)
    except KeyError as error:
        got = f"KeyError: {error}"
print(f"got      {got}\nexpected {expected}")
