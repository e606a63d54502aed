"""Everything the tables of series say about risk groups, conformal intervals and slice thickness, as plain types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.conformal import Conformal, fit_conformal, measured_coverage, volume_intervals
from iac_lightning.evaluation.clinical.risk import (
    GROUPS,
    RiskCutoffs,
    assess_risk,
    compare_risk,
    cutoffs_from_development,
)
from iac_lightning.evaluation.statistics.classification import Roc, roc
from iac_lightning.evaluation.statistics.intervals import Kind
from iac_lightning.evaluation.statistics.paired import effect_size, paired_difference
from iac_lightning.evaluation.statistics.plain import correct, plain, plain_interval
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum, edges_of
from iac_lightning.evaluation.statistics.thickness import by_stratum, slope_ci, within_patient_slope_ci
from iac_lightning.evaluation.tables.measures import MEASURES, present, values

METRICS = ("dice", "sensitivity", "ppv", "lesion_f1")
"""Measures that models are compared in, with tests corrected over all of them."""

SLOPES = ("slope_per_mm", "slope_within_patients_per_mm")
"""How a measure changes with slice thickness: over all scans, and on the same heads."""

COVERAGE = 0.9
"""Promised by the conformal intervals unless the settings say otherwise."""


def analyse(
    models: Mapping[str, pd.DataFrame],
    dev_tables: Mapping[str, pd.DataFrame],
    *,
    baseline: str | None = None,
    cutoffs: RiskCutoffs | None = None,
    coverage: float = COVERAGE,
    thickness_strata: Sequence[Stratum] = THICKNESS_STRATA,
) -> dict[str, Any]:
    """Risk groups, conformal intervals, thickness and paired comparisons of models on the same test scans.

    Args:
        models: name to table of the test series (`series_table`), all of the same series.
        dev_tables: name to table of the development series, predicted with the same calibration and threshold; they
            decide risk cut-offs and intervals (`shortage` says whether they can). Without them there are no intervals,
            and risk groups only by `cutoffs`.
        baseline: name of the model that the others are compared with; None compares nothing.
        cutoffs: limits of the risk groups, where fixed in advance; by default from the development labels.
        coverage: promised by the conformal intervals.
        thickness_strata: strata of slice thickness.

    Returns:
        Plain types, None for what is undefined and for an interval's end that is infinite. An estimate is
        `{"value", "ci95": [low, high], "n", "n_patients"}`, of slopes and differences by thickness with `p` and
        `holm_p` (`correct_thickness`):

        - `settings`, `n_series`, `n_patients`, `cutoffs` (with their source), `groups`;
        - `models`: by name `risk` (confusion, accuracy, kappa, misclassified), `conformal` (promise, radii, remarks,
            coverage by stratum, share of scans whose interval lies in one group, `scans` with interval and groups
            each), `thickness` (by measure: slope and within-patient slope per mm, strata), `detection` (AUC over
            patients);
        - `comparisons`: each other model against the baseline: `metrics` (difference, Wilcoxon, effect sizes, wins,
            ties, losses), `thickness` (by measure: differences of slopes and of strata), `risk` (relative change,
            McNemar, sign test over patients). `holm_p` corrects Wilcoxon's p over all models and metrics of the
            table, and each test of risk groups over the models.

    Raises:
        UserError: when models were evaluated on different series, a patient is in development and test, or the
            development tables are too small for cut-offs.
    """
    tables = _checked(models, dev_tables)
    cutoffs = cutoffs or (_cutoffs(dev_tables) if dev_tables else None)
    first = next(iter(tables.values()))
    result: dict[str, Any] = {
        "settings": {
            "baseline": baseline,
            "metrics": METRICS,
            "coverage": coverage,
            "thickness_edges_mm": edges_of(thickness_strata),
        },
        "n_series": len(first),
        "n_patients": int(first["patient_id"].nunique()),
        "groups": list(GROUPS),
        "cutoffs": asdict(cutoffs) if cutoffs else None,
        "models": {},
        "comparisons": [],
    }
    for name, table in tables.items():
        fit = fit_conformal(dev_tables[name], coverage, thickness_strata) if cutoffs and dev_tables else None
        result["models"][name] = _of_model(table, cutoffs, fit, thickness_strata)
    correct_thickness([model["thickness"] for model in result["models"].values()], strata=False)
    if baseline is not None:
        result["comparisons"] = _against_baseline(tables, baseline, cutoffs, thickness_strata)
    return plain(result)


def _of_model(
    table: pd.DataFrame,
    cutoffs: RiskCutoffs | None,
    fit: Conformal | None,
    strata: Sequence[Stratum],
) -> dict[str, Any]:
    """What `analyse` says of one model; intervals where they were fitted, risk groups where there are cut-offs."""
    curve = detection(table)
    model: dict[str, Any] = {
        "thickness": {
            measure: _thickness(values(table, measure), table, strata, MEASURES[measure].kind)
            for measure in present(table)
        },
        "detection": {"auc": plain_interval(curve.auc), "n_positive": curve.n_positive},
    }
    if cutoffs:
        risk = assess_risk(table, cutoffs)
        model["risk"] = {
            "confusion": risk.confusion.tolist(),
            "accuracy": plain_interval(risk.accuracy),
            "kappa": plain_interval(risk.kappa),
            "misclassified": risk.misclassified,
        }
        if fit:
            model["conformal"] = _conformal(fit, table, cutoffs)
    return model


def _against_baseline(
    tables: Mapping[str, pd.DataFrame],
    baseline: str,
    cutoffs: RiskCutoffs | None,
    strata: Sequence[Stratum],
) -> list[dict[str, Any]]:
    """Every other model against the baseline, p-values corrected over the table."""
    other = tables[baseline]
    comparisons: list[dict[str, Any]] = []
    for name, table in tables.items():
        if name == baseline:
            continue
        comparison: dict[str, Any] = {
            "model": name,
            "baseline": baseline,
            "metrics": {metric: paired_measure(table, other, metric) for metric in METRICS},
            "thickness": {
                measure: _thickness(
                    values(table, measure) - values(other, measure), table, strata, MEASURES[measure].difference
                )
                for measure in present(table)
            },
        }
        if cutoffs:
            comparison["risk"] = risk_change(table, other, cutoffs)
        comparisons.append(comparison)
    correct_thickness([c["thickness"] for c in comparisons], strata=True)
    correct([metric for c in comparisons for metric in c["metrics"].values()], "wilcoxon_p")
    for test in ("mcnemar", "patients"):
        correct([c["risk"][test] for c in comparisons if "risk" in c], "exact_p")
    return comparisons


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """Why development tables are too small for `analyse`.

    Attributes:
        n_patients: development patients of the model that has fewest.
        needed: patients that intervals of this coverage need at least.
        coverage: promised.
    """

    n_patients: int
    needed: int
    coverage: float

    @property
    def of_patients(self) -> bool:
        """Whether patients are too few for intervals; else those with calcification are too few for cut-offs."""
        return self.n_patients < self.needed


def shortage(
    dev_tables: Mapping[str, pd.DataFrame], coverage: float = COVERAGE, cutoffs: RiskCutoffs | None = None
) -> Shortage | None:
    """What development tables lack for `analyse`; None when they suffice.

    Args:
        dev_tables: name to table of the development series.
        coverage: promised by the intervals.
        cutoffs: limits of the risk groups, where fixed in advance.
    """
    needed = ceil(coverage / (1 - coverage) - 1e-9)
    fewest = min(table["patient_id"].nunique() for table in dev_tables.values())
    lacking = Shortage(n_patients=int(fewest), needed=needed, coverage=coverage)
    if lacking.of_patients:
        return lacking
    try:
        cutoffs = cutoffs or _cutoffs(dev_tables)
    except UserError:
        return lacking
    return None


def detection(table: pd.DataFrame) -> Roc:
    """ROC of detecting patients with calcification by the largest predicted volume of the patient's scans.

    Args:
        table: series with `patient_id`, `has_lesion` and `volume_mm3`.
    """
    patients = table.groupby("patient_id").agg({"volume_mm3": "max", "has_lesion": "max"})
    return roc(patients["volume_mm3"].to_numpy(dtype=float), patients["has_lesion"].to_numpy(dtype=bool))


def _checked(models: Mapping[str, pd.DataFrame], dev_tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables in the order of their series' names."""
    tables = {name: table.sort_values("series_id", ignore_index=True) for name, table in models.items()}
    reference, expected = next(iter(tables.items()))
    for name, table in tables.items():
        labels = [frame["label_volume_mm3"].round(3).tolist() for frame in (table, expected)]
        if list(table["series_id"]) != list(expected["series_id"]) or labels[0] != labels[1]:
            raise UserError(
                f"'{reference}' and '{name}' were not evaluated on the same series with the same labels; evaluate both "
                "on the same split of the same cohort"
            )
        known = set(dev_tables[name]["patient_id"]) if dev_tables else set()
        if shared := known & set(expected["patient_id"]):
            raise UserError(
                f"{len(shared)} patients of the development table of '{name}' are in the test table too; intervals and "
                "cut-offs fitted on them would flatter the model: pass tables of two splits"
            )
    return tables


