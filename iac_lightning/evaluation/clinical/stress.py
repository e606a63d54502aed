"""What thicker slices cost a model on the same heads: means by thickness, slopes within patients, models compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from iac_lightning.evaluation.statistics.intervals import Kind, mean_ci, ratio_ci
from iac_lightning.evaluation.statistics.jackknife import ratio
from iac_lightning.evaluation.statistics.paired import paired_difference
from iac_lightning.evaluation.statistics.plain import correct, defined, plain_interval
from iac_lightning.evaluation.statistics.thickness import within_patient_slope_ci

METRICS = {
    "dice": "Dice on the thin slices",
    "ceiling_dice": "Dice of the protocol's label of the thick slices: what a faultless reader of them reaches",
    "share_of_ceiling": "dice / ceiling_dice: what the model reaches of what these slices still show",
    "bound_dice": "highest Dice that any mask of the thick voxels can have",
    "sensitivity": "share of the thin label's voxels that are predicted",
    "ppv": "share of the predicted voxels that are labelled",
    "lesion_f1": "harmonic mean of lesion-wise sensitivity and PPV",
}
"""Columns that are averaged, and whose slopes are taken. PPV is averaged over every scan with a prediction, the others
over the scans with lesions."""

SHARED = ("ceiling_dice", "bound_dice")
"""Of these, what scans and labels alone decide, the same for every model."""

COLUMNS = {
    "native_thickness_mm": "slice thickness of the scan as it came",
    "is_native": "whether this row is the scan as it came; otherwise it was re-imaged at `slice_thickness_mm`",
    "ceiling_dice": "Dice, on the thin slices, of the label that the annotation protocol makes of the thick ones",
    "bound_dice": "highest Dice that any mask of the thick voxels can have",
    "ceiling_volume_mm3": "volume of the label that the annotation protocol makes of the thick slices",
}
"""Columns of a table of re-imaged series beside those of `summary.COLUMNS`, and what they hold."""

VOLUME_RATIOS = {
    "volume_ratio": ("volume_mm3", "label_volume_mm3"),
    "ceiling_volume_ratio": ("ceiling_volume_mm3", "label_volume_mm3"),
    "true_volume_ratio": ("volume_mm3", "true_volume_mm3"),
}
"""Total volume over total volume of the heads with lesions: a ratio of totals, for that of one tiny lesion is noise."""


def at_thickness(table: pd.DataFrame, thickness_mm: float) -> pd.DataFrame:
    """The rows of one thickness, of native versions too where that is their own."""
    return table[(table["slice_thickness_mm"] - thickness_mm).abs() < 0.01]


def native(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the scans as they are."""
    return table[table["is_native"].astype(bool)]


