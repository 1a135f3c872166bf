"""The linear head: multinomial logistic regression with an L2 penalty, to convergence.

The loss is convex, so no seed decides the result. Every worker runs the same L-BFGS: it computes
the loss and its gradient over its share of the images, and `all_reduce` adds these up. Nothing else
is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.model.backbones import Weights

#: The penalty, and the largest gradient of the mean loss that may be left. Both were chosen by
#: measurement, and hold for any number of images (docs/pages/decisions.md).
L2, TOLERANCE = 10.0, 1e-5

#: Images that are converted to float64 at a time.
_ROWS = 4096

#: Steps that L-BFGS remembers, and the most that it takes. Some 50 to 150 are needed.
_MEMORY, _STEPS = 20, 2000


@dataclass(frozen=True)
class Progress:
    """`values`: the variables of all heads after a step, float64, to start from again. `loss`: the
    sum of the penalised losses of all heads, nats."""

    values: Array
    loss: float


def fit_linear(
    vectors: Array,
    truth: Array,
    weight: Array,
    labels: int,
    l2: float = L2,
    *,
    rank: int = 0,
    world: int = 1,
    all_reduce: Callable[[Array], Array] = lambda values: values,
    start: Array | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    tolerance: float = TOLERANCE,
) -> list[Weights]:
    """Linear heads, by name as in `head_logits`: for each a kernel float32 (width, labels) and a
    bias float32 (labels,).

    `vectors`: features (n, width); `truth`: label indices (n,); `weight`: of each image in the loss
    of each head, float (n, heads), 0 for images that a head must not see. A head minimises the
    weighted sum of the cross-entropies plus l2 / 2 times the sum of squares of its kernel, on
    features scaled by one number to a mean variance of 1. The bias is free, so every label needs an
    image in every head.

    All workers get the same arguments except `rank`, of `world`; `all_reduce` sums an array over
    them. `on_step` is called on all of them after the same steps. To resume, pass a Progress's
    `values` as `start`: the result is the same within the tolerance.
    """
    from scipy.optimize import minimize

    heads, width = weight.shape[1], vectors.shape[1]
    mean, scale = _mean_and_scale(vectors)
    own = slice(len(vectors) * rank // world, len(vectors) * (rank + 1) // world)
    x, y, w = vectors[own], truth[own], weight[own]
    biases = heads * labels

    def sums(values: Array) -> Array:
        """This worker's loss and gradient, without the penalty: (1 + size,)."""
        both = values.reshape(width + 1, biases)
        loss, gradient = 0.0, np.zeros_like(both)
        for first in range(0, len(x), _ROWS):
            rows = slice(first, first + _ROWS)
            features = (x[rows] - mean) / scale
            logits = (features @ both[:-1] + both[-1]).reshape(-1, heads, labels)
            logits -= logits.max(axis=2, keepdims=True)
            right = np.arange(len(features)), slice(None), y[rows]
            losses = -logits[right]
            np.exp(logits, out=logits)
            total = logits.sum(axis=2, keepdims=True)
            losses += np.log(total[:, :, 0])
            logits /= total
            logits[right] -= 1.0
            logits *= w[rows, :, None]
            residuals = logits.reshape(-1, biases)
            loss += float((w[rows] * losses).sum())
            gradient[:-1] += features.T @ residuals
            gradient[-1] += residuals.sum(axis=0)
        return np.concatenate([[loss], gradient.ravel()])

    def objective(values: Array) -> tuple[float, Array]:
        found, kernel = all_reduce(sums(values)), values[:-biases]
        gradient = found[1:].copy()
        gradient[:-biases] += l2 * kernel
        return float(found[0] + l2 / 2 * (kernel @ kernel)), gradient

    def step(intermediate_result: Any) -> None:
        on_step(Progress(intermediate_result.x, float(intermediate_result.fun)))

    found = minimize(
        objective,
        np.zeros((width + 1) * biases) if start is None else start,
        jac=True,
        method="L-BFGS-B",
        callback=step,
        options={
            "maxcor": _MEMORY,
            "maxiter": _STEPS,
            "maxfun": 2 * _STEPS,
            "ftol": 0.0,
            "gtol": tolerance * float(weight.sum(axis=0).min()),
        },
    )
    both = found.x.reshape(width + 1, heads, labels)
    return [_fold_scale(both[:-1, head], both[-1, head], mean, scale) for head in range(heads)]


def _mean_and_scale(vectors: Array) -> tuple[Array, float]:
    """The mean of each feature, float64 (width,), and the root of the mean of their variances.

    Not each feature's own deviation, which would blow up the noise of one that is nearly constant.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(vectors.var(axis=0, dtype=np.float64).mean()))
    return mean, scale or 1.0


def _fold_scale(kernel: Array, bias: Array, mean: Array, scale: float) -> Weights:
    """The head that does to features what kernel and bias do to centred, scaled ones."""
    kernel = kernel / scale
    return {
        "0000": kernel.astype(np.float32),
        "0001": (bias - mean @ kernel).astype(np.float32),
    }
