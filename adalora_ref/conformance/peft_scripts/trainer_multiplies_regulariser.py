"""Under `Trainer` with gradient accumulation over k micro-batches the regulariser weighs k times what was set."""

import tempfile

import torch
from peft import AdaLoraConfig, get_peft_model
from transformers import PretrainedConfig, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput


class Net(torch.nn.Module):
    """A model whose loss follows the protocol of Trainer, as those of transformers do."""

    def __init__(self):
        super().__init__()
        self.config = PretrainedConfig()
        self.lin = torch.nn.Linear(8, 4)

    def forward(self, input_ids, labels, num_items_in_batch=None, **_):
        errors = (self.lin(input_ids) - labels).square()
        return SequenceClassifierOutput(loss=errors.sum() / (num_items_in_batch or errors.numel()))


class Watched(Trainer):
    def create_optimizer(self, *_):
        """Note the gradients as the optimiser will use them."""
        optimizer, layer = super().create_optimizer(), self.model.base_model.model.lin
        parts = layer.lora_E["default"], layer.lora_A["default"]
        optimizer.register_step_pre_hook(lambda *_: norms.append([float(p.grad.norm()) for p in parts]))
        return optimizer


torch.manual_seed(0)
norms = []  # before the first step E has a gradient of the task alone, and A one of the regulariser alone
data = [{"input_ids": torch.randn(8), "labels": torch.randn(4)} for _ in range(4)]
for k in (1, 4):
    torch.manual_seed(1)
    config = AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=["lin"], task_type="FEATURE_EXTRACTION")
    model = get_peft_model(Net(), config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=1, per_device_train_batch_size=4 // k, gradient_accumulation_steps=k,
            max_grad_norm=0.0, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            remove_unused_columns=False, use_cpu=True,
        )  # fmt: skip
        Watched(model, arguments, train_dataset=data).train()

task, regulariser = (after / before for before, after in zip(*norms, strict=True))
got = f"4 micro-batches instead of 1: the task's gradient × {task:.3f}, the regulariser's × {regulariser:.3f}"
expected = "4 micro-batches instead of 1: the task's gradient × 1.000, the regulariser's × 1.000"
print(f"got      {got}\nexpected {expected}")
