"""The conformance kit: stages, oracles, bounds, known mistakes, and the ways in for other implementations."""

from adalora_ref.conformance.jax_target import jax_layer
from adalora_ref.conformance.torch_target import torch_layer

__all__ = ["jax_layer", "torch_layer"]
