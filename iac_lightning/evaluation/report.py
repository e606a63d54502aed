"""One page that answers which model segments how well: a self-contained HTML file without scripts or network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.errors import UserError
from iac_lightning.evaluation import figures
from iac_lightning.evaluation.bootstrap import RESAMPLES, PairedDifference, holm, paired_difference
from iac_lightning.files import write_text_atomic

Cell = str | tuple[str, str]
"""Of a table: text, or a figure with its interval, which is set small and grey."""

SIGNIFICANT = 0.05
"""A difference is called established when its Holm-adjusted p is below this and its interval excludes 0."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A scan with outlines.

    Attributes:
        kind: best, median or worst (`example_series`).
        series_id: which series.
        dice: its Dice.
        png: the figure (`figures.png(figures.overlay_figure(…))`).
    """

    kind: str
    series_id: str
    dice: float
    png: bytes


@dataclass(frozen=True, kw_only=True)
class ExtraFigure:
    """Another figure of the page, such as training curves or a reconstruction.

    Attributes:
        title: heading above it.
        caption: what is seen, with n, split and seed.
        png: the figure.
    """

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a section.

    Attributes:
        header: name and unit or remark of each column.
        rows: a cell a column; a row whose first cell begins with "+ " belongs to the one above.
        legend: what the figures are and what they were taken from (n, split, seed).
    """

    header: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    legend: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A further part of the page.

    Attributes:
        title: heading.
        text: what is asked and how to read the answer.
        tables: shown first.
        figures: shown below them.
    """

    title: str
    text: str
    tables: Sequence[Table] = ()
    figures: Sequence[ExtraFigure] = ()


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model on one split.

    Attributes:
        name: name of its run.
        label: how the reader knows it.
        table: from `series_table`.
        summary: from `summarise`.
        threshold: decision threshold of the plain prediction; None where masks were given.
        prior_threshold: threshold of the prediction with the protocol prior.
        parameters: number of trained weights.
        train_seconds: wall time of its training.
        overlays: examples.
    """

    name: str
    label: str
    table: pd.DataFrame
    summary: dict[str, Any]
    threshold: float | None
    prior_threshold: float | None = None
    parameters: int | None = None
    train_seconds: float | None = None
    overlays: Sequence[Overlay] = ()


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What the figures are about and how they were made.

    Attributes:
        title: of the page.
        question: what is asked, in one sentence.
        caveat: what the figures cannot say, shown beside the answer; empty when there is none.
        split: which split is reported.
        seed: of the bootstrap and the runs.
        reference: name of the model that all others are compared with; without one, every pair is compared.
        command: how to make the page again.
        git: commit of the code.
        fingerprint: of the prepared data.
        contact_sheet: picture of the data, PNG.
        data: sentences about the data.
        notes: further remarks.
        figures: further figures.
        missing: what the page lacks and why, in one sentence; empty when nothing.
        mend: commands that make it.
    """

    title: str
    question: str
    split: str
    seed: int
    caveat: str = ""
    reference: str | None = None
    command: str = ""
    git: str = ""
    fingerprint: str = ""
    contact_sheet: Path | None = None
    data: Sequence[str] = ()
    notes: Sequence[str] = ()
    figures: Sequence[ExtraFigure] = ()
    missing: str = ""
    mend: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A pair of models on the same scans.

    Attributes:
        first: label of the first model.
        second: label of the second.
        paired: difference first − second.
        adjusted_p: Wilcoxon p after Holm's correction over the table.
        patients: differences of the patients `[n_patients]`, means over their scans with lesions.
    """

    first: str
    second: str
    paired: PairedDifference
    adjusted_p: float
    patients: NDArray[np.float64] = field(repr=False)

    @property
    def established(self) -> bool:
        """Whether test and interval agree that the difference is more than chance."""
        d = self.paired.difference
        return self.adjusted_p < SIGNIFICANT and (d.low > 0 or d.high < 0)


