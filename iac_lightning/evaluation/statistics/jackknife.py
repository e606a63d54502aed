"""Intervals that hold for few patients: leave one patient out, Student's t with as many degrees of freedom as count.

A value that depends on sums over scans (a mean, a slope, a ratio, ICC, CCC, κ) is computed without each patient in
turn. With h_g the patient's share of what the value rests on (its *leverage*: of a mean the patient's scans, of a slope
the spread of the patient's slice thicknesses), the standard error is

    se² = Σ_g (1 − h_g) (value without g − value)².

For means and slopes that is the "CR2" standard error of cluster-robust regression (Bell & McCaffrey 2002; Pustejovsky &
Tipton 2018), which does not shrink with few patients as those of a bootstrap do, and for one scan a patient the
textbook s / √n. The degrees of freedom are Satterthwaite's for the same h_g: n − 1 where patients weigh alike, fewer
where a few of them decide. A value that lies within limits takes its interval on a scale without limits
(`scales`), so that it cannot leave them and is as skewed as the value.

Every function takes leading dimensions, so that thousands of simulated samples cost one call (`benchmarks.coverage`,
which measures what these intervals cover).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From sums over scans `[..., k]` to values `[...]`, nan where undefined."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A value and how far it may be from that of all patients.

    Attributes:
        estimate: `[...]` of the sample.
        se: `[...]` its standard error; nan where the value is undefined without some patient.
        df: `[...]` degrees of freedom.
    """

    estimate: Floats
    se: Floats
    df: Floats


@dataclass(frozen=True, kw_only=True)
class Scale:
    """On which a value's interval is symmetric.

    Attributes:
        to: from values to the scale.
        back: the inverse.
        slope: derivative of `to` (the delta method carries the standard error over).
    """

    to: Statistic
    back: Statistic
    slope: Statistic


REAL = Scale(to=lambda x: x, back=lambda x: x, slope=np.ones_like)
"""Without limits: differences and slopes."""
SHARE = Scale(to=special.logit, back=special.expit, slope=lambda x: 1 / (x * (1 - x)))
"""From 0 to 1."""
POSITIVE = Scale(to=np.log, back=np.exp, slope=lambda x: 1 / x)
"""Above 0."""
CORRELATION = Scale(to=np.arctanh, back=np.tanh, slope=lambda x: 1 / (1 - x**2))
"""From −1 to 1 (Fisher's z)."""


def leave_one_out(sums: Floats, statistic: Statistic, leverage: Floats, size: Floats | None = None) -> Spread:
    """Standard error and degrees of freedom of a statistic, see the module.

    Args:
        sums: `[..., n_patients, k]` over the scans of each patient.
        statistic: of the total of those sums.
        leverage: `[..., n_patients]` what each patient adds to that which the value rests on, not negative; patients
            with 0 have no part in it.
        size: `[..., n_patients]` what each patient adds to the value's spread, where that is far more uneven than the
            leverage (calcium volumes differ by decades); it decides the degrees of freedom. By default the leverage.

    Returns:
        The spread, one of each leading index.
    """
    total = sums.sum(axis=-2)
    estimate = statistic(total)
    without = statistic(total[..., None, :] - sums)
    share = ratio(leverage, leverage.sum(axis=-1, keepdims=True))
    deviations = np.where(leverage > 0, without - estimate[..., None], 0.0)
    variance = ((1 - share) * deviations**2).sum(axis=-1)
    return Spread(estimate=estimate, se=np.sqrt(variance), df=degrees_of_freedom(leverage if size is None else size))


def degrees_of_freedom(leverage: Floats) -> Floats:
    """Satterthwaite's degrees of freedom of a CR2 variance from the patients' leverages `[..., n_patients]` → `[...]`.

    With q_g the residual maker's rows that a patient's score uses, they are tr(P)² / Σ P², P the products of the q_g
    under independent errors (Bell & McCaffrey 2002): P_gg = w_g and P_gh = −w_g w_h / (Σw √((1 − h_g)(1 − h_h))).
    """
    total = leverage.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = 1 - leverage / total[..., None]
        weight = np.where(rest > 1e-12, leverage**2 / np.maximum(rest, 1e-12), np.inf)
        crossed = (weight.sum(axis=-1) ** 2 - (weight**2).sum(axis=-1)) / total**2
        df = total**2 / ((leverage**2).sum(axis=-1) + crossed)
    return np.where(np.isfinite(df), df, 0.0)


def student_interval(spread: Spread, scale: Scale = REAL, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Ends of the interval, each `[...]`; nan where there is no standard error or no whole degree of freedom."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        middle = scale.to(spread.estimate)
        enough = np.isfinite(middle) & np.isfinite(spread.se) & (spread.df >= 1 - 1e-9)
        reach = stats.t.isf((1 - confidence) / 2, np.where(enough, spread.df, 1.0))
        reach = reach * spread.se * scale.slope(spread.estimate)
        ends = scale.back(middle - reach), scale.back(middle + reach)
    low, high = (np.where(enough, end, np.nan) for end in ends)
    return low, high


def student_p(spread: Spread) -> Floats:
    """Two-sided p `[...]` of the hypothesis that the value is 0; 1 where it is 0 without a spread, nan as above."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(spread.estimate) / spread.se
    t = np.where((spread.estimate == 0) & (spread.se == 0), 0.0, t)
    enough = np.isfinite(t) & (spread.df >= 1 - 1e-9)
    return np.where(enough, 2 * stats.t.sf(np.where(enough, t, 0.0), np.where(enough, spread.df, 1.0)), np.nan)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, nan where the denominator is 0."""
    undefined = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) != 0)
