"""A checkpoint made after the first allocation does not load when a run is resumed as `Trainer` resumes it."""

import copy
import tempfile

import torch
from peft import AdaLoraConfig, get_peft_model

torch.manual_seed(0)
base = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
fresh = copy.deepcopy(base)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=20, target_modules=["0", "1"])
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for step in range(6):
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()

config = AdaLoraConfig(init_r=4, target_r=2, total_step=20, target_modules=["0", "1"])
resumed = get_peft_model(fresh, config)
got = expected = "the checkpoint loads"
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    try:
        resumed.load_adapter(folder, "default", is_trainable=True)  # what Trainer's resume_from_checkpoint calls
    except RuntimeError as error:
        got = f"RuntimeError: {str(error).splitlines()[-1].split(': ')[0].strip()}"
print(f"got      {got}\nexpected {expected}")
