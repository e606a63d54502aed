"""Two evaluated models on the same scans, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.analysis import correct, paired_measure, plain, risk_change, slope_difference
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, cutoffs_from_development
from iac_lightning.evaluation.tables.comparison import SIGNIFICANT
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.summary import read_series_table
from iac_lightning.report.words import interval, number, p_value, share
from iac_lightning.runs.directory import Run
from iac_lightning.runs.looks import count_looks
from iac_lightning.workflows.external.evaluate import SEED
from iac_lightning.workflows.reports.evaluated import (
    Entry,
    check_evaluated,
    evaluation,
    fixed_cutoffs,
    look_at,
    named,
    shared_settings,
)


def compare(first: Entry, second: Entry, split: str, metrics: Sequence[str] = ("dice",)) -> dict[str, Any]:
    """The first model against the second, which is the baseline; on the test split a look, recorded with both.

    Args:
        first: evaluated on the split.
        second: likewise, on the same series.
        split: which evaluation.
        metrics: keys of `measures.MEASURES`; Holm's correction runs over all of them.

    Returns:
        Plain types: `metrics` (by metric: difference, Wilcoxon, Holm, effect sizes, wins, ties, losses, difference of
        slopes per mm of slice thickness), `risk` (None where there are no cut-offs) with `cutoffs`, and how many looks
        both models have had.

    Raises:
        UserError: when a model was not evaluated on the split, on other series, or a metric is not known.
    """
    unknown = [metric for metric in metrics if metric not in MEASURES]
    if unknown:
        raise UserError(f"--metric {', '.join(unknown)}: expected some of {', '.join(MEASURES)}")
    entries = named([first, second])
    settings = shared_settings([first, second])
    for entry in entries.values():
        check_evaluated(entry, split)
    tables: dict[str, pd.DataFrame] = {}
    for name, entry in entries.items():
        look = look_at(entry, "compare", split)
        tables[name] = evaluation(entry, split, look)[0].sort_values("series_id", ignore_index=True)
    a, b = tables.values()
    same = list(a["series_id"]) == list(b["series_id"])
    if not same or not (a["label_volume_mm3"] - b["label_volume_mm3"]).abs().max() < 1e-3:
        raise UserError(
            f"{' and '.join(tables)} were not evaluated on the same series with the same labels; evaluate both on the "
            "same split of the same cohort"
        )
    seed = next((entry.config.seed for entry in entries.values() if isinstance(entry, Run)), SEED)
    found = {metric: paired_measure(a, b, metric, seed=seed) for metric in metrics}
    correct(list(found.values()), "wilcoxon_p")
    for metric, result in found.items():
        result |= slope_difference(a, b, metric, seed=seed)
    cutoffs = fixed_cutoffs(settings) or development_cutoffs(entries[name].directory for name in tables)
    names = list(tables)
    result = {
        "model": names[0],
        "baseline": names[1],
        "split": split,
        "seed": seed,
        "n_series": len(a),
        "n_patients": int(a["patient_id"].nunique()),
        "n_with_lesion": int(a["has_lesion"].astype(bool).sum()),
        "metrics": found,
        "cutoffs": asdict(cutoffs) if cutoffs else None,
        "risk": risk_change(a, b, cutoffs, seed=seed) if cutoffs else None,
        "test_looks": {name: count_looks(entry.directory)["n"] for name, entry in entries.items()},
    }
    return dict(plain(result))


def development_cutoffs(folders: Any) -> RiskCutoffs | None:
    """Cut-offs from the labels of the development split, where a model was evaluated on it and they suffice."""
    paths = [Path(folder) / "evaluation" / "dev.csv" for folder in folders]
    tables = [read_series_table(path) for path in paths if path.exists()]
    try:
        return cutoffs_from_development(max(tables, key=len)) if tables else None
    except UserError:
        return None


def describe(found: dict[str, Any]) -> str:
    """The comparison in a few lines."""
    lines = [
        f"{found['model']} − {found['baseline']}, {found['split']}: {found['n_series']} scans of "
        f"{found['n_patients']} patients, {found['n_with_lesion']} with lesions; seed {found['seed']}"
    ]
    for metric, m in found["metrics"].items():
        measure = MEASURES[metric]
        d, within = m["difference"], m["slope_within_patients_per_mm"]
        low, high = (float("nan") if v is None else v for v in d["ci95"])
        sure = m["holm_p"] is not None and m["holm_p"] < SIGNIFICANT and (low > 0 or high < 0)
        lines += [
            f"  {measure.words}: {interval(d['value'], low, high, measure.digits)} over {d['n']} scans of "
            f"{d['n_patients']} patients: {_verdict(d['value'], measure.better) if sure else 'not established'}",
            f"    Wilcoxon over patients {p_value(m['wilcoxon_p'])}, after Holm {p_value(m['holm_p'])}; "
            f"Cohen's dz {number(m['cohen_dz'], 2)}, rank-biserial {number(m['rank_biserial'], 2)}",
            f"    higher / equal / lower on {m['wins']} / {m['ties']} / {m['losses']} scans",
            f"    difference of slopes per mm of slice thickness "
            f"{_figure(m['slope_per_mm'], measure.digits + 1)}; within patients "
            f"{_figure(within, measure.digits + 1)} ({within['n_patients']} patients with several thicknesses)",
        ]
    risk = found["risk"]
    if risk:
        change = risk["relative_change"]
        lines += [
            f"  risk groups: {risk['misclassified']} against {risk['baseline_misclassified']} scans misclassified, "
            f"{_change(change)}; sign test over patients {p_value(risk['patients']['exact_p'])}, McNemar over scans "
            f"{p_value(risk['mcnemar']['exact_p'])}",
            f"    limits {', '.join(f'{v:.3g}' for v in _limits(found['cutoffs']))} mm³: {found['cutoffs']['source']}",
        ]
    else:
        lines.append("  risk groups: no cut-offs; fix them (evaluation.risk_cutoffs_mm3=[0,…,…]) or evaluate dev")
    if found["split"] == "test":
        looks = ", ".join(f"{name} {n}" for name, n in found["test_looks"].items())
        lines.append(f"  looks at the test split so far, this one included: {looks}")
    return "\n".join(lines)


def _verdict(difference: float, better: int) -> str:
    if not better:
        return "established"
    return "established: better" if difference * better > 0 else "established: worse"


def _figure(figure: dict[str, Any], digits: int) -> str:
    low, high = figure["ci95"]
    return interval(figure["value"], low, high, digits)


def _change(change: dict[str, Any]) -> str:
    if change["value"] is None or isnan(change["value"]):
        return "no relative change, for the baseline makes no error"
    low, high = (share(v, sign=True) for v in change["ci95"])
    return f"{share(change['value'], sign=True)} [{low}; {high}]"


def _limits(cutoffs: dict[str, Any]) -> tuple[float, float, float]:
    return cutoffs["none_mm3"], cutoffs["low_mm3"], cutoffs["medium_mm3"]
