"""One page about thicker slices: figure, slopes, models compared, a table by thickness."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.files import write_text_atomic
from iac_lightning.evaluation.clinical.stress import METRICS, SHARED
from iac_lightning.figures.figures import png
from iac_lightning.figures.stress import stress_figure
from iac_lightning.report.html import page_template
from iac_lightning.report.words import number

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
        comparisons: from `evaluation.stress.compare_stress`.

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
        answer=answer(summaries, comparisons),
        failed={name: why for summary in summaries.values() for name, why in summary["failed"].items()},
        chart=f"data:image/png;base64,{base64.b64encode(png(stress_figure(tables, summaries))).decode()}",
    )
    write_text_atomic(out / "index.html", page)
    return out / "index.html"


def answer(summaries: Mapping[str, dict[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which model loses how much Dice per mm on the same heads, and which loses more."""
    sentences = []
    for label, summary in summaries.items():
        slope = summary["slope_within_patients_per_mm"]
        if slope["dice"]["value"] is None:
            sentences.append(f"{label}: no head with a lesion has versions of different thickness.")
            continue
        sentences.append(
            f"{label}: Dice changes by {_estimate(slope['dice'])} per mm of slice thickness on the same "
            f"{slope['dice']['n_patients']} heads, where the ceiling changes by {_estimate(slope['ceiling_dice'])}; "
            f"the share of the ceiling that it reaches changes by {_estimate(slope['share_of_ceiling'])}."
        )
    for c in comparisons:
        for metric, words in (("dice", "Dice"), ("share_of_ceiling", "of the share of the ceiling")):
            slope = c["slope_difference_per_mm"][metric]
            low, high = slope["ci95"]
            pair = f"({c['first']} − {c['second']}: {_estimate(slope)} per mm)"
            if low is None or low <= 0 <= high:
                sentences.append(f"Which of {c['first']} and {c['second']} loses more {words} is open {pair}.")
            else:
                worse, better = (c["first"], c["second"]) if slope["value"] < 0 else (c["second"], c["first"])
                sentences.append(f"{worse} loses more {words} than {better} {pair}.")
    return sentences


def _estimate(figure: Mapping[str, Any]) -> str:
    low, high = figure["ci95"]
    ends = "" if low is None else f" [{number(low, 4)}; {number(high, 4)}]"
    return f"{number(figure['value'], 4)}{ends}"
