"""Figures of an ablation: what each factor does, how two of them interact, and all cells at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from iac_lightning.evaluation.ablation.effects import Effect
from iac_lightning.figures.figures import BLACK, GREY, MODEL_COLORS

MARKERS = "osD^vPX"

Means = Mapping[tuple[str, str], Effect]
"""(level of the first factor, level of the second) to mean."""


def main_effects_figure(
    means: Mapping[str, Sequence[Effect]],
    seeds: Mapping[str, Mapping[str, Mapping[int, float]]],
    source: str,
    metric: str = "Dice",
) -> Figure:
    """A panel a factor: marginal mean of each level with its interval, single seeds as points.

    Args:
        means: factor to the means of its levels, in the order of the axis.
        seeds: factor to level to seed to mean.
        source: what the figure is drawn from (n, split, seed).
        metric: name of the figure.
    """
    shown = {factor: found for factor, found in means.items() if found}
    widths = [max(2, len(found)) + 0.8 for found in shown.values()]
    figure = Figure(figsize=(max(6.0, min(10.0, 1.1 * sum(widths))), 4.0), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False, width_ratios=widths)[0]
    for panel, (factor, found) in zip(panels, shown.items(), strict=True):
        for x, effect in enumerate(found):
            points = list(seeds.get(factor, {}).get(effect.level, {}).values())
            shift = np.linspace(-0.09, 0.09, len(points)) + 0.2 if len(points) > 1 else np.full(len(points), 0.2)
            panel.scatter(x + shift, points, s=20, color=GREY, alpha=0.8, linewidths=0, zorder=2)
            _mean(panel, x, effect, BLACK, "o")
        panel.set_xticks(range(len(found)), [_wrapped(e.level) for e in found])
        panel.set_xlim(-0.6, len(found) - 0.4)
        panel.set_xlabel(factor, fontweight="bold")
        panel.yaxis.set_major_locator(MaxNLocator(6))
        _plain(panel)
    panels[0].set_ylabel(f"{metric} (marginal mean)")
    _title(figure, "Main effects", source)
    _legend(
        figure,
        [
            Line2D([], [], marker="o", color=BLACK, markersize=7, label="mean over seeds, 95 % CI"),
            Line2D([], [], marker="o", color=GREY, linestyle="", markersize=5, label="one seed"),
        ],
    )
    return figure


def interaction_figure(
    means: Means, factor: str, other: str, levels: Sequence[str], others: Sequence[str], source: str
) -> Figure:
    """A line for each level of the second factor over the levels of the first, with intervals.

    Args:
        means: from `effects.two_way_means`.
        factor: on the axis.
        other: the lines.
        levels: of the first factor, in the order of the axis.
        others: of the second factor.
        source: what the figure is drawn from.
    """
    figure = Figure(figsize=(max(6.0, min(9.0, 1.7 * len(levels) + 1.5)), 4.2), layout="constrained")
    panel = figure.subplots()
    handles = []
    for k, y in enumerate(others):
        color, marker = MODEL_COLORS[k % len(MODEL_COLORS)], MARKERS[k % len(MARKERS)]
        shift = 0.09 * (k - (len(others) - 1) / 2)
        at = [i for i, x in enumerate(levels) if (x, y) in means]
        runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if at else []
        for run in runs:  # a line does not cross a hole
            panel.plot(run + shift, [means[levels[i], y].estimate for i in run], color=color, linewidth=1.4, zorder=1)
        for i in at:
            _mean(panel, i + shift, means[levels[i], y], color, marker)
        handles.append(Line2D([], [], color=color, marker=marker, label=y))
    panel.set_xticks(range(len(levels)), [_wrapped(level) for level in levels])
    panel.set_xlim(-0.5, len(levels) - 0.5)
    panel.set_xlabel(factor, fontweight="bold")
    panel.set_ylabel("Dice")
    _plain(panel)
    _title(figure, f"{factor} × {other}", source)
    _legend(figure, handles, other)
    return figure


def heat_map_figure(
    means: Means, factor: str, other: str, levels: Sequence[str], others: Sequence[str], source: str
) -> Figure:
    """Mean of each combination of two factors, its interval written into it; holes are hatched.

    Args:
        means: from `effects.two_way_means`.
        factor: the rows.
        other: the columns.
        levels: of the rows.
        others: of the columns.
        source: what the figure is drawn from.
    """
    figure = Figure(figsize=(max(6.0, 1.75 * len(others) + 2.2), 0.72 * len(levels) + 1.7), layout="constrained")
    panel = figure.subplots()
    values = np.array([[means[x, y].estimate if (x, y) in means else np.nan for y in others] for x in levels])
    low, high = np.nanmin(values), np.nanmax(values)
    image = panel.imshow(values, cmap="cividis", aspect="auto", vmin=low, vmax=high if high > low else low + 1e-3)
    for i, x in enumerate(levels):
        for j, y in enumerate(others):
            if (x, y) not in means:
                panel.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="#eeeeee", edgecolor=GREY, hatch="///"))
                panel.text(j, i, "no result", ha="center", va="center", fontsize=9, bbox={"fc": "white", "ec": "none"})
                continue
            effect = means[x, y]
            color = "white" if high == low or (effect.estimate - low) / (high - low) < 0.5 else "black"
            panel.text(j, i - 0.13, f"{effect.estimate:.3f}", ha="center", va="center", color=color, fontsize=11)
            if not np.isnan(effect.low):
                text = f"[{effect.low:.3f}; {effect.high:.3f}]"
                panel.text(j, i + 0.22, text, ha="center", va="center", color=color, fontsize=8.5)
    panel.set_xticks(range(len(others)), [_wrapped(y) for y in others])
    panel.set_yticks(range(len(levels)), levels)
    panel.set_xlabel(other, fontweight="bold")
    panel.set_ylabel(factor, fontweight="bold")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=panel, label="Dice", ticks=MaxNLocator(5))
    _title(figure, f"Dice of {factor} × {other}, 95 % CI", source)
    return figure


def _mean(panel: Axes, x: float, effect: Effect, color: str, marker: str) -> None:
    if not np.isnan(effect.low):
        panel.vlines(x, effect.low, effect.high, color=color, linewidth=2, zorder=3)
    panel.plot(x, effect.estimate, marker=marker, color=color, markersize=7, zorder=4, linestyle="")


def _plain(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#dddddd", linewidth=0.8)
    panel.set_axisbelow(True)


def _legend(figure: Figure, handles: list[Line2D], title: str | None = None) -> None:
    figure.legend(
        handles=handles,
        title=title,
        loc="outside lower center",
        ncols=min(5, len(handles)),
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def _title(figure: Figure, title: str, source: str) -> None:
    """Above all panels; the source is broken where the figure ends."""
    lines = textwrap.wrap(source, width=int(13 * figure.get_figwidth()))
    figure.suptitle("\n".join([title, *lines]), fontsize=10, x=0.01, ha="left")


def _wrapped(level: str) -> str:
    """A long name on two lines, broken at a space or comma in its middle."""
    if len(level) <= 14 or " " not in level:
        return level
    words = level.split(" ")
    cuts = range(1, len(words))
    best = min(cuts, key=lambda k: abs(len(" ".join(words[:k])) - len(" ".join(words[k:]))))
    return " ".join(words[:best]) + "\n" + " ".join(words[best:])