def _cutoffs(dev_tables: Mapping[str, pd.DataFrame]) -> RiskCutoffs:
    # Labels do not depend on the model, but a model may have been evaluated on fewer series.
    return cutoffs_from_development(max(dev_tables.values(), key=len))


def _conformal(fit: Conformal, test: pd.DataFrame, cutoffs: RiskCutoffs) -> dict[str, Any]:
    scans = volume_intervals(fit, test, cutoffs)
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
        "scans": [
            row | {"groups": row["groups"].split("|")} for row in scans.drop(columns="patient_id").to_dict("records")
        ],
    }


def _thickness(x: NDArray[np.float64], table: pd.DataFrame, strata: Sequence[Stratum], kind: Kind) -> dict[str, Any]:
    thickness, patients = table["slice_thickness_mm"].to_numpy(dtype=float), as_text(table["patient_id"])
    return {
        "slope_per_mm": plain_interval(slope_ci(x, thickness, patients)),
        "slope_within_patients_per_mm": plain_interval(within_patient_slope_ci(x, thickness, patients)),
        "strata": [
            {"stratum": name, **plain_interval(interval)}
            for name, interval in by_stratum(x, thickness, patients, strata, kind)
        ],
    }


def correct_thickness(parts: Sequence[Mapping[str, Any]], *, strata: bool) -> None:
    """Add `holm_p` to slopes, and to the differences of strata, of several models or pairs and all their measures.

    Slopes over all scans, slopes within patients, and strata are three tables, each corrected over all of it.

    Args:
        parts: of each model or pair, by measure, as from `_thickness`.
        strata: whether strata hold differences, which are tested; means are not.
    """
    measured = [by_kind for part in parts for by_kind in part.values()]
    for kind in SLOPES:
        correct([by_kind[kind] for by_kind in measured])
    if strata:
        correct([stratum for by_kind in measured for stratum in by_kind["strata"]])


