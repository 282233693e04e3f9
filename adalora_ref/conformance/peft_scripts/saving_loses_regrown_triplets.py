"""Triplets that have grown back since the last allocation are cut out on saving: what is saved is another adapter."""

import copy
import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model

torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
fresh = copy.deepcopy(base)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=40, deltaT=10, lora_alpha=8, target_modules=["0", "1"])
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
x, y = torch.randn(16, 8), torch.randn(16, 4)
for step in range(26):  # the last allocation was at step 20
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    reloaded = PeftModel.from_pretrained(fresh, folder)
alive = [sum(int((layer.lora_E["default"] != 0).sum()) for layer in layers) for layers in (base, fresh)]
off = float((model(x) - reloaded(x)).detach().abs().max())

got = f"{alive[0]} triplets in memory, {alive[1]} in the saved adapter, whose outputs are off by {off:.3f}"
expected = f"{alive[0]} triplets in memory, {alive[0]} in the saved adapter, whose outputs are off by 0.000"
print(f"got      {got}\nexpected {expected}")
