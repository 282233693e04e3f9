"""An allocation is forced at T − t_f; the authors' release has one there only if ΔT divides it, else a step later."""

import torch
from peft import AdaLoraConfig, get_peft_model

T, t_init, t_final, every = 15, 2, 4, 2
torch.manual_seed(0)
config = AdaLoraConfig(
    init_r=4, target_r=1, tinit=t_init, tfinal=t_final, total_step=T, deltaT=every, target_modules=["0", "1"]
)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)), config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
allocated, before = [], None
for step in range(T - t_final + 1):
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()
    pattern = model.peft_config["default"].rank_pattern
    if pattern is not before and pattern is not None:
        allocated.append(step)
    before = pattern

got = f"allocations at steps {allocated}"
# loralib, RankAllocator.schedule_threshold
released = [t for t in range(T - t_final + 1) if t > t_init and t % every == 0]
expected = f"allocations at steps {released}"
print(f"got      {got}\nexpected {expected}")
