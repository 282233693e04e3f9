"""The regulariser is the mean of the norms over the 2n factors; the paper's is the sum of their squares."""

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
config = AdaLoraConfig(
    init_r=4, target_r=2, total_step=9, orth_reg_weight=1.0, target_modules=["lin"], task_type="FEATURE_EXTRACTION"
)
x, labels = torch.randn(16, 8), torch.randn(16, 4)
base = Net()
task = float(base(x, labels).loss)  # the adapter adds nothing to the outputs yet
model = get_peft_model(base, config)
added = float(model(input_ids=x, labels=labels).loss.detach()) - task

A, B = base.lin.lora_A["default"].detach(), base.lin.lora_B["default"].detach()
norms = [float(torch.norm(A @ A.T - torch.eye(4))), float(torch.norm(B.T @ B - torch.eye(4)))]
got = f"a regulariser of {added:.4f}"
expected = f"a regulariser of {sum(norm**2 for norm in norms):.4f}"
print(f"got      {got}\nexpected {expected}")
