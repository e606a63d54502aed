"""Two evaluated models on the same scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.analysis import SLOPES, paired_measure, risk_change, slope_difference
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, cutoffs_from_development
from iac_lightning.evaluation.statistics.plain import correct, plain
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.series_table import read_series_table
from iac_lightning.runs.looks import count_looks, end_look
from iac_lightning.workflows.guard import guard_sentences, register_again
from iac_lightning.workflows.reports.evaluated import (
    Entry,
    check_evaluated,
    cohort_table,
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
        slopes per mm of slice thickness), `risk` (None where there are no cut-offs) with `cutoffs`, how many looks
        both models have had, and `attention` (by model: what speaks against a fair judgement).

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
    taken = {name: look_at(entry, "compare", split) for name, entry in entries.items()}
    found = {name: evaluation(entry, split, taken[name]) for name, entry in entries.items()}
    tables = {name: table.sort_values("series_id", ignore_index=True) for name, (table, _) in found.items()}
    a, b = tables.values()
    same = list(a["series_id"]) == list(b["series_id"])
    if not same or not (a["label_volume_mm3"] - b["label_volume_mm3"]).abs().max() < 1e-3:
        raise UserError(
            f"{' and '.join(tables)} were not evaluated on the same series with the same labels; evaluate both on the "
            "same split of the same cohort"
        )
    by_metric = {metric: paired_measure(a, b, metric) for metric in metrics}
    correct(by_metric.values(), "wilcoxon_p")
    for metric, paired in by_metric.items():
        paired |= slope_difference(a, b, metric)
    for kind in SLOPES:
        correct(paired[kind] for paired in by_metric.values())
    cutoffs = fixed_cutoffs(settings) or development_cutoffs(entries[name].directory for name in tables)
    names = list(tables)
    result: dict[str, Any] = {
        "model": names[0],
        "baseline": names[1],
        "split": split,
        "n_series": len(a),
        "n_patients": int(a["patient_id"].nunique()),
        "n_with_lesion": int(a["has_lesion"].astype(bool).sum()),
        "metrics": by_metric,
        "cutoffs": asdict(cutoffs) if cutoffs else None,
        "risk": risk_change(a, b, cutoffs) if cutoffs else None,
        "test_looks": {name: count_looks(entry.directory)["n"] for name, entry in entries.items()},
        "attention": {},
    }
    for name, entry in entries.items():
        table, summary = cohort_table(entry), found[name][1]
        register_again(table, taken[name], "compare", summary)
        result["attention"][name] = guard_sentences(entry.directory, summary, split, table)
        end_look(taken[name])
    return dict(plain(result))


def development_cutoffs(folders: Any) -> RiskCutoffs | None:
    """Cut-offs from the labels of the development split, where a model was evaluated on it and they suffice."""
    paths = [Path(folder) / "evaluation" / "dev.csv" for folder in folders]
    tables = [read_series_table(path) for path in paths if path.exists()]
    try:
        return cutoffs_from_development(max(tables, key=len)) if tables else None
    except UserError:
        return None
