"""A convolution with groups is adapted without complaint, and its first forward pass crashes."""

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, groups=2))
got = expected = "a forward pass, or a layer that is refused"
try:
    model = get_peft_model(base, AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["0"]))
    model(torch.randn(1, 4, 6, 6))
except RuntimeError as error:
    got = f"RuntimeError: {error}"
except ValueError:
    pass
print(f"got      {got}\nexpected {expected}")
