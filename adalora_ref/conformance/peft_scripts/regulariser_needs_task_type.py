"""Without `task_type` the orthogonality regulariser never reaches the loss."""

from types import SimpleNamespace

import torch
from peft import AdaLoraConfig, get_peft_model


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(8, 4)

    def forward(self, x, labels):
        return SimpleNamespace(loss=torch.nn.functional.mse_loss(self.lin(x), labels))


torch.manual_seed(0)
config = AdaLoraConfig(init_r=4, target_r=2, total_step=100, orth_reg_weight=0.5, target_modules=["lin"])
base = Net()
x, labels = torch.randn(16, 8), torch.randn(16, 4)
task = float(base(x, labels).loss)  # the adapter adds nothing yet
model = get_peft_model(base, config)
added = float(model(x, labels).loss) - task

A, B = base.lin.lora_A["default"], base.lin.lora_B["default"]
norms = [torch.norm(A @ A.T - torch.eye(4)), torch.norm(B.T @ B - torch.eye(4))]
got = f"the regulariser adds {added:.4f} to the loss"
expected = f"the regulariser adds {0.5 * float(sum(norms)) / 2:.4f} to the loss"
print(f"got      {got}\nexpected {expected}")
