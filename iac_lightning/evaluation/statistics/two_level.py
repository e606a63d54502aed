"""Uncertainty over patients and over trainings (seeds) together.

A value of a training recipe varies for two reasons: other patients could have been scanned, and another seed would
have given another network. Both are drawn in every resample, crossed, and their deviations add up:

- **Patients** are drawn with replacement, each with all scans, the same ones for every recipe, so that differences
  between recipes are paired. A bootstrap of few patients is too sure of itself: its variance is that over n instead of
  n − 1, and it takes that variance to be known. Every resample's deviation is therefore multiplied by √(n / (n − 1))
  and by √(df / χ²), which makes Student's t of a normal deviation (as for seeds, below), with the degrees of freedom of
  `jackknife`. Below `intervals.MIN_PATIENTS` there are no intervals.
- **Seeds**: each recipe's deviation from its mean is drawn anew, as the mean of as many deviations as it has seeds.
  They come from the pool of the deviations of all recipes with two seeds or more, each enlarged by √(k / (k − 1)) for
  its k seeds, so that their variance is the unbiased one (Rao and Wu 1988). Two seeds drawn within their own recipe
  would take three values; the pool is the pooled error of an analysis of variance. How large that spread is, is itself
  uncertain: every resample scales it by √(df / χ²) with a χ² of df = Σ(k − 1) degrees of freedom, which makes Student's
  t of a normal deviation. Without it, 2 seeds of 6 recipes covered 90 % instead of 95 % where seeds dominate.

Limits. The pool takes it that all recipes vary alike from seed to seed; a recipe that was trained once borrows the
spread of the others. With few degrees of freedom intervals are honest and very wide: 2 seeds of a single pair of
recipes decide little (df = 2), 2 seeds of 12 recipes are fair (df = 12). Seeds of different recipes are drawn
independently, also where they share a number or a pre-training; what a shared pre-training does to all its fine-
tunings alike is not seen. What seeds do to single patients by chance counts in both parts, as in every crossed
bootstrap (Owen 2007), so intervals err to the wide side where that is the greater part. With one seed of every recipe
the second part cannot be known: intervals cover patients only, and a difference may be the luck of one training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES, patient_counts
from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS
from iac_lightning.evaluation.statistics.jackknife import degrees_of_freedom

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From how often each patient was drawn `[m, n_patients]` to values `[m, n_trainings, n_variants]`."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Values of recipes, and what they might have been.

    Attributes:
        estimate: `[n_recipes, n_variants]` mean over seeds of the sample itself.
        resampled: `[resamples, n_recipes, n_variants]`; nan below `MIN_PATIENTS` patients.
        trainings: `[n_trainings, n_variants]` values of single trainings, in the order of the recipes.
        n_seeds: trainings of each recipe.
        seed_df: degrees of freedom of the spread over seeds; 0 where every recipe was trained once.
    """

    estimate: NDArray[np.float64]
    resampled: NDArray[np.float64]
    trainings: NDArray[np.float64]
    n_seeds: tuple[int, ...]
    seed_df: int


def two_level(
    statistic: Statistic,
    n_seeds: Sequence[int],
    leverage: NDArray[np.float64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Draws:
    """Draw patients and seeds, see the module.

    Args:
        statistic: values of each training; trainings of the first recipe come first. A variant is another value of
            the same training (such as its uncalibrated mask): its variants share their draws.
        n_seeds: how many trainings each recipe has, at least one.
        leverage: `[n_patients]` what each adds to that which a value rests on: of a mean the number of scans.
        seed: decides the draws.
        resamples: number of resamples.
    """
    k, n_patients = np.asarray(n_seeds, dtype=np.intp), len(leverage)
    recipe = np.repeat(np.arange(len(k)), k)
    averaging = (recipe == np.arange(len(k))[:, None]) / k[:, None]
    trainings = statistic(np.ones((1, n_patients)))[0]
    estimate = averaging @ trainings
    resampled = np.full((resamples, *estimate.shape), np.nan)
    patient_df = float(degrees_of_freedom(leverage))
    if n_patients >= MIN_PATIENTS and patient_df >= 1 - 1e-9:
        done = 0
        for counts in patient_counts(n_patients, resamples, seed):
            values_of_trainings = statistic(counts)
            resampled[done : done + len(counts)] = np.einsum("gr,brv->bgv", averaging, values_of_trainings)
            done += len(counts)
        chi_square = np.random.default_rng([seed, n_patients, 2]).chisquare(patient_df, size=(resamples, 1, 1))
        resampled = estimate + np.sqrt(n_patients / (n_patients - 1) * patient_df / chi_square) * (resampled - estimate)
    repeated = k[recipe] > 1
    if repeated.any():
        enlarged = np.sqrt(k / np.maximum(k - 1, 1))[recipe, None]
        pool = ((trainings - estimate[recipe]) * enlarged)[repeated]
        rng = np.random.default_rng([seed, len(pool), 1])
        df = int((k - 1).sum())
        scale = np.sqrt(df / rng.chisquare(df, size=(resamples, 1)))
        for g, n in enumerate(k):
            resampled[:, g] += scale * pool[rng.integers(len(pool), size=(resamples, n))].mean(axis=1)
    return Draws(
        estimate=estimate,
        resampled=resampled,
        trainings=trainings,
        n_seeds=tuple(int(n) for n in k),
        seed_df=int((k - 1).sum()),
    )


def weighted_means(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> Statistic:
    """The statistic of means over scans.

    Args:
        sums: `[n_trainings, n_variants, n_patients]` over the scans of each patient.
        counts: `[n_patients]` scans of each.
    """
    flat = sums.reshape(-1, sums.shape[-1]).T

    def means(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return (weights @ flat / (weights @ counts)[:, None]).reshape(len(weights), *sums.shape[:2])

    return means


def patient_sums(
    values: NDArray[np.float64], patients: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums over the scans of each patient `[..., n_patients]`, patients in sorted order, and how many scans each has.

    Args:
        values: `[..., n_scans]`.
        patients: `[n_scans]`, whose scan it is.
    """
    _, codes = np.unique(patients, return_inverse=True)
    counts = np.bincount(codes)
    grouped = values[..., np.argsort(codes, kind="stable")]
    return np.add.reduceat(grouped, np.cumsum(counts) - counts, axis=-1), counts.astype(np.float64)


def percentile_interval(resampled: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Percentiles of resampled values `[resamples]`, undefined ones left out; nan where none is defined."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