def values_of(table: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """A column of `METRICS` by row, nan where it does not count."""
    if metric == "share_of_ceiling":
        return ratio(values_of(table, "dice"), values_of(table, "ceiling_dice"))
    values = table[metric].to_numpy(dtype=float)
    return values if metric == "ppv" else np.where(table["has_lesion"].astype(bool), values, np.nan)


def summarise_stress(table: pd.DataFrame, thicknesses_mm: Sequence[float]) -> dict[str, Any]:
    """Means of one model by thickness, and how they change on the same heads.

    Args:
        table: one row a series and thickness: the columns of `series_table.COLUMNS`, `is_native`,
            `native_thickness_mm`, `ceiling_dice`, `bound_dice` and `ceiling_volume_mm3`; one series a patient.
        thicknesses_mm: in which order of thickness to report; a native version counts where its own thickness is it.

    Returns:
        Plain types; an estimate is `{"value", "ci95", "n", "n_patients"}`, None for what is undefined.

        - `native`: means of the scans as they are, with `thickness_mm` (thinnest, median, thickest);
        - `thickness`: for each, its means, `n_patients`, `n_native` (of these, scans that are so by nature) and
            `n_thicker` (patients whose scan is thicker, of whom nothing was made), and `difference_from_native` over
            the re-imaged heads (mean difference, Wilcoxon p, wins, ties, losses);
        - `slope_within_patients_per_mm` of each metric; `holm_p` corrects over those that the model decides.

    Raises:
        UserError: when the table is empty.
    """
    if table.empty:
        raise UserError("no scan was re-imaged; there is nothing to summarise")
    own = native(table)
    patients = as_text(table["patient_id"])
    thickness = table["slice_thickness_mm"].to_numpy(dtype=float)
    slopes = {
        metric: plain_interval(within_patient_slope_ci(values_of(table, metric), thickness, patients))
        for metric in METRICS
    }
    correct(slopes[metric] for metric in METRICS if metric not in SHARED)
    return {
        "n_patients": int(table["patient_id"].nunique()),
        "n_with_lesion": int(table.loc[table["has_lesion"].astype(bool), "patient_id"].nunique()),
        "native": {
            "thickness_mm": [float(own["slice_thickness_mm"].quantile(q)) for q in (0, 0.5, 1)],
            **_means(own),
        },
        "thickness": [
            {
                "thickness_mm": float(mm),
                "n_native": len(native(at_thickness(table, mm))),
                "n_thicker": int((~own["patient_id"].isin(at_thickness(table, mm)["patient_id"])).sum()),
                **_means(at_thickness(table, mm)),
                "difference_from_native": _from_native(table, mm),
            }
            for mm in thicknesses_mm
        ],
        "slope_within_patients_per_mm": slopes,
    }


def compare_stress(tables: Mapping[str, pd.DataFrame], thicknesses_mm: Sequence[float]) -> list[dict[str, Any]]:
    """Each two models on the same heads at the same thicknesses; the model given last is always the second.

    Args:
        tables: name to table, as for `summarise_stress`.
        thicknesses_mm: where their means are compared.

    Returns:
        For each pair `first`, `second`, `n_patients`, `n_rows` in common, `n_unpaired` rows that only one of them has;
        `slope_difference_per_mm` of each metric (below 0: the first loses more as slices grow thicker), `native` and
        `thickness` (differences of the means, first − second, with Wilcoxon p, wins, ties, losses). `holm_p` corrects
        slopes over all pairs and metrics, and means over these and the thicknesses; metrics in `SHARED` are no test.

    Raises:
        UserError: when two models have no scan in common or were held against different labels.
    """
    comparisons: list[dict[str, Any]] = []
    for first, second in combinations(tables, 2):
        a, b, unpaired = _pair(tables, first, second)
        patients, thickness = as_text(a["patient_id"]), a["slice_thickness_mm"].to_numpy(dtype=float)
        slopes = {}
        for metric in METRICS:
            difference = np.round(values_of(a, metric) - values_of(b, metric), 12)
            slopes[metric] = plain_interval(within_patient_slope_ci(difference, thickness, patients))
        own = a["is_native"].to_numpy(dtype=bool)
        at = {mm: np.abs(thickness - mm) < 0.01 for mm in thicknesses_mm}
        comparisons.append(
            {
                "first": first,
                "second": second,
                "n_patients": int(a["patient_id"].nunique()),
                "n_rows": len(a),
                "n_unpaired": unpaired,
                "slope_difference_per_mm": slopes,
                "native": _differences(a[own], b[own]),
                "thickness": [{"thickness_mm": float(mm), **_differences(a[k], b[k])} for mm, k in at.items()],
            }
        )
    own_metrics = [metric for metric in METRICS if metric not in SHARED]
    correct(c["slope_difference_per_mm"][metric] for c in comparisons for metric in own_metrics)
    means = [by_metric for c in comparisons for by_metric in (c["native"], *c["thickness"])]
    correct([by_metric[metric] for by_metric in means for metric in own_metrics], "wilcoxon_p")
    return comparisons


def comparison_table(comparisons: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The comparisons as a table: a row a pair, metric and kind (slope per mm, or mean at a thickness)."""
    rows = []
    for c in comparisons:
        kinds: list[tuple[str, Mapping[str, Any]]] = [("slope per mm", c["slope_difference_per_mm"])]
        kinds.append(("mean, native", {m: d["difference"] for m, d in c["native"].items()}))
        for part in c["thickness"]:
            means = {m: part[m]["difference"] for m in METRICS}
            kinds.append((f"mean, {part['thickness_mm']:g} mm", means))
        for kind, estimates in kinds:
            for metric, f in estimates.items():
                low, high = f["ci95"]
                rows.append((c["first"], c["second"], kind, metric, f["value"], low, high, f["n"], f["n_patients"]))
    columns = ["first", "second", "kind", "figure", "difference", "low", "high", "n", "n_patients"]
    return pd.DataFrame(rows, columns=columns)


def _means(rows: pd.DataFrame) -> dict[str, Any]:
    patients = as_text(rows["patient_id"])
    lesion = rows["has_lesion"].astype(bool)
    with_lesion = rows[lesion]
    means: dict[str, Any] = {
        "n_patients": int(rows["patient_id"].nunique()),
        "n_with_lesion": int(lesion.sum()),
        "n_false_alarm": int((~lesion & (rows["volume_mm3"] > 0)).sum()),
        "n_missed": int((lesion & (rows["volume_mm3"] == 0)).sum()),
    }
    for metric in METRICS:
        # A model may surpass the protocol's label of thick slices.
        kind: Kind = "difference" if metric == "share_of_ceiling" else "share"
        means[metric] = plain_interval(mean_ci(values_of(rows, metric), patients, kind))
    for name in ("volume_error_mm3", "true_volume_error_mm3"):
        means[name] = plain_interval(mean_ci(rows[name].to_numpy(dtype=float), patients, "signed"))
    for name, (over, under) in VOLUME_RATIOS.items():
        names = as_text(with_lesion["patient_id"])
        means[name] = plain_interval(ratio_ci(with_lesion[over], with_lesion[under], names))
    return means


def _from_native(table: pd.DataFrame, thickness_mm: float) -> dict[str, Any]:
    """Re-imaged against native versions of the same series."""
    rows = at_thickness(table, thickness_mm)
    made = rows[~rows["is_native"].astype(bool)].set_index("series_id")
    own = native(table).set_index("series_id").loc[made.index]
    return _differences(made, own)


def _differences(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    patients = as_text(a["patient_id"])
    by_metric = {}
    for metric in METRICS:
        paired = paired_difference(values_of(a, metric), values_of(b, metric), patients)
        by_metric[metric] = {
            "difference": plain_interval(paired.difference),
            "wilcoxon_p": defined(paired.wilcoxon_p),
            "wins": paired.wins,
            "ties": paired.ties,
            "losses": paired.losses,
        }
    return by_metric


def _pair(tables: Mapping[str, pd.DataFrame], first: str, second: str) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The rows that both models have, in one order, and how many only one has."""
    keyed = []
    for name in (first, second):
        table = tables[name].assign(mm=tables[name]["slice_thickness_mm"].round(3))
        keyed.append(table.set_index(["series_id", "mm"]).sort_index())
    common = keyed[0].index.intersection(keyed[1].index)
    a, b = (table.loc[common].reset_index() for table in keyed)
    if a.empty:
        raise UserError(f"'{first}' and '{second}' have no re-imaged scan in common: give both the same split")
    if (a["label_volume_mm3"] - b["label_volume_mm3"]).abs().max() > 1e-3:
        raise UserError(
            f"'{first}' and '{second}' were held against different labels: run iac stress again with both at once"
        )
    return a, b, sum(len(table) for table in keyed) - 2 * len(common)
