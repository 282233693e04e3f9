"""On a base that is not float32 the optimiser trains `ranknum`, so the scale drifts; saving forgets where it went."""

import copy
import tempfile

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model

torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)).bfloat16()
fresh = copy.deepcopy(base)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=100, tinit=90, lora_alpha=8, target_modules=["0", "1"])
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
x, y = torch.randn(16, 8).bfloat16(), torch.randn(16, 4).bfloat16()
for step in range(40):
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()

ranks = [float(layer.ranknum["default"].detach()) for layer in base]
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    reloaded = PeftModel.from_pretrained(fresh, folder)
off = float((model(x) - reloaded(x)).detach().abs().max())

got = f"ranknum {ranks[0]:.3f} and {ranks[1]:.3f}; outputs of the reloaded adapter off by {off:.3f}"
expected = "ranknum 4.000 and 4.000; outputs of the reloaded adapter off by 0.000"
print(f"got      {got}\nexpected {expected}")
