"""`use_rslora` and `alpha_pattern`, which the configuration takes over from LoRA, are ignored without a word."""

import warnings

import torch
from peft import AdaLoraConfig, get_peft_model


def scale(**options):
    """Return the scale of a layer of rank 4 with lora_alpha 8; None if the option is refused or warned of."""
    base = torch.nn.Sequential(torch.nn.Linear(8, 4))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = AdaLoraConfig(init_r=4, target_r=2, total_step=9, lora_alpha=8, target_modules=["0"], **options)
            get_peft_model(base, config)
    except (ValueError, Warning):
        return None
    return round(float(base[0].scaling["default"] / base[0].ranknum["default"].detach()), 3)


scales = scale(use_rslora=True) or 4.0, scale(alpha_pattern={"0": 32}) or 8.0
got = f"scale {scales[0]} with use_rslora, {scales[1]} with an alpha_pattern of 32"
expected = "scale 4.0 with use_rslora, 8.0 with an alpha_pattern of 32"
print(f"got      {got}\nexpected {expected}")
