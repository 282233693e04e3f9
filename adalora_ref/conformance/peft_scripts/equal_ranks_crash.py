"""With `init_r` equal to `target_r` there is nothing to drop, and the first allocation crashes."""

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
got = expected = "10 steps without an error, or a configuration that is refused"
try:
    config = AdaLoraConfig(init_r=4, target_r=4, total_step=10, target_modules=["0", "1"])
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(10):
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
except RuntimeError as error:
    got = f"step {step}: RuntimeError: {error}"
except ValueError:
    pass
print(f"got      {got}\nexpected {expected}")
