"""A run that steps over T − t_f stays with the last pattern of the pruning phase, above the target; nothing is said."""

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
config = AdaLoraConfig(init_r=8, target_r=1, tfinal=5, total_step=20, deltaT=8, target_modules=["0", "1"])
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for step in range(0, 20, 2):  # T − t_f = 15 is not among them
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()

kept = sum(int((layer.lora_E["default"] != 0).sum()) for layer in base)
got = f"{kept} triplets after the last step; target 2"
expected = "2 triplets after the last step; target 2"
print(f"got      {got}\nexpected {expected}")
