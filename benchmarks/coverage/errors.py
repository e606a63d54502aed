"""How often tests find what is not there, and what conformal intervals cover by stratum, on simulated patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.coverage import populations
from benchmarks.coverage.populations import SHARES, THICKNESSES_MM, Patients, scans
from iac_lightning.evaluation.clinical.conformal import conformal_radius, fit_conformal, volume_intervals
from iac_lightning.evaluation.clinical.risk import RiskCutoffs
from iac_lightning.evaluation.statistics.classification import mcnemar, mcnemar_counts
from iac_lightning.evaluation.statistics.paired import SIGNIFICANT, paired_difference
from iac_lightning.evaluation.statistics.thickness import stratum_contrasts

Models = Callable[[Patients], tuple[NDArray[np.float64], NDArray[np.float64]]]

NAMES = (
    "Wilcoxon over patients",
    "interval of the difference without 0",
    "both: called established",
    "sign test over patients (risk groups)",
    "McNemar over scans (risk groups)",
    "any stratum called weaker",
)


def false_findings(patients: int, samples: int, seed: int) -> dict[str, float]:
    """Share of samples of two equally good models in which each test finds a difference at 5 %."""
    rng = np.random.default_rng([seed, patients, 1])
    found: list[tuple[bool, ...]] = []
    for _ in range(samples):
        p = Patients(rng, 1, patients)
        there = scans(p)[0]
        names = np.broadcast_to(np.arange(patients)[:, None], there.shape)[there]
        a, b = (v[0][there] for v in populations.two_models(p))
        paired = paired_difference(a, b, names)
        d = paired.difference
        tested = paired.wilcoxon_p < SIGNIFICANT
        apart = d.low > 0 or d.high < 0
        right = [rng.random(p.shape)[0] < chance for chance in _alike(rng, patients)]
        first, second = (r[there] for r in right)
        fewer = np.bincount(names, weights=first.astype(float) - second)
        signs = mcnemar_counts(int((fewer > 0).sum()), int((fewer < 0).sum())).exact_p < SIGNIFICANT
        scanwise = mcnemar(first, second).exact_p < SIGNIFICANT
        mm = populations.thickness_mm(p)[0][there]
        contrasts = stratum_contrasts(a, mm, names)
        weaker = any(c.holm_p < SIGNIFICANT and c.difference.high < 0 for c in contrasts)
        found.append((tested, apart, tested and apart, signs, scanwise, weaker))
    return dict(zip(NAMES, np.mean(found, axis=0).tolist(), strict=True))


def _alike(rng: np.random.Generator, patients: int) -> NDArray[np.float64]:
    """Chance of two equally good models to be right about each patient's scans `[2, patients, 1]`, beta(2, 1)."""
    return rng.beta(2, 1, size=(2, patients, 1))


def conformal_coverage(patients: int, samples: int, seed: int, promised: float = 0.9) -> pd.DataFrame:
    """Coverage by stratum with so many development patients: shares of new patients' scans, averaged over samples.

    Returns:
        One row a stratum: `stratum`, `patients` of development in it, `promised` by itself, `coverage`, and `merged`,
        what the radius of the merged strata alone would cover.
    """
    rng = np.random.default_rng([seed, patients, 2])
    cutoffs = RiskCutoffs(low_mm3=30, medium_mm3=90, source="fixed")
    rows = []
    for _ in range(samples):
        development, new = _scanned(rng, patients), _scanned(rng, 60)
        fit = fit_conformal(development, promised)
        covered = volume_intervals(fit, new, cutoffs)
        score = _scores(development)
        error = _scores(new)
        for part in fit.radii:
            inside = (covered["stratum"] == part.stratum).to_numpy()
            if inside.any():
                pooled = development["stratum"].isin(part.merged).to_numpy()
                radius = conformal_radius(score[pooled], development["patient_id"][pooled], promised)
                share = covered["covered"][inside].astype(float).groupby(new["patient_id"][inside]).mean().mean()
                merged = pd.Series(error[inside] <= radius).groupby(new["patient_id"][inside].to_numpy()).mean().mean()
                rows.append((part.stratum, part.n_patients, part.promised, share, merged))
    table = pd.DataFrame(rows, columns=["stratum", "patients", "promised", "coverage", "merged"])
    return table.groupby("stratum", sort=False).mean().reset_index()


def _scanned(rng: np.random.Generator, patients: int) -> pd.DataFrame:
    """Scans of patients whose volumes are off by more on thicker slices; strata as in the settings' default."""
    count = rng.integers(1, populations.SCANS + 1, size=patients)
    owner = np.repeat(np.arange(patients), count)
    label = np.repeat(rng.lognormal(3.5, 1.2, patients) * (rng.random(patients) > 0.2), count)
    mm = rng.choice(THICKNESSES_MM, p=SHARES, size=len(owner))
    sloppy = np.repeat(rng.lognormal(0, 0.5, patients), count)
    root = np.sqrt(label) * (1 + 0.1 * rng.normal(size=len(owner)))
    root = root + (0.2 + 0.25 * mm) * sloppy * rng.normal(size=len(owner))
    names = np.array(["≤ 1 mm", "1–2 mm", "2–4 mm", "4–6 mm", "> 6 mm"])
    return pd.DataFrame(
        {
            "series_id": [f"s{k}" for k in range(len(owner))],
            "patient_id": [f"p{k}" for k in owner],
            "slice_thickness_mm": mm,
            "volume_mm3": np.maximum(root, 0) ** 2,
            "label_volume_mm3": label,
            "stratum": names[np.searchsorted([1, 2, 4, 6], mm)],
        }
    )


def _scores(table: pd.DataFrame) -> NDArray[np.float64]:
    predicted, label = (table[c].to_numpy(dtype=float) for c in ("volume_mm3", "label_volume_mm3"))
    return np.abs(np.sqrt(predicted) - np.sqrt(label))
