"""The regulariser is in the loss of evaluation too, and in that of the bare base model under `disable_adapter`."""

from types import SimpleNamespace

import torch
from peft import AdaLoraConfig, get_peft_model


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"model_type": "custom"}
        self.lin = torch.nn.Linear(8, 4)

    def forward(self, input_ids, labels, **_):
        return SimpleNamespace(loss=torch.nn.functional.mse_loss(self.lin(input_ids), labels))


torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=["lin"], task_type="FEATURE_EXTRACTION")
x, labels = torch.randn(16, 8), torch.randn(16, 4)
base = Net()
task = float(base(x, labels).loss)  # the adapter adds nothing to the outputs yet
model = get_peft_model(base, config).eval()
with torch.no_grad(), model.disable_adapter():
    disabled = float(model(input_ids=x, labels=labels).loss) - task
with torch.no_grad():
    evaluated = float(model(input_ids=x, labels=labels).loss) - task

got = f"added to the loss: {evaluated:.4f} under eval(), {disabled:.4f} under disable_adapter()"
expected = "added to the loss: 0.0000 under eval(), 0.0000 under disable_adapter()"
print(f"got      {got}\nexpected {expected}")
