"""Dice and volume of the same heads over slice thickness, drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.clinical.stress import values_of
from iac_lightning.figures.style import BLACK, GREY, color_of, legend_below, marker_of

MOST_HEADS = 60
"""Single heads drawn at most, for each model; of more, every k-th."""

RATIO_LIMITS = (0.1, 10.0)
"""Axis of volume ratios; heads beyond are drawn at its ends."""


def stress_figure(tables: Mapping[str, pd.DataFrame], summaries: Mapping[str, dict[str, Any]]) -> Figure:
    """Four panels over slice thickness: Dice, its change on the same heads, the share of the ceiling, volumes.

    Faint lines are single heads from their native version on; a marker is the mean (or the ratio of totals) of all
    heads that reach a thickness, with its interval, at the left end that of the native versions. The dashed line is
    the ceiling and the dotted one the bound, which depend on scans and labels alone, drawn for the first model.

    Args:
        tables: model label to table (`summarise_stress`).
        summaries: model label to that summary, with `split`.
    """
    first = next(iter(summaries.values()))
    figure = Figure(figsize=(12.0, 8.2), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    dice, change, share, volume = panels
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
    change.axhline(0, color=GREY, linewidth=1)
    for axes in (share, volume):
        axes.axhline(1, color=GREY, linewidth=1)
    for k, (label, table) in enumerate(tables.items()):
        summary, shift = summaries[label], 0.09 * (k - (len(tables) - 1) / 2)
        for head in _heads(table):
            mm, own = head["slice_thickness_mm"], head["dice"].iloc[0]
            _faint(dice, mm, head["dice"], k)
            _faint(change, mm, head["dice"] - own, k)
            _faint(share, mm, values_of(head, "share_of_ceiling"), k)
            _faint(volume, mm, (head["volume_mm3"] / head["label_volume_mm3"]).clip(*RATIO_LIMITS), k)
        for axes, pick in (
            (dice, lambda part: part["dice"]),
            (share, lambda part: part["share_of_ceiling"]),
            (volume, lambda part: part["volume_ratio"]),
        ):
            _curve(axes, summary["thickness"], pick, k, shift)
            _curve(axes, [{**summary["native"], "thickness_mm": 0.0}], pick, k, shift)
        _curve(change, summary["thickness"], _change, k, shift)
    for axes, pick, style in (
        (dice, lambda part: part["ceiling_dice"], "--"),
        (dice, lambda part: part["bound_dice"], ":"),
        (volume, lambda part: part["ceiling_volume_ratio"], "--"),
    ):
        places, means, _, _ = _points(first["thickness"], pick)
        axes.plot(places, means, color=BLACK, linestyle=style, linewidth=1.4, zorder=3)
    dice.set_ylim(-0.03, 1.03)
    share.set_ylim(-0.03, max(1.1, share.get_ylim()[1]))
    dice.set_title("Dice on the thin slices", fontsize=10, loc="left")
    change.set_title("change of Dice from the native version, re-imaged heads", fontsize=10, loc="left")
    share.set_title("Dice / ceiling: what is reached of what the slices still show", fontsize=10, loc="left")
    volume.set_title("volume: predicted / thin label (totals)", fontsize=10, loc="left")
    volume.set_yscale("log")
    volume.set_ylim(RATIO_LIMITS[0] * 0.9, RATIO_LIMITS[1] * 1.1)
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10)
    volume.set_yticks(ticks, [f"{t:g}" for t in ticks])
    volume.yaxis.set_minor_locator(NullLocator())
    for axes in (dice, share, volume):
        _thickness_axis(axes, first, lambda part: part["dice"], native=True)
    _thickness_axis(change, first, _change, native=False)
    handles: list[Line2D] = [
        Line2D([], [], color=color_of(k), marker=marker_of(k), label=label) for k, label in enumerate(tables)
    ]
    handles.append(Line2D([], [], color=BLACK, linestyle="--", label="ceiling: protocol label of the thick slices"))
    handles.append(Line2D([], [], color=BLACK, linestyle=":", label="bound: best mask of the thick voxels"))
    handles.append(Line2D([], [], color=GREY, alpha=0.4, linewidth=0.9, label="one head"))
    legend_below(figure, handles)
    figure.suptitle(
        f"The same heads through thicker slices: {first['n_with_lesion']} heads with lesions, {first['split']} split; "
        "means with 95 % CI over patients",
        fontsize=11,
    )
    return figure


def _change(part: dict[str, Any]) -> dict[str, Any]:
    difference: dict[str, Any] = part["difference_from_native"]["dice"]["difference"]
    return difference


def _heads(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Heads with lesions, thinnest version first."""
    rows = table[table["has_lesion"].astype(bool)].sort_values(["series_id", "slice_thickness_mm"])
    heads = [head for _, head in rows.groupby("series_id", sort=True)]
    return heads[:: max(1, -(-len(heads) // MOST_HEADS))]


def _faint(axes: Axes, mm: ArrayLike, values: ArrayLike, k: int) -> None:
    axes.plot(mm, values, color=color_of(k), alpha=0.22, linewidth=0.9, marker=".", markersize=2.5)


def _curve(
    axes: Axes, parts: Sequence[dict[str, Any]], pick: Callable[[dict[str, Any]], dict[str, Any]], k: int, shift: float
) -> None:
    mm, value, low, high = _points(parts, pick)
    axes.vlines(mm + shift, low, high, color=color_of(k), linewidth=1.8)
    axes.plot(
        mm + shift, value, color=color_of(k), marker=marker_of(k), markersize=7, markeredgecolor="white", linewidth=2
    )


def _points(
    parts: Sequence[dict[str, Any]], pick: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[NDArray[np.float64], ...]:
    """Thickness, estimate and interval where there is an estimate; an interval that is not there has no length."""
    rows = []
    for part in parts:
        estimate = pick(part)
        if estimate["value"] is not None:
            low, high = (estimate["value"] if end is None else end for end in estimate["ci95"])
            rows.append((part["thickness_mm"], estimate["value"], low, high))
    return tuple(np.array(rows, dtype=float).reshape(-1, 4).T)


def _thickness_axis(
    axes: Axes, summary: Mapping[str, Any], pick: Callable[[dict[str, Any]], dict[str, Any]], *, native: bool
) -> None:
    """Thickness with the number of heads behind each mean; a tick close to the one before is set lower."""
    parts = summary["thickness"]
    mm = [part["thickness_mm"] for part in parts]
    names, lowered = [], False
    for k, (place, part) in enumerate(zip(mm, parts, strict=True)):
        lowered = k > 0 and not lowered and place - mm[k - 1] < max(mm) / 9
        names.append(("\n\n" if lowered else "") + f"{place:g}\nn={pick(part)['n_patients']}")
    if native:
        mm, names = [0.0, *mm], [f"native\nn={pick(summary['native'])['n_patients']}", *names]
    axes.set_xticks(mm, names, fontsize=8.5)
    axes.set_xlim(-0.06 * max(mm), max(mm) * 1.05)
    axes.set_xlabel("slice thickness (mm)")
