"""An adapted layer that the loss does not reach in a step has no gradient, and the update crashes."""

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["0", "1"])
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
model = get_peft_model(base, config)
base[0](torch.randn(16, 8)).square().mean().backward()  # a branch without the second layer

got = expected = "the update runs"
try:
    model.base_model.update_and_allocate(0)
except TypeError as error:
    got = f"TypeError: {error}"
print(f"got      {got}\nexpected {expected}")
