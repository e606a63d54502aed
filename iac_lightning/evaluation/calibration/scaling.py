"""Temperature and bias of the logits, for all scans alike or by slice thickness.

Everything here looks at voxels with a probability above 0 only: the model's **domain**. A network with a restricted
objective (`loss.restrict_hu`) says nothing about darker voxels, and outside its region of interest there is no
prediction; both are exactly 0, in memory and in saved files. So all values can be computed again from a probability
map and a label without knowing the region or the scan: take the voxels where the map is above 0.

Voxels come as *parts*, one a series: a pair of flat arrays, probabilities (float32) and labels (bool). Parts may be
memory-mapped; each is looked at by itself, so that memory does not grow with the number of series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Part = tuple[NDArray[np.float32], NDArray[np.bool_]]

Drawn = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]
"""Probabilities, labels and weights of some voxels, `[n]` each."""

LOWEST, HIGHEST = np.float32(1e-20), np.float32(1 - 1e-7)
"""Probabilities are clipped to this before a logarithm. Overconfident background lies far below 1e-7 in float32: cut
there, logits that are three times too large could not be divided back. Near 1 float32 ends at about 1 - 1e-7."""

FIT_VOXELS = 500_000
"""Most voxels that temperature and bias are fitted on."""
TEMPERATURES = (0.05, 20.0)
"""Limits of the temperature; a model that reaches one separates perfectly, or knows nothing."""


class ThicknessTerm(NamedTuple):
    """How the scaling changes with slice thickness: by x = log(thickness / geometric mean of thinnest and thickest).

    Attributes:
        slope: added to 1 / temperature for each x.
        bias: added to the bias for each x.
        thinnest_mm: of the development scans; what is thinner is scaled like it, for nothing is known of it.
        thickest_mm: likewise.
    """

    slope: float
    bias: float
    thinnest_mm: float
    thickest_mm: float

    def at(self, slice_thickness_mm: ArrayLike) -> NDArray[np.float64]:
        """The x of scans or voxels."""
        return log_thickness(slice_thickness_mm, self.thinnest_mm, self.thickest_mm)


def log_thickness(slice_thickness_mm: ArrayLike, thinnest_mm: float, thickest_mm: float) -> NDArray[np.float64]:
    """The x of `ThicknessTerm`, of scans or voxels."""
    known = np.clip(np.asarray(slice_thickness_mm, dtype=np.float64), thinnest_mm, thickest_mm)
    x: NDArray[np.float64] = np.log(known / np.sqrt(thinnest_mm * thickest_mm))
    return x


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Calibrated logit = logit / temperature + bias (Guo et al. 2017; with a bias: Platt 1999).

    Attributes:
        temperature: above 1 where the model was too sure.
        bias: of the logit.
        at_limit: the likelihood wanted a temperature beyond `TEMPERATURES`.
        by_thickness: how both change with slice thickness; None: not at all.
    """

    temperature: float
    bias: float
    at_limit: bool = False
    by_thickness: ThicknessTerm | None = None

    def of(self, slice_thickness_mm: float) -> Scaling:
        """Of one scan: its own temperature, within `TEMPERATURES`, and its own bias."""
        if self.by_thickness is None:
            return self
        x = float(self.by_thickness.at(slice_thickness_mm))
        slope = np.clip(1 / self.temperature + self.by_thickness.slope * x, 1 / TEMPERATURES[1], 1 / TEMPERATURES[0])
        return Scaling(temperature=float(1 / slope), bias=self.bias + self.by_thickness.bias * x)


IDENTITY = Scaling(temperature=1.0, bias=0.0)
"""Leaves probabilities as they are."""


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


def undo(probability: NDArray[np.floating], temperature: float, bias: float) -> NDArray[np.float32]:
    """Uncalibrated probabilities of calibrated ones: `apply` backwards, as far as float32 tells them apart.

    Near 1 it ends at 1 - 1e-7: with a temperature below 1 the surest probabilities become one.
    """
    return apply(probability, 1 / temperature, -bias * temperature)


def calibrated_half(temperature: float, bias: float) -> float:
    """Where the calibrated probability lies of a voxel whose uncalibrated one is 0.5.

    `apply` keeps order and rounds alike wherever it is called, so a calibrated map at or above this is the mask of the
    uncalibrated network at 0.5, but for probabilities that float32 no longer tells from 0.5 after scaling.
    """
    return float(apply(np.array([0.5], np.float32), temperature, bias)[0])


