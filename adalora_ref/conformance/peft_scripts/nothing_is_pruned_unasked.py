"""Nothing is pruned unless the training loop calls `update_and_allocate`; if it does not, nothing is said."""

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=1, tfinal=2, total_step=10, target_modules=["0", "1"])
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for _ in range(10):
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()

kept = sum(int((layer.lora_E["default"] != 0).sum()) for layer in base)
got = f"{kept} triplets after the last step; target 2"
expected = "2 triplets after the last step; target 2"
print(f"got      {got}\nexpected {expected}")
