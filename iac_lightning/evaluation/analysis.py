"""Everything the tables of series say about risk groups, conformal intervals and slice thickness, as plain types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.errors import UserError
from iac_lightning.evaluation.bootstrap import RESAMPLES, Interval, effect_size, holm, paired_difference
from iac_lightning.evaluation.classification import Roc, roc
from iac_lightning.evaluation.conformal import fit_conformal, measured_coverage, volume_intervals
from iac_lightning.evaluation.risk import (
    GROUPS,
    RiskCutoffs,
    assess_risk,
    compare_risk,
    cutoffs_from_development,
)
from iac_lightning.evaluation.thickness import (
    by_stratum,
    slope_ci,
    strata_from_edges,
    within_patient_slope_ci,
)

OVER_EVERY_SCAN = ("ppv", "lesion_ppv")
"""Metrics averaged over every scan with a prediction, lesion-free ones included, as in `summarise`."""


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """What `analyse` computes.

    Attributes:
        baseline: name of the model that the others are compared with; None compares nothing.
        metrics: columns of the tables for thickness and comparisons; the first is the primary one.
        edges_mm: edges between strata of slice thickness.
        cutoffs_mm3: upper limits of the risk groups low and medium; None takes `quantiles` of development labels.
        quantiles: of the labelled volumes of development patients with calcification.
        none_mm3: volumes up to here are in the group none.
        coverage: promised by the conformal intervals.
        min_patients: fewest development patients of a stratum with its own conformal radius.
        seed: of every bootstrap.
        resamples: of every bootstrap.
    """

    baseline: str | None = None
    metrics: tuple[str, ...] = ("dice", "sensitivity", "ppv", "lesion_f1")
    edges_mm: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0)
    cutoffs_mm3: tuple[float, float] | None = None
    quantiles: tuple[float, float] = (1 / 3, 2 / 3)
    none_mm3: float = 0.0
    coverage: float = 0.9
    min_patients: int = 20
    seed: int = 0
    resamples: int = RESAMPLES


def analyse(
    models: Mapping[str, pd.DataFrame], dev_tables: Mapping[str, pd.DataFrame], config: AnalysisConfig
) -> dict[str, Any]:
    """Risk groups, conformal intervals, thickness and paired comparisons of models on the same test scans.

    Args:
        models: name to table of the test series (`series_table`), all of the same series.
        dev_tables: name to table of the development series, predicted with the same calibration and threshold. A model
            without one gets no conformal intervals; without any, risk cut-offs must be fixed.
        config: see `AnalysisConfig`.

    Returns:
        Plain types, None for what is undefined and for an interval's end that is infinite. A figure is
        `{"value", "ci95": [low, high], "n", "n_patients"}`:

        - `settings`, `n_series`, `n_patients`, `cutoffs` (with their source), `groups`;
        - `models`: by name `risk` (confusion, accuracy, kappa, misclassified), `conformal` (promise, radii, remarks,
          coverage by stratum, share of scans whose interval lies in one group, `scans` with interval and groups each)
          or None, `thickness` (by metric: slope and within-patient slope per mm, strata), `detection` (AUC over
          patients);
        - `comparisons`: each other model against the baseline: `metrics` (difference, Wilcoxon, effect sizes, wins,
          ties, losses, difference of slopes and of strata), `risk` (relative change, McNemar, sign test over patients).
          `holm_p` corrects Wilcoxon's p over all models and metrics of the table, and each test of risk groups over the
          models.

    Raises:
        UserError: without a model, when models were evaluated on different series, a metric or the baseline is unknown,
            a patient is in development and test, or there is nothing to derive cut-offs from.
    """
    tables = _checked(models, dev_tables, config)
    cutoffs = _cutoffs(dev_tables, config)
    first = next(iter(tables.values()))
    draws = {"seed": config.seed, "resamples": config.resamples}
    result: dict[str, Any] = {
        "settings": asdict(config),
        "n_series": len(first),
        "n_patients": int(first["patient_id"].nunique()),
        "groups": list(GROUPS),
        "cutoffs": asdict(cutoffs),
        "models": {},
        "comparisons": [],
    }
    for name, table in tables.items():
        risk = assess_risk(table, cutoffs, **draws)
        auc = detection(table, seed=config.seed).auc
        result["models"][name] = {
            "risk": {
                "confusion": risk.confusion.tolist(),
                "accuracy": _figure(risk.accuracy),
                "kappa": _figure(risk.kappa),
                "misclassified": risk.misclassified,
            },
            "conformal": _conformal(dev_tables[name], table, cutoffs, config) if name in dev_tables else None,
            "thickness": {metric: _thickness(_values(table, metric), table, config) for metric in config.metrics},
            "detection": {"auc": _figure(auc)},
        }
    if config.baseline is not None:
        baseline = tables[config.baseline]
        for name, table in tables.items():
            if name != config.baseline:
                change = compare_risk(table, baseline, cutoffs, **draws)
                result["comparisons"].append(
                    {
                        "model": name,
                        "baseline": config.baseline,
                        "metrics": {metric: _paired(table, baseline, metric, config) for metric in config.metrics},
                        "risk": asdict(change) | {"relative_change": _figure(change.relative_change)},
                    }
                )
        _correct([m for c in result["comparisons"] for m in c["metrics"].values()], "wilcoxon_p", "holm_p")
        for test in ("mcnemar", "patients"):
            _correct([c["risk"][test] for c in result["comparisons"]], "exact_p", "holm_p")
    return _plain(result)


def detection(table: pd.DataFrame, score: str = "volume_mm3", *, seed: int) -> Roc:
    """ROC of detecting patients with calcification: a patient's score is the largest of the patient's scans.

    Args:
        table: series with `patient_id`, `has_lesion` and the score.
        score: column, such as the predicted volume or the largest probability.
        seed: of the interval of the area.
    """
    patients = table.groupby("patient_id").agg({score: "max", "has_lesion": "max"})
    return roc(patients[score].to_numpy(dtype=float), patients["has_lesion"].to_numpy(dtype=bool), seed=seed)


def _checked(
    models: Mapping[str, pd.DataFrame], dev_tables: Mapping[str, pd.DataFrame], config: AnalysisConfig
) -> dict[str, pd.DataFrame]:
    """The tables in the order of their series' names."""
    if not models:
        raise UserError("an analysis needs at least one evaluated model")
    if config.baseline is not None and config.baseline not in models:
        raise UserError(f"baseline '{config.baseline}' is not among {', '.join(models)}; name one of them")
    tables = {name: table.sort_values("series_id", ignore_index=True) for name, table in models.items()}
    reference, expected = next(iter(tables.items()))
    for name, table in tables.items():
        missing = [metric for metric in config.metrics if metric not in table]
        if missing:
            raise UserError(f"the table of '{name}' lacks the metrics {', '.join(missing)}; evaluate the model again")
        labels = [frame["label_volume_mm3"].round(3).tolist() for frame in (table, expected)]
        if list(table["series_id"]) != list(expected["series_id"]) or labels[0] != labels[1]:
            raise UserError(
                f"'{reference}' and '{name}' were not evaluated on the same series with the same labels; evaluate both "
                "on the same split of the same cohort"
            )
    for name, table in dev_tables.items():
        shared = set(table["patient_id"]) & set(expected["patient_id"])
        if shared:
            raise UserError(
                f"{len(shared)} patients of the development table of '{name}' are in the test table too; intervals and "
                "cut-offs fitted on them would flatter the model: pass tables of two splits"
            )
    return tables


