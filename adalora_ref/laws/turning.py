"""Products of inputs with orthogonal matrices, exact where the entries are eighths."""

from __future__ import annotations

import numpy as np

from adalora_ref.array import Array


def turned(*matrices: Array) -> Array:
    """The product, in the dtype of the first; formed in float64, since a 16-bit product would change its dtype."""
    product = matrices[0].astype(np.float64)
    for matrix in matrices[1:]:
        product = product @ matrix.astype(np.float64)
    return product.astype(matrices[0].dtype)