def compare(
    models: Mapping[str, ModelResult], column: str, seed: int, reference: str | None = None
) -> list[Comparison]:
    """Paired comparisons of a column of the tables over the scans with lesions.

    Args:
        models: name to result; the order decides who is named first.
        column: such as ``dice`` or ``prior_dice``.
        seed: of the bootstrap.
        reference: compare every other model with this one, the other named first; else all pairs.

    Raises:
        UserError: when the models were evaluated on different series, or `reference` is not among them.
    """
    if reference is not None and reference not in models:
        raise UserError(f"reference model '{reference}' is not among {', '.join(models)}; name one of them")
    check_same_series(models)
    pairs = [(n, reference) for n in models if n != reference] if reference else list(combinations(models, 2))
    found = []
    for first, second in pairs:
        a, b = (_lesion_rows(models[name]) for name in (first, second))
        patients = a["patient_id"].to_numpy(dtype=str)
        x, y = a[column].to_numpy(dtype=float), b[column].to_numpy(dtype=float)
        paired = paired_difference(x, y, patients, seed=seed, resamples=RESAMPLES)
        by_patient = pd.Series(x - y).groupby(patients).mean().to_numpy()
        found.append((models[first].label, models[second].label, paired, by_patient))
    adjusted = holm([paired.wilcoxon_p for _, _, paired, _ in found])
    return [
        Comparison(first=first, second=second, paired=paired, adjusted_p=float(p), patients=by_patient)
        for (first, second, paired, by_patient), p in zip(found, adjusted, strict=True)
    ]


def check_same_series(models: Mapping[str, ModelResult]) -> None:
    """Models can be compared only on the same scans with the same labels.

    Raises:
        UserError: naming the model that differs.
    """
    names = list(models)
    expected = _identity(models[names[0]])
    for name in names[1:]:
        other = _identity(models[name])
        if other != expected:
            differing = sorted({row[0] for row in expected ^ other})
            raise UserError(
                f"'{names[0]}' and '{name}' were not evaluated on the same series with the same labels "
                f"({len(differing)} differ: {', '.join(differing[:5])}); evaluate both on the same split of the same "
                "cohort"
            )


def write_report(
    out_dir: Path, models: Mapping[str, ModelResult], context: ReportContext, sections: Sequence[Section] = ()
) -> Path:
    """Write `index.html` and, beside it, `models.csv` and `comparisons.csv` with the same figures.

    Args:
        out_dir: folder, made when missing.
        models: name to result, in the order of the tables.
        context: see `ReportContext`.
        sections: of an analysis (`analysis_page.analysis_sections`); the one on slice thickness replaces the figure.

    Returns:
        Path of the page.

    Raises:
        UserError: without a model, when labels repeat, or when the models were evaluated on different series.
    """
    if not models:
        raise UserError("a report needs at least one evaluated model")
    labels = [model.label for model in models.values()]
    if len(set(labels)) < len(labels):
        raise UserError(f"two models carry the same label ({', '.join(labels)}); give each its own")
    comparisons = compare(models, "dice", context.seed, context.reference)
    every_prior = all("protocol_prior" in model.summary for model in models.values())
    prior = compare(models, "prior_dice", context.seed, context.reference) if every_prior else []
    rows = model_rows(models)
    first = next(iter(models.values())).summary
    page = page_template("report.html.j2").render(
        context=context,
        models=list(models.values()),
        first=first,
        rows=rows,
        comparisons=comparisons,
        prior_comparisons=prior,
        answer=answer(models, comparisons, context),
        charts=_charts(models, comparisons, context, thickness=not sections),
        sections=sections,
        contact_sheet=context.contact_sheet.read_bytes() if context.contact_sheet else None,
        resamples=first["resamples"],
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out_dir / "models.csv", pd.DataFrame(rows).to_csv(index=False))
    write_text_atomic(out_dir / "comparisons.csv", _comparison_table(comparisons, prior).to_csv(index=False))
    write_text_atomic(out_dir / "index.html", page)
    return out_dir / "index.html"


