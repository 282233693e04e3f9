"""Two losses, each with its gradient."""

from __future__ import annotations

import math

from jaxtyping import Float, Integer

from adalora_ref.array import Array, cast, device, dtype_name, namespace, promote, require_arrays, require_floating


def cross_entropy(
    logits: Float[Array, "*n classes"], labels: Integer[Array, "*n"], /
) -> tuple[Float[Array, ""], Float[Array, "*n classes"]]:
    """Mean over samples of log Σ_c exp(z_c) − z_label, in nats, and its gradient (softmax(z) − onehot) / n.

    Raises
    ------
    TypeError, ValueError
        If *labels* are not integers in [0, classes) of logits' leading shape, or there is no sample.

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> float(np.exp(loss)), dlogits
    (2.0, array([[ 0.5, -0.5]]))

    References
    ----------
    Specification (19).
    """
    require_arrays(logits=logits, labels=labels)
    require_floating(logits)
    xp = namespace(logits, labels)
    if not dtype_name(labels).startswith(("int", "uint")):
        raise TypeError(f"labels must be integers; got {labels.dtype}")
    if len(logits.shape) < 1 or labels.shape != logits.shape[:-1] or 0 in logits.shape:
        raise ValueError(
            "logits and labels must be (*n, classes) and (*n,) with at least one sample and one class; "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    classes = logits.shape[-1]
    index = xp.arange(classes, device=device(labels))  # (classes,)
    labels = cast(labels, index.dtype)  # a narrow dtype may not hold the number of classes
    if not bool(xp.all((labels >= 0) & (labels < classes))):
        raise ValueError(f"labels must lie in [0, {classes}); got {int(xp.min(labels))} to {int(xp.max(labels))}")
    dtype, (z,) = promote(logits)
    hot = labels[..., None] == index  # (*n, classes)
    z = z - xp.max(z, axis=-1, keepdims=True)  # (*n, classes)
    exp = xp.exp(z)  # (*n, classes)
    total = xp.sum(exp, axis=-1, keepdims=True)  # (*n, 1)
    loss = xp.mean(xp.log(total[..., 0]) - xp.sum(xp.where(hot, z, xp.zeros_like(z)), axis=-1))  # ()
    dlogits = (exp / total - cast(hot, z.dtype)) / math.prod(labels.shape)  # (*n, classes)
    return cast(loss, dtype), cast(dlogits, dtype)


def mean_square(
    output: Float[Array, "*n"], target: Float[Array, "*n"], /
) -> tuple[Float[Array, ""], Float[Array, "*n"]]:
    """Mean over all elements of (output − target)², and its gradient 2 (output − target) / size.

    Raises
    ------
    ValueError
        If the shapes differ (nothing is broadcast) or there is no element.

    Examples
    --------
    >>> import numpy as np
    >>> loss, doutput = mean_square(np.array([[3.0, 1.0]]), np.array([[1.0, 1.0]]))
    >>> float(loss), doutput
    (2.0, array([[2., 0.]]))

    References
    ----------
    Specification (20).
    """
    require_arrays(output=output, target=target)
    xp = namespace(output, target)
    if output.shape != target.shape or 0 in output.shape:
        raise ValueError(
            "output and target must have one shape with at least one element; "
            f"got {tuple(output.shape)} and {tuple(target.shape)}"
        )
    dtype, (output, target) = promote(output, target)
    difference = output - target  # (*n)
    loss = xp.mean(difference * difference)  # ()
    return cast(loss, dtype), cast(2.0 * difference / math.prod(output.shape), dtype)
