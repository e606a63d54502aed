"""The answer in sentences: which model is better and by how much, how sure that is, and where the best model fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iac_lightning.evaluation.metrics.lesions import SMALL_LESION_MM3
from iac_lightning.evaluation.statistics.plain import plain_interval
from iac_lightning.evaluation.statistics.power import SampleSize, patients_needed
from iac_lightning.evaluation.tables.comparison import SIGNIFICANT, Comparison
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.summary import weakest_stratum
from iac_lightning.report.page import ReportContext
from iac_lightning.report.words import NBSP, estimate, number, p_value, plural, share

POWER = 0.8
"""Of the sample size that is named where a difference is not established."""

_BRACKETS = f"In brackets: 95{NBSP}% interval over patients."


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the first screen says, each a list of sentences.

    Attributes:
        better: which model has the higher Dice, and by how much.
        sure: whether that is more than chance, and what would be needed.
        fails: where the best model fails.
    """

    better: Sequence[str]
    sure: Sequence[str]
    fails: Sequence[str]


def answer_about_models(
    models: Mapping[str, ModelResult], comparisons: Sequence[Comparison], context: ReportContext
) -> Answer:
    """The answer from the summaries of the models and their paired comparisons in Dice."""
    scored = [m for m in models.values() if m.summary["dice"]["mean"] is not None]
    summary = next(iter(models.values())).summary
    everything = f"{summary['n_series']} scans of {summary['n_patients']} patients of the {context.split} split"
    if not scored:
        nothing = f"No answer: none of the {everything} has a lesion, and Dice needs one."
        return Answer(better=[nothing], sure=[], fails=[])
    lesions = (
        f"over the {summary['n_with_lesion']} scans with lesions ({summary['dice']['n_patients']} patients) among the "
        f"{everything}"
    )
    best = max(scored, key=lambda m: float(m.summary["dice"]["mean"]))
    dice = estimate(best.summary["dice"])
    if len(models) == 1:
        return Answer(
            better=[f"{best.label} reaches a mean Dice of {dice} {lesions}. {_BRACKETS}"],
            sure=["There is no second model on this page to compare it with."],
            fails=failures(best),
        )
    pairs = sorted((_turned(c, best.label) for c in comparisons), key=lambda c: c.paired.difference.estimate)
    with_best = [c for c in pairs if c.first == best.label]
    highest = f"{best.label} has the highest mean Dice: {dice} {lesions}. {_BRACKETS}"
    return Answer(
        better=[highest, *map(_by_how_much, with_best)],
        sure=certainty(with_best, [c for c in pairs if c.first != best.label], len(comparisons), context.trainings),
        fails=failures(best),
    )


def certainty(
    with_best: Sequence[Comparison], others: Sequence[Comparison], n_comparisons: int, trainings: str
) -> list[str]:
    """What of it is established, and how many patients the rest would need.

    Args:
        with_best: the best model against each other one, the best named first.
        others: pairs without it.
        n_comparisons: over which p was corrected.
        trainings: what the intervals leave out of how networks were trained.
    """
    sentences = []
    sure = [c.second for c in with_best if c.established]
    if sure:
        sentences.append(
            f"Established against {_and(sure)}: the interval excludes 0 and p is below {SIGNIFICANT} after correction."
        )
    open_ = [c for c in with_best if not c.established]
    if open_:
        sentences.append(
            f"Not established against {_and([c.second for c in open_])} (that takes an interval without 0 and p below "
            f"{SIGNIFICANT} after correction): {'this may be chance' if sure else 'this sample ranks no model'}."
        )
    needed = {c.second: patients_needed(c.patients, SIGNIFICANT / max(1, n_comparisons), POWER) for c in open_}
    have = len(with_best[0].patients) if with_best else 0
    more = {name: size for name, size in needed.items() if size is not None and size.as_seen > have}
    if more:
        seen, them = ("difference", "it") if len(more) == 1 else ("differences", "them")
        numbers = [f"about {_round(size.as_seen)} patients with lesions against {n}" for n, size in more.items()]
        ranges = [f"{_range(size)} against {name}" for name, size in more.items()]
        sentences.append(
            f"Were the {seen} as large as seen here, establishing {them} would take {_and(numbers)} "
            f"({share(POWER)} power). From {have} patients that is no more than a guess: the 95{NBSP}% interval of the "
            f"effect allows {_and(ranges)}."
        )
    rest = [c for c in others if c.established]
    for c in rest:
        d = c.paired.difference
        sentences.append(f"Also established: {c.first} − {c.second}, {estimate(plain_interval(d))}.")
    return [*sentences, trainings]


