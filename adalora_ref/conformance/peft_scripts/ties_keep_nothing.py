"""Every triplet whose score ties with the threshold is dropped, so equal scores leave none at all."""

import torch
from peft import AdaLoraConfig, get_peft_model


def kept_of(s):
    """Give each of two layers these singular values, all with the gradient 1, and count what an allocation keeps."""
    config = AdaLoraConfig(init_r=4, target_r=2, total_step=2, target_modules=["0", "1"])
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), config)
    for name, parameter in model.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
        if "lora_E" in name:
            parameter.data[:, 0] = torch.tensor(s)
            parameter.grad.fill_(1.0)
    model.base_model.update_and_allocate(1)  # the budget is 4 of 8
    return sum(sum(mask) for mask in model.peft_config["default"].rank_pattern.values())


kept = [kept_of(s) for s in ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 2.0, 2.0])]
got = "kept of 8 for a budget of 4: {} of zero scores, {} of equal ones, {} with two low and six equal".format(*kept)
expected = "kept of 8 for a budget of 4: 4 of zero scores, 4 of equal ones, 4 with two low and six equal"
print(f"got      {got}\nexpected {expected}")
