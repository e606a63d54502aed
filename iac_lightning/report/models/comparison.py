"""Two models on the same scans in words, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from iac_lightning.evaluation.tables.comparison import SIGNIFICANT
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.report.words import estimate, number, p_value, share, share_cell


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """The comparison in a few lines.

    Args:
        comparison: from `iac compare` (`workflows.reports.compare`).
    """
    lines = [
        f"{comparison['model']} − {comparison['baseline']}, {comparison['split']}: {comparison['n_series']} scans of "
        f"{comparison['n_patients']} patients, {comparison['n_with_lesion']} with lesions"
    ]
    for metric, m in comparison["metrics"].items():
        measure = MEASURES[metric]
        d, within = m["difference"], m["slope_within_patients_per_mm"]
        low, high = (float("nan") if v is None else v for v in d["ci95"])
        sure = m["holm_p"] is not None and m["holm_p"] < SIGNIFICANT and (low > 0 or high < 0)
        lines += [
            f"  {measure.words}: {estimate(d, measure.digits)} over {d['n']} scans of "
            f"{d['n_patients']} patients: {_verdict(d['value'], measure.better) if sure else 'not established'}",
            f"    Wilcoxon over patients {p_value(m['wilcoxon_p'])}, after Holm {p_value(m['holm_p'])}; "
            f"Cohen's dz {number(m['cohen_dz'], 2)}, rank-biserial {number(m['rank_biserial'], 2)}",
            f"    higher / equal / lower on {m['wins']} / {m['ties']} / {m['losses']} scans",
            f"    difference of slopes per mm of slice thickness "
            f"{estimate(m['slope_per_mm'], measure.digits + 1)}; within patients "
            f"{estimate(within, measure.digits + 1)} ({within['n_patients']} patients with several thicknesses)",
        ]
    risk = comparison["risk"]
    if risk:
        change = risk["relative_change"]
        lines += [
            f"  risk groups: {risk['misclassified']} against {risk['baseline_misclassified']} scans misclassified, "
            f"{_change(change)}; sign test over patients {p_value(risk['patients']['exact_p'])}, McNemar over scans "
            f"{p_value(risk['mcnemar']['exact_p'])}",
            f"    limits {_limits(comparison['cutoffs'])} mm³: {comparison['cutoffs']['source']}",
        ]
    else:
        lines.append("  risk groups: no cut-offs; fix them (evaluation.risk_cutoffs_mm3=[0,…,…]) or evaluate dev")
    if comparison["split"] == "test":
        looks = ", ".join(f"{name} {n}" for name, n in comparison["test_looks"].items())
        lines.append(f"  looks at the test split so far, this one included: {looks}")
    for name, sentences in comparison.get("attention", {}).items():
        lines += [f"  attention: {name}: {sentence}" for sentence in sentences]
    return "\n".join(lines)


def _verdict(difference: float, better: int) -> str:
    if not better:
        return "established"
    return "established: better" if difference * better > 0 else "established: worse"


def _change(change: Mapping[str, Any]) -> str:
    if change["value"] is None or isnan(change["value"]):
        return "no relative change, for the baseline makes no error"
    value, small = share(change["value"], sign=True), share_cell(change)
    return value if isinstance(small, str) else f"{value} [{small[1]}]"


def _limits(cutoffs: Mapping[str, Any]) -> str:
    return ", ".join(f"{cutoffs[name]:.3g}" for name in ("none_mm3", "low_mm3", "medium_mm3"))
