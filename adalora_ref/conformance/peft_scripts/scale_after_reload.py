"""With `lora_alpha` ≤ 0 the scale is 1, but once reloaded it is the kept rank over the initial one."""

import copy
import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model

torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
fresh = copy.deepcopy(base)
config = AdaLoraConfig(init_r=4, target_r=2, tfinal=5, total_step=20, lora_alpha=0, target_modules=["0", "1"])
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
x, y = torch.randn(16, 8), torch.randn(16, 4)
for step in range(20):
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    reloaded = PeftModel.from_pretrained(fresh, folder)
scales = [[round(float(m.scaling["default"] / m.ranknum["default"].detach()), 3) for m in net] for net in (base, fresh)]
off = float((model(x) - reloaded(x)).detach().abs().max())

got = f"scales {scales[0]} in memory, {scales[1]} reloaded; outputs off by {off:.3f}"
expected = f"scales {scales[0]} in memory, {scales[0]} reloaded; outputs off by 0.000"
print(f"got      {got}\nexpected {expected}")
