"""A gradient that overflows once, in a step that a GradScaler skips, makes a score NaN, and NaN is always kept."""

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=1, tfinal=2, total_step=10, target_modules=["0", "1"])
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)), config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
E = model.base_model.model[0].lora_E["default"]
for step in range(10):
    model(torch.randn(16, 8)).square().mean().backward()
    E.grad[1] = 0.0  # the singular value of this triplet never moves: it is the least important of all
    if step == 0:
        E.grad[1] = float("inf")
    else:
        optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()

pattern = model.peft_config["default"].rank_pattern["0.lora_E.default"]
got = f"a triplet that never moved, with one infinite gradient in its past, is {'kept' if pattern[1] else 'dropped'}"
expected = "a triplet that never moved, with one infinite gradient in its past, is dropped"
print(f"got      {got}\nexpected {expected}")