def model_rows(models: Mapping[str, ModelResult]) -> list[dict[str, Any]]:
    """The table of models: one row for the plain prediction, one with the protocol prior where it was computed."""
    rows = []
    for name, model in models.items():
        summary = model.summary
        variants: list[tuple[str, dict[str, Any], float | None]] = [("plain", summary, model.threshold)]
        if "protocol_prior" in summary:
            variants.append(("protocol prior", summary["protocol_prior"], model.prior_threshold))
        for variant, figure, threshold in variants:
            row: dict[str, Any] = {"run": name, "model": model.label, "variant": variant, "threshold": threshold}
            for key in ("dice", "sensitivity", "ppv", "lesion_f1", "dice_all", "volume_icc"):
                row[key] = figure[key].get("mean", figure[key].get("value"))
                row[f"{key}_low"], row[f"{key}_high"] = figure[key]["ci95"]
            row |= {
                "n_both_empty": figure["n_both_empty"],
                "n_false_alarm": figure["n_false_alarm"],
                "volume_bias_mm3": figure["volume_error"]["bias_mm3"],
                "volume_median_absolute_error_mm3": figure["volume_error"]["median_absolute_mm3"],
                "n_series": summary["n_series"],
                "n_with_lesion": summary["n_with_lesion"],
                "n_patients": summary["n_patients"],
                "parameters": model.parameters,
                "train_seconds": model.train_seconds,
            }
            rows.append(row)
    return rows


def answer(models: Mapping[str, ModelResult], comparisons: Sequence[Comparison], context: ReportContext) -> list[str]:
    """The answer in sentences: sample, best mean with its interval, and whether the differences exceed chance."""
    scored = [m for m in models.values() if m.summary["dice"]["mean"] is not None]
    summary = next(iter(models.values())).summary
    everything = f"{summary['n_series']} scans of {summary['n_patients']} patients of the {context.split} split"
    if not scored:
        return [f"No answer: none of the {everything} has a lesion, and Dice needs one."]
    sample = (
        f"over the {summary['n_with_lesion']} scans with lesions ({summary['dice']['n_patients']} patients) among the "
        f"{everything}"
    )
    best = max(scored, key=lambda m: float(m.summary["dice"]["mean"]))
    figure = estimate(best.summary["dice"])
    if len(models) == 1:
        return [f"{best.label} reaches a mean Dice of {figure} {sample}."]
    sentences = [f"{best.label} has the highest mean Dice: {figure} {sample}."]
    sure = [c for c in comparisons if c.established]
    if not sure:
        sentences.append(
            "No difference between two models is established (that is, a 95\u00a0% interval of the paired difference "
            f"without 0 and p below {SIGNIFICANT} after Holm's correction): this sample does not rank the models."
        )
    for c in sure:
        d = c.paired.difference
        better, worse, sign = (c.first, c.second, 1) if d.estimate > 0 else (c.second, c.first, -1)
        low, high = sorted((sign * d.low, sign * d.high))
        sentences.append(
            f"{better} exceeds {worse} by {abs(d.estimate):.3f} [{low:.3f}; {high:.3f}] (Holm-adjusted "
            f"{p_value(c.adjusted_p)})."
        )
    if sure and len(sure) < len(comparisons):
        rest = len(comparisons) - len(sure)
        sentences.append(
            f"The other {f'{rest} paired differences' if rest > 1 else 'paired difference'} may be chance."
        )
    return sentences


