"""A frozen adapter whose name begins with that of the trained one is taken for it, and the update crashes."""

import tempfile

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["0", "1"])
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
model = get_peft_model(base, config, adapter_name="new")
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    model.load_adapter(f"{folder}/new", "newest", is_trainable=False)
model(torch.randn(16, 8)).square().mean().backward()

got = expected = "the update runs"
try:
    model.base_model.update_and_allocate(1)
except TypeError as error:
    got = f"TypeError: {error}"
print(f"got      {got}\nexpected {expected}")
