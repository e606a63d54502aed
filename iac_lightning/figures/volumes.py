"""Agreement of volumes as ratios on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from iac_lightning.evaluation.tables.volume_size import MIN_LIMITS, volume_ratios
from iac_lightning.figures.style import BLACK, color_of, hide_spares, marker_of

RATIOS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
_WIDEST = 16.0
"""Ratios beyond are drawn at this edge."""


def ratio_figure(tables: Mapping[str, pd.DataFrame], source: str) -> Figure:
    """Bland–Altman plot of the ratio of predicted to labelled volume, one panel a model, the same axes in all.

    Args:
        tables: model label to table of series.
        source: what the figure is drawn from (n, split, seed).
    """
    columns = min(3, len(tables))
    n_rows = -(-len(tables) // columns)
    figure = Figure(figsize=(max(5.0, 3.6 * columns), 0.7 + 3.1 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True)
    for k, (label, table) in enumerate(tables.items()):
        axes = panels[k // columns, k % columns]
        predicted, labelled = (table[c].to_numpy(dtype=float) for c in ("volume_mm3", "label_volume_mm3"))
        both = (predicted > 0) & (labelled > 0)
        style = {"color": color_of(k), "alpha": 0.6, "linewidths": 0, "s": 22}
        ratios = np.clip(predicted[both] / labelled[both], 1 / _WIDEST, _WIDEST)
        axes.scatter(np.sqrt(predicted[both] * labelled[both]), ratios, marker=marker_of(k), **style)
        for volumes, edge, marker in (
            (labelled[(predicted == 0) & (labelled > 0)], 1 / _WIDEST, "v"),
            (predicted[(predicted > 0) & (labelled == 0)], _WIDEST, "^"),
        ):
            axes.scatter(volumes, np.full(len(volumes), edge), marker=marker, **style)
        found = volume_ratios(predicted, labelled)
        axes.axhline(1, color="#bbbbbb", linewidth=0.8)
        if found.n > 0:
            axes.axhline(found.ratio, color=BLACK, linewidth=1.4, label=f"ratio {found.ratio:.2f}")
        if found.n >= MIN_LIMITS:
            limits = f"limits {found.low:.2f} to {found.high:.2f}"
            axes.axhline(found.low, color=BLACK, linewidth=1, linestyle="--", label=limits)
            axes.axhline(found.high, color=BLACK, linewidth=1, linestyle="--")
        if found.n > 0:
            axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.set_xscale("log")
        axes.set_yscale("log", base=2)
        axes.set_ylim(1 / (1.25 * _WIDEST), 1.25 * _WIDEST)
        axes.set_yticks(RATIOS, [f"1/{1 / r:.0f}" if r < 1 else f"{r:.0f}" for r in RATIOS])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda volume, _: f"{volume:g}"))
        axes.set_title(label, fontsize=10, pad=34)
        axes.spines[["top", "right"]].set_visible(False)
    hide_spares(panels, len(tables))
    figure.supxlabel("geometric mean of predicted and labelled volume (mm³)", fontsize=10)
    figure.supylabel("predicted / labelled", fontsize=10)
    figure.suptitle(f"Agreement of volumes as ratios, all scans\n{source}", fontsize=10)
    return figure