def failures(model: ModelResult) -> list[str]:
    """Where a model fails, from its summary; what cannot be said is left out."""
    summary = model.summary
    sentences = []
    if weakest := weakest_stratum(summary):
        against = weakest["against_others"]
        sentences.append(
            f"Weaker on slices of {weakest['stratum']} than on the others: mean Dice {estimate(weakest)} "
            f"({plural(weakest['n'], 'scan')} of {weakest['n_patients']} patients), a difference of "
            f"{estimate(against, sign=True)} (Holm-adjusted {p_value(against['holm_p'])} over the strata)."
        )
    lesions = summary["lesions"]
    if lesions["small"]:
        large, large_hit = lesions["n"] - lesions["small"], lesions["hit"] - lesions["small_hit"]
        text = f"Misses {lesions['small'] - lesions['small_hit']} of {lesions['small']} small lesions"
        text += f" (up to {SMALL_LESION_MM3:g}{NBSP}mm³)"
        sentences.append(text + (f" and {large - large_hit} of {large} larger ones." if large else "."))
    elif lesions["n"]:
        sentences.append(f"Misses {lesions['n'] - lesions['hit']} of {lesions['n']} lesions.")
    if summary["n_missed"]:
        sentences.append(
            f"Finds nothing at all in {summary['n_missed']} of {summary['n_with_lesion']} scans with lesions."
        )
    if summary["n_lesion_free"]:
        sentences.append(
            f"Raises a false alarm on {summary['n_false_alarm']} of {plural(summary['n_lesion_free'], 'scan')} without "
            "lesions."
        )
    error = summary["volume_error"]["median_absolute_mm3"]
    if error is not None:
        bias = summary["volume_error"]["bias_mm3"]
        side = "too small" if bias < 0 else "too large"
        sentences.append(
            f"Volumes are off by {number(error, 1)}{NBSP}mm³ (median) and on average "
            f"{number(abs(bias), 1)}{NBSP}mm³ {side}."
        )
    return sentences


def _by_how_much(c: Comparison) -> str:
    d = c.paired.difference
    lead = "exceeds" if c.established else "is ahead of"
    if d.estimate < 0:  # means over scans of other patients may order the models otherwise
        lead = "is behind"
    ahead = c.paired.difference if d.estimate >= 0 else c.reversed().paired.difference
    return (
        f"On the same scans it {lead} {c.second} by {estimate(plain_interval(ahead))} (Holm-adjusted "
        f"{p_value(c.adjusted_p)})."
    )


def _turned(c: Comparison, label: str) -> Comparison:
    """The comparison with this model named first, else with the better one."""
    if c.first == label or (c.second != label and c.paired.difference.estimate >= 0):
        return c
    return c.reversed()


def _and(names: Sequence[str]) -> str:
    """A list in words; with semicolons where names have commas of their own."""
    between = "; " if any("," in name for name in names) else ", "
    last = "; and " if between == "; " else " and "
    return names[0] if len(names) == 1 else f"{between.join(names[:-1])}{last}{names[-1]}"


def _range(size: SampleSize) -> str:
    if size.most is None:
        return f"{_round(size.fewest)} or more without a limit"
    return f"{_round(size.fewest)} to {_round(size.most)}"


def _round(n: int) -> str:
    """Two digits are more than it is worth."""
    digits = max(0, len(str(n)) - 2)
    return f"{round(n, -digits):,}"
