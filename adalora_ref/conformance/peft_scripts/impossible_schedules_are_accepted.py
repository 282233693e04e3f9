"""Schedules that must fail in training, or that mean nothing, pass the configuration."""

from peft import AdaLoraConfig

impossible = {
    "deltaT=0": {"deltaT": 0},
    "target_r above init_r": {"init_r": 2, "target_r": 4},
    "tfinal below 0": {"tfinal": -1},
    "target_r of 2.5": {"target_r": 2.5},
}
accepted = []
for name, settings in impossible.items():
    try:
        AdaLoraConfig(**({"init_r": 4, "target_r": 2, "total_step": 10} | settings))
        accepted.append(name)
    except (TypeError, ValueError):
        pass

got = f"accepted: {', '.join(accepted) or 'none'}"
expected = "accepted: none"
print(f"got      {got}\nexpected {expected}")