def _cutoffs(dev_tables: Mapping[str, pd.DataFrame], config: AnalysisConfig) -> RiskCutoffs:
    if config.cutoffs_mm3 is not None:
        low, medium = config.cutoffs_mm3
        return RiskCutoffs(none_mm3=config.none_mm3, low_mm3=low, medium_mm3=medium, source="fixed in the settings")
    if not dev_tables:
        raise UserError("risk cut-offs need a development table, or cutoffs_mm3 fixed in the settings")
    # Labels do not depend on the model, but a model may have been evaluated on fewer series.
    largest = max(dev_tables.values(), key=len)
    return cutoffs_from_development(largest, config.quantiles, config.none_mm3)


def _conformal(dev: pd.DataFrame, test: pd.DataFrame, cutoffs: RiskCutoffs, config: AnalysisConfig) -> dict[str, Any]:
    fit = fit_conformal(dev, config.coverage, strata_from_edges(config.edges_mm), config.min_patients)
    scans = volume_intervals(fit, test, cutoffs)
    columns = ["series_id", "stratum", "volume_mm3", "low_mm3", "high_mm3", "groups", "covered"]
    return {
        "promised": fit.coverage,
        "promise": (
            f"averaged over new patients, a volume lies in its interval with probability ≥ {fit.coverage:.0%}; "
            "a development split that also chose checkpoint or threshold makes this optimistic: trust the measured "
            "coverage"
        ),
        "score": "|√predicted − √labelled|, √mm³",
        "radii": [asdict(part) for part in fit.radii],
        "remarks": list(fit.remarks),
        "coverage": [asdict(row) for row in measured_coverage(fit, scans)],
        "one_group_share": float((~scans["groups"].str.contains("|", regex=False)).mean()),
        "scans": [row | {"groups": row["groups"].split("|")} for row in scans[columns].to_dict("records")],
    }


