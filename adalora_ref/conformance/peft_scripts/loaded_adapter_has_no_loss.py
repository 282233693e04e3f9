"""An adapter loaded for inference cannot be evaluated with labels: the forward pass looks for a trainable adapter."""

import copy
import tempfile
from types import SimpleNamespace

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"model_type": "custom"}
        self.lin = torch.nn.Linear(8, 4)

    def forward(self, input_ids, labels, **_):
        return SimpleNamespace(loss=torch.nn.functional.mse_loss(self.lin(input_ids), labels))


torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=["lin"], task_type="FEATURE_EXTRACTION")
base = Net()
fresh = copy.deepcopy(base)
with tempfile.TemporaryDirectory() as folder:
    get_peft_model(base, config).save_pretrained(folder)
    loaded = PeftModel.from_pretrained(fresh, folder)

got = expected = "a loss"
try:
    loaded(input_ids=torch.randn(16, 8), labels=torch.randn(16, 4))
except AttributeError as error:
    got = f"AttributeError: {error}"
print(f"got      {got}\nexpected {expected}")
