"""Uncertainty over patients and over trainings (seeds) together.

A figure of a training recipe varies for two reasons: other patients could have been scanned, and another seed would
have given another network. Both are drawn in every resample, crossed, and their deviations add up:

- **Patients** are drawn with replacement, each with all scans, the same ones for every recipe, so that differences
  between recipes are paired.
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

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From how often each patient was drawn `[m, n_patients]` to figures `[m, n_trainings, n_variants]`."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Figures of recipes, and what they might have been.

    Attributes:
        estimate: `[n_recipes, n_variants]` mean over seeds of the sample itself.
        resampled: `[resamples, n_recipes, n_variants]`; nan below two patients.
        trainings: `[n_trainings, n_variants]` figures of single trainings, in the order of the recipes.
        n_seeds: trainings of each recipe.
        seed_df: degrees of freedom of the spread over seeds; 0 where every recipe was trained once.
    """

    estimate: NDArray[np.float64]
    resampled: NDArray[np.float64]
    trainings: NDArray[np.float64]
    n_seeds: tuple[int, ...]
    seed_df: int


def two_level(
    statistic: Statistic, n_seeds: Sequence[int], n_patients: int, *, seed: int, resamples: int = RESAMPLES
) -> Draws:
    """Draw patients and seeds, see the module.

    Args:
        statistic: figures of each training; trainings of the first recipe come first. A variant is another figure of
            the same training (such as its uncalibrated mask): its variants share their draws.
        n_seeds: how many trainings each recipe has, at least one.
        n_patients: patients of the sample.
        seed: decides the draws.
        resamples: number of resamples.
    """
    k = np.asarray(n_seeds, dtype=np.intp)
    recipe = np.repeat(np.arange(len(k)), k)
    averaging = (recipe == np.arange(len(k))[:, None]) / k[:, None]
    trainings = statistic(np.ones((1, n_patients)))[0]
    estimate = averaging @ trainings
    resampled = np.full((resamples, *estimate.shape), np.nan)
    if n_patients >= 2:
        done = 0
        for counts in patient_counts(n_patients, resamples, seed):
            figures = statistic(counts)
            resampled[done : done + len(counts)] = np.einsum("gr,brv->bgv", averaging, figures)
            done += len(counts)
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
    """Percentiles of resampled figures `[resamples]`, undefined ones left out; nan where none is defined."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def seed_remark(draws: Draws) -> str:
    """What the intervals cover, in a sentence or two for readers."""
    once = sum(n == 1 for n in draws.n_seeds)
    if not draws.seed_df:
        return (
            "Every cell was trained with one seed, so intervals cover patients only: how much another seed would "
            "change a cell cannot be known, and a difference may be the luck of one training."
        )
    words = f"Intervals cover patients and seeds; the spread over seeds rests on {draws.seed_df} degree"
    words += f"{'s' if draws.seed_df > 1 else ''} of freedom"
    words += ", which is little, and widens them." if draws.seed_df < 6 else "."
    if once:
        words += f" {once} of {len(draws.n_seeds)} cells {'was' if once == 1 else 'were'} trained once and borrow"
        words += f"{'s' if once == 1 else ''} the spread of the others."
    return words
