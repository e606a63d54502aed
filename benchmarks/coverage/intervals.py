"""Coverage of every kind of interval: simulated samples go through the functions that make those of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.coverage import populations
from benchmarks.coverage.populations import Floats, Patients, scans
from iac_lightning.evaluation.statistics import agreement, jackknife
from iac_lightning.evaluation.statistics.classification import auc_ci, disagreement_share, weighted_kappa
from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS, Kind, mean_ends, mean_spread
from iac_lightning.evaluation.statistics.jackknife import Scale, ratio
from iac_lightning.evaluation.statistics.thickness import line_columns, line_slope
from iac_lightning.evaluation.statistics.two_level import percentile_interval, two_level, weighted_means

Ends = tuple[Floats, Floats]
Draw = Callable[[Patients], tuple[Floats, Ends]]
"""Simulates samples: values of the statistic `[samples]`, and both ends of their intervals, nan where there is none."""

TRUTH_PATIENTS = 400_000
FEWEST = 0.05
"""Share of samples with an interval below which a coverage says nothing."""


@dataclass(frozen=True)
class Simulated:
    """A kind of interval on a kind of data.

    Attributes:
        name: as the table calls it.
        draw: simulates it.
        truth_patients: of the one large sample that the true value comes from.
        at_most: samples at most, of what is slow.
    """

    name: str
    draw: Draw
    truth_patients: int = TRUTH_PATIENTS
    at_most: int = 1_000_000


def coverage(what: Simulated, sizes: Sequence[int], samples: int, seed: int) -> dict[int, tuple[float, float]]:
    """By number of patients, the share of the intervals that hold the true value and that of samples that have one."""
    values, _ = what.draw(Patients(np.random.default_rng([seed, 0]), 1, what.truth_patients))
    found = {}
    for patients in sizes:
        rng = np.random.default_rng([seed, patients])
        _, (low, high) = what.draw(Patients(rng, min(samples, what.at_most), patients))
        there = ~np.isnan(low)
        held = ((low <= values[0]) & (values[0] <= high))[there]
        found[patients] = float(held.mean()) if there.mean() >= FEWEST else float("nan"), float(there.mean())
    return found


# --- means ------------------------------------------------------------------------------------------------------------


def _mean(draw: Callable[[Patients], Floats], kind: Kind) -> Draw:
    def simulate(p: Patients) -> tuple[Floats, Ends]:
        there, x = scans(p), draw(p)
        sums, count, squares = ((there * v).sum(axis=2) for v in (x, np.ones_like(x), x**2))
        spread = mean_spread(sums, count, squares, kind)
        return spread.estimate, mean_ends(spread, kind, p.patients)

    return simulate


def _percentile_mean(draw: Callable[[Patients], Floats]) -> Draw:
    """The bootstrap over patients that intervals came from before, for comparison."""

    def simulate(p: Patients) -> tuple[Floats, Ends]:
        there, x = scans(p), draw(p)
        sums, count = (there * x).sum(axis=2), there.sum(axis=2).astype(np.float64)
        estimate = sums.sum(axis=1) / count.sum(axis=1)
        if p.samples == 1:  # the truth
            return estimate, (estimate, estimate)
        means = []
        for _ in range(500):
            drawn = p.rng.integers(p.patients, size=(p.samples, p.patients))
            chosen = (np.take_along_axis(v, drawn, axis=1).sum(axis=1) for v in (sums, count))
            means.append(np.divide(*chosen))
        low, high = np.quantile(means, [0.025, 0.975], axis=0)
        return estimate, (low, high)

    return simulate


def _difference(models: Callable[[Patients], tuple[Floats, Floats]]) -> Callable[[Patients], Floats]:
    return lambda p: np.subtract(*models(p))


def _volume_error(scale: float) -> Callable[[Patients], Floats]:
    def error(p: Patients) -> Floats:
        predicted, label = populations.volumes_mm3(p)
        return scale * predicted - label

    return error


def _right_group(p: Patients) -> Floats:
    predicted, label = populations.volumes_mm3(p)
    return (populations.risk_group(predicted) == populations.risk_group(label)).astype(np.float64)


def _two_level_difference(p: Patients) -> tuple[Floats, Ends]:
    """Two recipes of a sweep with one seed each, patients drawn."""
    there, (a, b) = scans(p), populations.two_models(p)
    sums, count = (there * np.stack([a, b])).sum(axis=3), there.sum(axis=2).astype(np.float64)
    estimate = (sums[0].sum(axis=1) - sums[1].sum(axis=1)) / count.sum(axis=1)
    if p.samples == 1:
        return estimate, (estimate, estimate)
    ends = np.full((2, p.samples), np.nan)
    for k in range(p.samples):
        means = weighted_means(sums[:, k][:, None], count[k])
        drawn = two_level(means, [1, 1], count[k], seed=k, resamples=1_000).resampled[:, :, 0]
        ends[:, k] = percentile_interval(drawn[:, 0] - drawn[:, 1])
    return estimate, (ends[0], ends[1])


# --- what sums over scans decide --------------------------------------------------------------------------------------


def _of_sums(
    columns: Floats, statistic: jackknife.Statistic, leverage: Floats, size: Floats | None, scale: Scale
) -> tuple[Floats, Ends]:
    """Columns `[samples, patients, 3, k]` of 0 where there is no scan; leverage and size `[samples, patients]`."""
    spread = jackknife.leave_one_out(columns.sum(axis=2), statistic, leverage, size)
    return spread.estimate, jackknife.student_interval(spread, scale)


def _slope(per_mm: float) -> Draw:
    def simulate(p: Patients) -> tuple[Floats, Ends]:
        there, mm = scans(p), populations.thickness_mm(p)
        y = populations.dice(p, 0.05, per_mm, mm)
        x = mm - (mm * there).sum(axis=(1, 2), keepdims=True) / there.sum(axis=(1, 2), keepdims=True)
        return _of_sums(
            line_columns(x, y) * there[..., None], line_slope, (x**2 * there).sum(axis=2), None, jackknife.REAL
        )

    return simulate


def _within_slope(value: Callable[[Patients, Floats], Floats]) -> Draw:
    def simulate(p: Patients) -> tuple[Floats, Ends]:
        there, mm = scans(p), populations.thickness_mm(p)
        y = value(p, mm)
        x, y = (
            np.where(there, v - (v * there).sum(2, keepdims=True) / there.sum(2, keepdims=True), 0) for v in (mm, y)
        )
        leverage = (x**2).sum(axis=2)
        estimate, ends = _of_sums(
            np.stack([x * y, x**2], axis=-1), lambda s: ratio(s[..., 0], s[..., 1]), leverage, None, jackknife.REAL
        )
        few = (leverage > 1e-9).sum(axis=1) < min(MIN_PATIENTS, p.patients)
        low, high = (np.where(few, np.nan, end) for end in ends)
        return estimate, (low, high)

    return simulate


def _agreement(coefficient: jackknife.Statistic) -> Draw:
    def simulate(p: Patients) -> tuple[Floats, Ends]:
        there = scans(p)
        ratings = np.stack(populations.volumes_mm3(p), axis=-1)
        count = there.sum(axis=(1, 2))[:, None, None, None]
        deviation = ratings - (ratings * there[..., None]).sum(axis=(1, 2), keepdims=True) / count
        size = (deviation**2 * there[..., None]).sum(axis=(2, 3))
        columns = agreement.rating_columns(ratings) * there[..., None]
        return _of_sums(columns, coefficient, there.sum(axis=2).astype(float), size, jackknife.CORRELATION)

    return simulate


def _kappa(noise: float) -> Draw:
    def simulate(p: Patients) -> tuple[Floats, Ends]:
        there = scans(p)
        groups = [populations.risk_group(v) for v in populations.volumes_mm3(p, noise)]
        cells = np.where(there, groups[1] * 4 + groups[0], 16)
        columns = np.stack([(cells == k).sum(axis=2) for k in range(16)], axis=-1)[:, :, None].astype(float)

        def statistic(sums: Floats) -> Floats:
            return weighted_kappa(sums.reshape(*sums.shape[:-1], 4, 4))

        flat = [np.where(there, group, np.nan).reshape(p.samples, -1) for group in groups]
        size = disagreement_share(flat[1], flat[0]).reshape(there.shape).sum(axis=2)
        return _of_sums(columns, statistic, there.sum(axis=2).astype(float), size, jackknife.CORRELATION)

    return simulate


def _total_ratio(p: Patients) -> tuple[Floats, Ends]:
    there = scans(p)
    predicted, label = (v * there for v in populations.volumes_mm3(p))
    columns = np.stack([predicted, label], axis=-1)
    count = there.sum(axis=2).astype(float)
    return _of_sums(columns, lambda s: ratio(s[..., 0], s[..., 1]), count, label.sum(axis=2), jackknife.POSITIVE)


def _misclassified_ratio(p: Patients) -> tuple[Floats, Ends]:
    there = scans(p)
    wrong = []
    for noise in (1.5, 3.0):
        predicted, label = populations.volumes_mm3(p, noise)
        wrong.append((populations.risk_group(predicted) != populations.risk_group(label)) & there)
    columns = np.stack(wrong, axis=-1).astype(float)
    count = there.sum(axis=2).astype(float)
    return _of_sums(
        columns, lambda s: ratio(s[..., 0], s[..., 1]), count, columns[..., 1].sum(axis=2), jackknife.POSITIVE
    )


def _auc(p: Patients) -> tuple[Floats, Ends]:
    positive = p.rng.random((p.samples, p.patients)) < 0.6
    score = np.where(positive, 1.2, 0.0) + p.rng.normal(size=positive.shape)
    score = np.where(score < 0, 0, score)  # empty predictions tie
    found = [auc_ci(x, y) for x, y in zip(score, positive, strict=True)]
    values: list[NDArray[np.float64]] = [
        np.array([getattr(f, end) for f in found]) for end in ("estimate", "low", "high")
    ]
    return values[0], (values[1], values[2])


SIMULATED = (
    Simulated("mean Dice, 5 % of the scans missed", _mean(lambda p: populations.dice(p, 0.05), "share")),
    Simulated("mean Dice, 15 % missed", _mean(lambda p: populations.dice(p, 0.15), "share")),
    Simulated(
        "the first by a percentile bootstrap", _percentile_mean(lambda p: populations.dice(p, 0.05)), at_most=1_000
    ),
    Simulated("share of scans in the right risk group", _mean(_right_group, "share")),
    Simulated("mean volume error, mm³, volumes 10 % too small", _mean(_volume_error(0.9), "signed")),
    Simulated("mean volume error, mm³, without a bias", _mean(_volume_error(1.0), "signed")),
    Simulated(
        "mean of \\|volume error\\|, mm³", _mean(lambda p: abs(np.subtract(*populations.volumes_mm3(p))), "positive")
    ),
    Simulated("difference in Dice of two models", _mean(_difference(populations.two_models), "difference")),
    Simulated("the same in a sweep (two recipes, a seed each)", _two_level_difference, at_most=600),
    Simulated("difference, one model fails rarely", _mean(_difference(populations.rare_failure), "difference")),
    Simulated("slope of Dice over thickness, all scans", _slope(-0.25)),
    Simulated("slope within patients", _within_slope(lambda p, mm: populations.dice(p, 0.05, -0.25, mm))),
    Simulated(
        "difference of two slopes within patients",
        _within_slope(lambda p, mm: populations.dice(p, 0.05, -0.25, mm) - populations.dice(p, 0.05, -0.12, mm)),
    ),
    Simulated("ICC(2,1) of volumes", _agreement(agreement.icc_2_1)),
    Simulated("ICC(3,1) of volumes", _agreement(agreement.icc_3_1)),
    Simulated("CCC of volumes", _agreement(agreement.ccc)),
    Simulated("κ of risk groups, high", _kappa(1.0)),
    Simulated("κ of risk groups, lower", _kappa(3.0)),
    Simulated("ratio of total volumes", _total_ratio),
    Simulated("ratio of misclassified scans of two models", _misclassified_ratio),
    Simulated("area under the ROC curve", _auc, truth_patients=4_000, at_most=1_500),
)
