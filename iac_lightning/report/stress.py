"""Thicker slices in words: one page (figure, slopes, models compared, a table by thickness), and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.files import write_text_atomic
from iac_lightning.evaluation.clinical.stress import METRICS, SHARED
from iac_lightning.evaluation.statistics.paired import SIGNIFICANT
from iac_lightning.figures.stress import stress_figure
from iac_lightning.figures.style import png
from iac_lightning.report.html import page_template
from iac_lightning.report.words import estimate, number

_NAMES = {
    "dice": ("Dice", ""),
    "ceiling_dice": ("ceiling", "Dice"),
    "share_of_ceiling": ("Dice / ceiling", "the model's own"),
    "bound_dice": ("bound", "best mask of thick voxels"),
    "sensitivity": ("sensitivity", "voxels"),
    "ppv": ("PPV", "voxels"),
    "lesion_f1": ("lesion F1", ""),
}


def write_stress_page(
    out: Path,
    tables: Mapping[str, pd.DataFrame],
    summaries: Mapping[str, dict[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> Path:
    """Write `index.html`, which needs no other file.

    Args:
        out: folder, made when missing.
        tables: model label to table.
        summaries: model label to summary, as in the JSON of a run.
        comparisons: from `compare_stress`.

    Returns:
        Path of the page.
    """
    first = next(iter(summaries.values()))
    phantom = first["native"]["true_volume_ratio"]["value"] is not None
    columns = [
        ("heads", ""),
        ("Dice", "heads with lesions"),
        ("ceiling", "Dice"),
        ("Dice / ceiling", ""),
        ("bound", "Dice"),
        ("change of Dice", "from native, re-imaged heads"),
        ("sensitivity", "voxels"),
        ("PPV", "voxels"),
        ("lesion F1", ""),
        ("volume", "predicted / label"),
        ("ceiling's volume", "over label"),
        *([("volume", "predicted / true")] if phantom else []),
        ("false alarms", "heads without lesion"),
    ]
    page = page_template("stress.html.j2").render(
        number=number,
        named=lambda parts: [(f"{part['thickness_mm']:g} mm", part) for part in parts],
        first=first,
        summaries=summaries,
        comparisons=comparisons,
        unpaired=sum(c["n_unpaired"] for c in comparisons),
        metrics=list(METRICS),
        own=[metric for metric in METRICS if metric not in SHARED],
        named_columns=lambda metrics: [_NAMES[metric] for metric in metrics],
        columns=columns,
        phantom=phantom,
        answer=answer_about_stress(summaries, comparisons),
        failed={name: why for summary in summaries.values() for name, why in summary["failed"].items()},
        chart=png(stress_figure(tables, summaries)),
    )
    write_text_atomic(out / "index.html", page)
    return out / "index.html"


def answer_about_stress(summaries: Mapping[str, dict[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which model loses how much Dice per mm on the same heads, and which loses more."""
    sentences = []
    for label, summary in summaries.items():
        slope = summary["slope_within_patients_per_mm"]
        if slope["dice"]["value"] is None:
            sentences.append(f"{label}: no head with a lesion has versions of different thickness.")
            continue
        sentences.append(
            f"{label}: Dice changes by {estimate(slope['dice'], 4)} per mm of slice thickness on the same "
            f"{slope['dice']['n_patients']} heads, where the ceiling changes by {estimate(slope['ceiling_dice'], 4)}; "
            f"the share of the ceiling that it reaches changes by {estimate(slope['share_of_ceiling'], 4)}."
        )
    for c in comparisons:
        for metric, words in (("dice", "Dice"), ("share_of_ceiling", "of the share of the ceiling")):
            slope = c["slope_difference_per_mm"][metric]
            low, high = slope["ci95"]
            pair = f"({c['first']} − {c['second']}: {estimate(slope, 4)} per mm)"
            p = slope.get("holm_p")  # comparisons of an earlier version were not corrected
            if low is None or low <= 0 <= high or (p is not None and p >= SIGNIFICANT):
                sentences.append(f"Which of {c['first']} and {c['second']} loses more {words} is open {pair}.")
            else:
                worse, better = (c["first"], c["second"]) if slope["value"] < 0 else (c["second"], c["first"])
                sentences.append(f"{worse} loses more {words} than {better} {pair}.")
    return sentences


def describe_stress(summary: dict[str, Any]) -> str:
    """The summary in a few lines, for the terminal."""
    own = summary["native"]
    low, _, high = own["thickness_mm"]
    lines = [
        f"{summary['run']}, {summary['split']}: {summary['n_patients']} heads, {summary['n_with_lesion']} with lesions",
        f"  native ({low:g} to {high:g} mm): {_line(own)}",
        *(f"  {part['thickness_mm']:g} mm: {_line(part)}" for part in summary["thickness"]),
    ]
    slope = summary["slope_within_patients_per_mm"]
    slopes = [f"{metric} {estimate(slope[metric], 4, sign=True)}" for metric in METRICS if metric != "ppv"]
    lines.append(f"  per mm, same heads: {'; '.join(slopes)}")
    lines += [f"  failed: {name}: {why}" for name, why in summary["failed"].items()]
    return "\n".join(lines)


def _line(part: dict[str, Any]) -> str:
    dice_, ceiling, ratio = (part[key]["value"] for key in ("dice", "ceiling_dice", "volume_ratio"))
    values = (("Dice", dice_), ("ceiling", ceiling), ("volume ratio", ratio))
    return f"{part['n_patients']} heads; " + "; ".join(f"{name} {number(value)}" for name, value in values)
