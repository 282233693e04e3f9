"""The conformance kit: stages, oracles, bounds, known mistakes, and the ways in for other implementations."""

from adalora_ref.conformance.jax_target import jax_layer
from adalora_ref.conformance.pytest_suite import conformance_checks
from adalora_ref.conformance.torch_target import torch_layer

__all__ = ["conformance_checks", "jax_layer", "torch_layer"]