def thinned(parts: Sequence[Part], seed: int, limit: int = FIT_VOXELS) -> list[Drawn]:
    """At most `limit` voxels, as many with as without lesion where there are enough, and their weights.

    Within each of the two kinds every voxel of all parts has the same chance (simple random sampling without
    replacement). A voxel weighs one over its chance of being drawn, so that a weighted sum over the sample is an
    unbiased estimate of the sum over all voxels, or over those of some parts. Nothing is drawn where all fit.

    Returns:
        What was drawn of each part.
    """
    rng = np.random.default_rng([seed, 1])
    counts = {kind: np.array([int((y == kind).sum()) for _, y in parts]) for kind in (True, False)}
    lesion = min(int(counts[True].sum()), max(limit // 2, limit - int(counts[False].sum())))
    wanted = {True: lesion, False: min(int(counts[False].sum()), limit - lesion)}
    drawn: list[list[Drawn]] = [[] for _ in parts]
    for kind, n in wanted.items():
        if not n:
            continue
        total = int(counts[kind].sum())
        shares = rng.multivariate_hypergeometric(counts[kind], n, method="marginals")
        for (p, y), have, take, of_part in zip(parts, counts[kind], shares, drawn, strict=True):
            places = np.flatnonzero(y == kind)
            if take < have:
                places = np.sort(rng.choice(places, take, replace=False, shuffle=False))
            of_part.append((np.asarray(p[places]), np.full(len(places), kind), np.full(len(places), total / n)))
    return [joined(of_part) for of_part in drawn]


def joined(drawn: Iterable[Drawn]) -> Drawn:
    """Several draws as one."""
    nothing = np.empty(0, np.float32), np.empty(0, bool), np.empty(0)
    p, y, w = zip(nothing, *drawn, strict=True)
    return np.concatenate(p), np.concatenate(y), np.concatenate(w)


def sample(parts: Sequence[Part], seed: int, limit: int = FIT_VOXELS) -> Drawn:
    """`thinned`, all parts together."""
    return joined(thinned(parts, seed, limit))


def fit(
    probability: NDArray[np.floating],
    label: NDArray[np.bool_],
    weight: NDArray[np.floating],
    thickness_mm: ArrayLike | None = None,
    near: Scaling = IDENTITY,
) -> Scaling:
    """Temperature and bias of the greatest weighted likelihood, the temperature within `TEMPERATURES`.

    The negative log-likelihood is convex in (1 / temperature, bias), and in what is added to both by slice thickness:
    where the best temperature lies beyond a limit, the best of the others for the limit is the solution.

    Args:
        probability: `[n]` above 0.
        label: `[n]`; both kinds must be there.
        weight: `[n]` above 0.
        thickness_mm: `[n]` of each voxel's scan, of at least two kinds; None: the same scaling for all scans.
        near: where to begin; it decides how soon the solution is found, not which it is.

    Raises:
        ValueError: with only one kind of voxels.
    """
    y, w, z = label.astype(np.float64), weight / weight.sum(), _logit(probability)
    if not label.any() or label.all():
        raise ValueError("temperature and bias need voxels with and without lesion")
    rows = [z, np.ones_like(z)]
    ends = (0.0, 0.0)
    if thickness_mm is not None:
        ends = float(np.min(thickness_mm)), float(np.max(thickness_mm))
        x = log_thickness(thickness_mm, *ends)
        rows += [x * z, x]
    features = np.stack(rows)

    def newton(free: slice, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Minimise over the free ones of (1 / temperature, bias, what is added to both)."""
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

    start = np.zeros(len(rows))
    start[:2] = 1 / near.temperature, near.bias
    found = newton(slice(0, None), start)
    lowest, highest = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    at_limit = not lowest <= found[0] <= highest
    if at_limit:
        start[0] = np.clip(found[0], lowest, highest)
        found = newton(slice(1, None), start)
    term = None
    if thickness_mm is not None:
        term = ThicknessTerm(slope=float(found[2]), bias=float(found[3]), thinnest_mm=ends[0], thickest_mm=ends[1])
    return Scaling(temperature=float(1 / found[0]), bias=float(found[1]), at_limit=at_limit, by_thickness=term)


def _logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    logit: NDArray[np.float64] = special.logit(np.clip(probability, LOWEST, HIGHEST).astype(np.float64))
    return logit
