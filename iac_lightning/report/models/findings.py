"""What each figure of the page shows, in words and values, for who does not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from iac_lightning.evaluation.tables.comparison import Comparison
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.page import ExtraFigure, Section
from iac_lightning.report.words import estimate, interval, number, share


def described(figures: Sequence[ExtraFigure], words: Mapping[str, str]) -> list[ExtraFigure]:
    """Figures with the words for their names; those that have words of their own keep them.

    Args:
        figures: of the page.
        words: name of a figure to what it shows.
    """
    return [replace(f, alt=f.alt or words.get(f.name, "") or _heading(f)) for f in figures]


def described_sections(sections: Sequence[Section], words: Mapping[str, str]) -> list[Section]:
    """Sections whose figures are `described`."""
    return [replace(section, figures=described(section.figures, words)) for section in sections]


def of_models(models: Mapping[str, ModelResult], comparisons: Sequence[Comparison]) -> dict[str, str]:
    """What the figures of every page show.

    Args:
        models: name to result.
        comparisons: in Dice.
    """
    summaries = {model.label: model.summary for model in models.values()}
    strata = _each({label: _strata(s["thickness"]) for label, s in summaries.items()})
    pairs = []
    for c in comparisons:
        d = c.paired.difference
        verdict = "established" if c.established else "not established"
        pairs.append(f"{c.first} − {c.second} {interval(d.estimate, d.low, d.high, sign=True)} ({verdict})")
    return {
        "dice": f"Mean Dice: {_each({label: estimate(s['dice']) for label, s in summaries.items()})}.",
        "differences": f"Differences in Dice: {'; '.join(pairs)}.",
        "thickness": f"Mean Dice by slice thickness: {strata}.",
        "thickness_strata": f"Mean Dice by slice thickness: {strata}.",
        "volumes": "Predicted minus labelled volume: "
        + _each({label: _limits(s["volume_error"]) for label, s in summaries.items()})
        + ".",
        "controls": f"Dice under controls: {_each({n: t for n, s in summaries.items() if (t := _controls(s))})}.",
    }


def of_analysis(models: Mapping[str, ModelResult], analysis: Mapping[str, Any]) -> dict[str, str]:
    """What the figures of an analysis show.

    Args:
        models: name to result.
        analysis: from `analyse`.
    """
    labels = {name: model.label for name, model in models.items()}
    found: Mapping[str, Any] = analysis["models"]
    slopes = {labels[n]: estimate(m["thickness"]["dice"]["slope_per_mm"], 4, sign=True) for n, m in found.items()}
    areas = {labels[n]: estimate(m["detection"]["auc"]) for n, m in found.items()}
    words = {
        "thickness_slopes": f"Change of Dice per mm of slice thickness: {_each(slopes)}.",
        "roc": f"Area under the ROC curve over patients: {_each(areas)}.",
    }
    risks = {labels[n]: m["risk"]["misclassified"] for n, m in found.items() if "risk" in m}
    if risks:
        wrong = _each({label: f"{n} of {analysis['n_series']}" for label, n in risks.items()})
        words["confusion"] = f"Scans in the wrong risk group: {wrong}."
    coverages = [(labels[n], m["conformal"]["coverage"]) for n, m in found.items() if "conformal" in m]
    if coverages:
        of_all = {label: share(parts[0]["coverage"]) for label, parts in coverages if parts}
        promised = share(analysis["settings"]["coverage"])
        words["coverage"] = f"Measured coverage, {promised} promised: {_each(of_all)}."
    for k, (label, parts) in enumerate(coverages):
        if parts:
            words[f"intervals_{k + 1}"] = f"{label}: {share(parts[0]['coverage'])} of labelled volumes lie inside."
    return words


def _heading(figure: ExtraFigure) -> str:
    return " ".join(part for part in (figure.title and f"{figure.title}.", figure.caption) if part)


def _each(values: Mapping[str, str]) -> str:
    return "; ".join(f"{label} {value}" for label, value in values.items()) or "none"


def _strata(strata: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{number(s['mean'])} at {s['stratum']}" for s in strata if s["mean"] is not None) or "–"


def _limits(error: Mapping[str, Any]) -> str:
    low, high = error["limits_mm3"]
    return f"{interval(error['bias_mm3'], low, high, 1, sign=True)} mm³ (bias and limits of agreement)"


def _controls(summary: Mapping[str, Any]) -> str:
    under = [f"{name.replace('_', ' ')} {estimate(c['dice'])}" for name, c in summary.get("controls", {}).items()]
    return f"{estimate(summary['dice'])} as it is, {', '.join(under)}" if under else ""