def estimate(figure: Mapping[str, Any], digits: int = 3) -> str:
    """A mean or coefficient with its interval, such as ``0.651 [0.620; 0.684]``; a dash when undefined."""
    value = figure.get("mean", figure.get("value"))
    low, high = figure["ci95"]
    return interval(value, low, high, digits)


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """``0.651 [0.620; 0.684]``; without the bracket when there is no interval, a dash without a value."""
    if value is None or isnan(value):
        return "–"
    text = number(value, digits)
    if low is None or high is None or isnan(low) or isnan(high):
        return text
    return f"{text} [{number(low, digits)}; {number(high, digits)}]"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign; a dash when undefined."""
    return "–" if value is None or isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """``p = 0.03`` or ``p < 0.001``."""
    if isnan(p):
        return "p –"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float | None) -> str:
    """``42 s``, ``12 min``, ``3.4 h``; a dash when unknown."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def source(n: int, n_patients: int, context: ReportContext) -> str:
    """What a figure was taken from."""
    return f"{n} scans of {n_patients} patients, {context.split} split, seed {context.seed}"


def _identity(model: ModelResult) -> set[tuple[str, str, float]]:
    columns = (model.table[c] for c in ("series_id", "patient_id", "label_volume_mm3"))
    return {(str(s), str(p), round(float(v), 3)) for s, p, v in zip(*columns, strict=True)}


def _lesion_rows(model: ModelResult) -> pd.DataFrame:
    return model.table[model.table["has_lesion"].astype(bool)].sort_values("series_id")


def _charts(
    models: Mapping[str, ModelResult], comparisons: Sequence[Comparison], context: ReportContext, *, thickness: bool
) -> list[ExtraFigure]:
    """The figures that every report has; slice thickness only where no section is about it."""
    tables = {m.label: m.table for m in models.values()}
    summaries = {m.label: m.summary for m in models.values()}
    first = next(iter(models.values())).summary
    lesions = source(first["dice"]["n"], first["dice"]["n_patients"], context)
    everything = source(first["n_series"], first["n_patients"], context)
    charts = [
        (
            "Dice of each model",
            "A point is a patient (mean over the patient's scans with lesions); the black bar is the mean over scans, "
            "its line the 95\u00a0% interval over patients. Hollow points: after the protocol prior.",
            figures.dice_figure(tables, summaries, lesions),
        )
    ]
    if comparisons:
        drawn = [(f"{c.first} − {c.second}", c.patients, c.paired) for c in comparisons]
        charts.append(
            (
                "Differences on the same scans",
                "A point is a patient. An interval (black line) that crosses the dashed line does not tell the two "
                "models apart; one that does not cross it is not yet corrected for the number of comparisons.",
                figures.difference_figure(drawn, lesions),
            )
        )
    if thickness:
        charts.append(
            (
                "Slice thickness",
                "Thick slices average small lesions away. A faint point is a scan, a large one the mean of a stratum "
                "with its 95\u00a0% interval over patients; models are shifted sideways a little so that they do not "
                "hide each other.",
                figures.thickness_figure(tables, summaries, lesions),
            )
        )
    charts.append(
        (
            "Agreement of volumes",
            "A point is a scan, with or without lesions. Solid line: mean difference (bias); dashed lines: 95\u00a0% "
            "limits of agreement, within which 95\u00a0% of the scans are expected.",
            figures.volume_figure(tables, summaries, everything),
        )
    )
    return [ExtraFigure(title=title, caption=text, png=figures.png(figure)) for title, text, figure in charts]


def _comparison_table(plain: Sequence[Comparison], prior: Sequence[Comparison]) -> pd.DataFrame:
    columns = ["variant", "first", "second", "difference", "low", "high", "p", "p_holm", "wins", "ties", "losses"]
    rows = []
    for variant, comparisons in (("plain", plain), ("protocol prior", prior)):
        for c in comparisons:
            paired, d = c.paired, c.paired.difference
            figure = (d.estimate, d.low, d.high, paired.wilcoxon_p, c.adjusted_p)
            rows.append((variant, c.first, c.second, *figure, paired.wins, paired.ties, paired.losses))
    return pd.DataFrame(rows, columns=columns)


def _data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def page_template(name: str) -> jinja2.Template:
    """A template of this folder, with the filters of the pages; a name it does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(png=_data_uri, number=number, p_value=p_value, duration=duration)
    environment.globals["interval"] = interval
    return environment.get_template(name)
