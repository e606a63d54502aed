"""Temperature and bias of the logits.

Everything here looks at voxels with a probability above 0 only: the model's **domain**. A network with a restricted
objective (`loss.restrict_hu`) says nothing about darker voxels, and outside its region of interest there is no
prediction; both are exactly 0, in memory and in saved files. So all values can be computed again from a probability
map and a label without knowing the region or the scan: take the voxels where the map is above 0.

Voxels come as *parts*, one a series: a pair of flat arrays, probabilities (float32) and labels (bool). Parts may be
memory-mapped; each is looked at by itself, so that memory does not grow with the number of series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Part = tuple[NDArray[np.float32], NDArray[np.bool_]]

LOWEST, HIGHEST = np.float32(1e-20), np.float32(1 - 1e-7)
"""Probabilities are clipped to this before a logarithm. Overconfident background lies far below 1e-7 in float32: cut
there, logits that are three times too large could not be divided back. Near 1 float32 ends at about 1 - 1e-7."""

FIT_VOXELS = 500_000
"""Most voxels that temperature and bias are fitted on."""
TEMPERATURES = (0.05, 20.0)
"""Limits of the temperature; a model that reaches one separates perfectly, or knows nothing."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Calibrated logit = logit / temperature + bias (Guo et al. 2017; with a bias: Platt 1999).

    Attributes:
        temperature: above 1 where the model was too sure.
        bias: of the logit.
        at_limit: the likelihood wanted a temperature beyond `TEMPERATURES`.
    """

    temperature: float
    bias: float
    at_limit: bool = False


def apply(probability: NDArray[np.floating], temperature: float, bias: float) -> NDArray[np.float32]:
    """Calibrated probabilities `sigmoid(logit(p) / temperature + bias)`, clipped to [`LOWEST`, `HIGHEST`].

    Exact zeros stay zeros: the model says nothing there. float32 in, the same shape out.
    """
    result = np.zeros_like(probability, dtype=np.float32, subok=False)
    # Slice by slice as they lie in memory: a whole head in float64 several times over takes a gigabyte.
    first = np.argmax(probability.strides)
    slices = np.moveaxis(probability, first, 0), np.moveaxis(result, first, 0)
    for raw, calibrated in zip(*slices, strict=True) if probability.ndim > 1 else [slices]:
        says = raw > 0  # few voxels, and the functions are slow
        logit = _logit(raw[says]) / temperature + bias
        calibrated[says] = np.clip(special.expit(logit).astype(np.float32), LOWEST, HIGHEST)
    return result


def calibrated_half(temperature: float, bias: float) -> float:
    """Where the calibrated probability lies of a voxel whose uncalibrated one is 0.5.

    `apply` keeps order and rounds alike wherever it is called, so a calibrated map at or above this is the mask of the
    uncalibrated network at 0.5, but for probabilities that float32 no longer tells from 0.5 after scaling.
    """
    return float(apply(np.array([0.5], np.float32), temperature, bias)[0])


def sample(
    parts: Sequence[Part], seed: int, limit: int = FIT_VOXELS
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """At most `limit` voxels, as many with as without lesion where there are enough, and their weights.

    Within each of the two kinds every voxel of all parts has the same chance (simple random sampling without
    replacement). A voxel weighs one over its chance of being drawn, so that a weighted sum over the sample is an
    unbiased estimate of the sum over all voxels. Nothing is drawn where all fit.

    Returns:
        Probabilities, labels and weights, `[n]` each.
    """
    rng = np.random.default_rng([seed, 1])
    counts = {kind: np.array([int((y == kind).sum()) for _, y in parts]) for kind in (True, False)}
    lesion = min(int(counts[True].sum()), max(limit // 2, limit - int(counts[False].sum())))
    wanted = {True: lesion, False: min(int(counts[False].sum()), limit - lesion)}
    drawn_p, drawn_y, drawn_w = [], [], []
    for kind, n in wanted.items():
        if not n:
            continue
        total = int(counts[kind].sum())
        shares = rng.multivariate_hypergeometric(counts[kind], n, method="marginals")
        for (p, y), have, take in zip(parts, counts[kind], shares, strict=True):
            places = np.flatnonzero(y == kind)
            if take < have:
                places = np.sort(rng.choice(places, take, replace=False, shuffle=False))
            drawn_p.append(np.asarray(p[places]))
            drawn_y.append(np.full(len(places), kind))
            drawn_w.append(np.full(len(places), total / n))
    return np.concatenate(drawn_p), np.concatenate(drawn_y), np.concatenate(drawn_w)


def fit(probability: NDArray[np.floating], label: NDArray[np.bool_], weight: NDArray[np.floating]) -> Scaling:
    """Temperature and bias of the greatest weighted likelihood, the temperature within `TEMPERATURES`.

    The negative log-likelihood is convex in (1 / temperature, bias): where the best temperature lies beyond a limit,
    the best bias for the limit is the solution.

    Args:
        probability: `[n]` above 0.
        label: `[n]`; both kinds must be there.
        weight: `[n]` above 0.

    Raises:
        ValueError: with only one kind of voxels.
    """
    y, w, z = label.astype(np.float64), weight / weight.sum(), _logit(probability)
    if not label.any() or label.all():
        raise ValueError("temperature and bias need voxels with and without lesion")
    features = np.stack([z, np.ones_like(z)])

    def newton(free: slice, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Minimise over the free ones of (1 / temperature, bias)."""
        x = features[free]

        def both(theta: NDArray[np.float64]) -> NDArray[np.float64]:
            full = start.copy()
            full[free] = theta
            return full @ features

        def loss(theta: NDArray[np.float64]) -> float:
            logit = both(theta)
            return float(w @ (np.logaddexp(0, logit) - y * logit))

        def gradient(theta: NDArray[np.float64]) -> NDArray[np.float64]:
            return x @ (w * (special.expit(both(theta)) - y))

        def hessian(theta: NDArray[np.float64]) -> NDArray[np.float64]:
            q = special.expit(both(theta))
            return (x * (w * q * (1 - q))) @ x.T

        # Lesions are rare: their share of the gradient is small, and so must be the tolerance.
        result = optimize.minimize(
            loss, start[free], jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9 * float(w @ y)}
        )
        best = start.copy()
        best[free] = result.x
        return best

    slope, bias = newton(slice(0, 2), np.array([1.0, 0.0]))
    lowest, highest = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    at_limit = not lowest <= slope <= highest
    if at_limit:
        slope, bias = newton(slice(1, 2), np.array([np.clip(slope, lowest, highest), 0.0]))
    return Scaling(temperature=float(1 / slope), bias=float(bias), at_limit=at_limit)


def _logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    logit: NDArray[np.float64] = special.logit(np.clip(probability, LOWEST, HIGHEST).astype(np.float64))
    return logit