def _values(table: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """The figures that count: nan on lesion-free scans unless the metric is defined over every scan."""
    values = table[metric].to_numpy(dtype=float)
    return values if metric in OVER_EVERY_SCAN else np.where(table["has_lesion"].astype(bool), values, np.nan)


def _thickness(values: NDArray[np.float64], table: pd.DataFrame, config: AnalysisConfig) -> dict[str, Any]:
    thickness, patients = table["slice_thickness_mm"].to_numpy(dtype=float), table["patient_id"].to_numpy(dtype=str)
    draws = {"seed": config.seed, "resamples": config.resamples}
    strata = by_stratum(values, thickness, patients, strata_from_edges(config.edges_mm), **draws)
    return {
        "slope_per_mm": _figure(slope_ci(values, thickness, patients, **draws)),
        "slope_within_patients_per_mm": _figure(within_patient_slope_ci(values, thickness, patients, **draws)),
        "strata": [{"stratum": name, **_figure(interval)} for name, interval in strata],
    }


def _paired(table: pd.DataFrame, baseline: pd.DataFrame, metric: str, config: AnalysisConfig) -> dict[str, Any]:
    a, b = _values(table, metric), _values(baseline, metric)
    patients = table["patient_id"].to_numpy(dtype=str)
    paired = paired_difference(a, b, patients, seed=config.seed, resamples=config.resamples)
    size = effect_size(a, b, patients)
    return {
        "difference": _figure(paired.difference),
        "wilcoxon_p": paired.wilcoxon_p,
        "cohen_dz": size.dz,
        "rank_biserial": size.rank_biserial,
        "wins": paired.wins,
        "ties": paired.ties,
        "losses": paired.losses,
        "thickness": _thickness(a - b, table, config),
    }


def _correct(rows: list[dict[str, Any]], p: str, adjusted: str) -> None:
    for row, value in zip(rows, holm([row[p] for row in rows]), strict=True):
        row[adjusted] = float(value)


def _figure(interval: Interval) -> dict[str, Any]:
    return {
        "value": interval.estimate,
        "ci95": [interval.low, interval.high],
        "n": interval.n,
        "n_patients": interval.n_patients,
    }


def _plain(value: Any) -> Any:
    """Types that JSON knows; nan, infinity and missing become None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not isfinite(value)):
        return None
    return value