def risk_change(table: pd.DataFrame, baseline: pd.DataFrame, cutoffs: RiskCutoffs) -> dict[str, Any]:
    """`compare_risk` as plain types; p-values are not corrected yet (`correct`)."""
    change = compare_risk(table, baseline, cutoffs)
    return asdict(change) | {"relative_change": plain_interval(change.relative_change)}


def slope_difference(table: pd.DataFrame, baseline: pd.DataFrame, measure: str) -> dict[str, Any]:
    """Difference of two models' slopes per mm of slice thickness, over all scans and within patients.

    p is not corrected yet (`correct`).
    """
    x = values(table, measure) - values(baseline, measure)
    slopes = _thickness(x, table, THICKNESS_STRATA, MEASURES[measure].difference)
    return {kind: slopes[kind] for kind in SLOPES}


def paired_measure(table: pd.DataFrame, baseline: pd.DataFrame, measure: str) -> dict[str, Any]:
    """A model against another in one measure, on the same series in the same order; p is not corrected yet.

    Args:
        table: series of the model.
        baseline: the same series of the other.
        measure: key of `measures.MEASURES`.

    Returns:
        `difference`, `wilcoxon_p`, `cohen_dz`, `rank_biserial`, `wins` (the model's is higher), `ties`, `losses`.
    """
    a, b = values(table, measure), values(baseline, measure)
    patients = as_text(table["patient_id"])
    paired = paired_difference(a, b, patients, MEASURES[measure].difference)
    size = effect_size(a, b, patients)
    return {
        "difference": plain_interval(paired.difference),
        "wilcoxon_p": paired.wilcoxon_p,
        "cohen_dz": size.dz,
        "rank_biserial": size.rank_biserial,
        "wins": paired.wins,
        "ties": paired.ties,
        "losses": paired.losses,
    }
