"""What transformer and pre-training are worth, in words: for the pages of models and of sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from iac_lightning.evaluation.ablation.claims import MIN_PATIENTS
from iac_lightning.evaluation.ablation.recipe_statistics import Value
from iac_lightning.evaluation.ablation.recipes import NO_TRANSFORMER, VITS, Candidate, family
from iac_lightning.evaluation.ablation.worth import Worth, decided
from iac_lightning.report.page import Table
from iac_lightning.report.words import TableCell, interval, number, pair, plural, signed

WORTH_COLUMNS = {
    "part": "transformer, or pre-training",
    "with": "kind of network with the part",
    "without": "kind of network without it; a transformer's has the same tokeniser and decoder, trained the same way",
    "dice_with": "mean Dice with it, over the scans with lesions",
    "dice_without": "mean Dice without it",
    "difference": "with − without, over recipes alike in all else (of a pre-training but for the optimiser)",
    "low": "lower end of its 95 % interval over patients and, where recipes were repeated, seeds",
    "high": "upper end of that interval",
    "plain_difference": "the difference of the masks of a threshold alone; empty where it was not measured",
    "plain_low": "lower end of its interval",
    "plain_high": "upper end of its interval",
    "verdict": "undecided: the interval holds 0, or the patients are too few; of these networks: each recipe was "
    "trained once; else established",
    "n_pairs": "pairs of recipes",
    "n_trainings": "trained networks",
    "n_scans": "scans with lesions",
    "n_patients": "whose they are",
}
"""Columns of `worth.csv`, and what they hold."""


def verdict(worth: Worth) -> str:
    """In a few words whether the difference is more than chance."""
    if not decided(worth.difference, worth.n_patients):
        return "undecided"
    return "of these networks" if worth.one_seed else "established"


def worth_sentence(worth: Worth) -> str:
    """What a part is worth, how sure that is, and what was compared."""
    name = "The transformer" if worth.part == "transformer" else "Pre-training"
    first, second = worth.families
    against = "the same network without it" if second == NO_TRANSFORMER else second
    plain = f" (of a threshold alone {_shown(worth.plain)})" if worth.plain else ""
    pairs = f", mean of {plural(worth.n_pairs, 'pair')}" if worth.n_pairs > 1 else ""
    return f"{name} is worth {_shown(worth.difference)} Dice{plain}: {_sure(worth)}. {first} against {against}{pairs}."


def worth_rows(worths: Sequence[Worth]) -> list[dict[str, object]]:
    """A row each, as `worth.csv` has it."""
    empty = (None, None, None)
    rows = []
    for w in worths:
        values = (w.part, *w.families, *(side.estimate for side in w.sides), *w.difference, *(w.plain or empty))
        values += (verdict(w), w.n_pairs, w.n_trainings, w.n_scans, w.n_patients)
        rows.append(dict(zip(WORTH_COLUMNS, values, strict=True)))
    return rows


def worth_table(worths: Sequence[Worth], where: str) -> Table:
    """What each part is worth, a row each; `where`: what the values were taken from."""
    rows: list[list[TableCell]] = [
        [
            w.part,
            " − ".join(w.families),
            *(number(side.estimate) for side in w.sides),
            _cell(w.difference),
            _cell(w.plain) if w.plain else "–",
            verdict(w),
            f"{w.n_pairs}, {w.n_trainings}, {w.n_scans}, {w.n_patients}",
        ]
        for w in worths
    ]
    header = [
        ("part", ""),
        ("compared", "with − without"),
        ("Dice with it", ""),
        ("Dice without", ""),
        ("worth", "Dice, 95\u00a0% CI"),
        ("of a threshold alone", "Dice, 95\u00a0% CI"),
        ("this is", ""),
        ("n", "pairs, trainings, scans, patients"),
    ]
    legend = (
        "Networks that differ in the part alone; pre-trained and scratch ones each with an own optimiser. "
        "Undecided: the interval holds 0. Of these networks: it does not, but every network was trained once, and "
        "another seed may change more than other patients. Intervals: patients drawn anew, not corrected for their "
        "number, so that they may leave out 0 where the paired comparisons establish nothing."
    )
    return Table(
        header=header, rows=rows, legend=legend, source=where, words=("part", "compared", "this is"), name="worth"
    )


def missing_arms(worths: Sequence[Worth], candidates: Sequence[Candidate]) -> str:
    """What cannot be said of the ViTs among trainings for want of an arm; empty where nothing is missing."""
    if not any(family(candidate.settings) in VITS for candidate in candidates):
        return ""
    said = {w.part for w in worths}
    needed = {
        "transformer": "a run like one of the ViTs with model.vit.depth=0, trained the same way",
        "pre-training": "runs alike but for init_from (and the optimiser)",
    }
    absent = [f"the {part} ({need})" for part, need in needed.items() if part not in said]
    return f"What is not compared here for want of an arm: {'; '.join(absent)}." if absent else ""


def _sure(worth: Worth) -> str:
    if decided(worth.difference, worth.n_patients):
        if worth.one_seed:
            return "more than chance of patients, for networks that were trained once each"
        return "established over patients and seeds"
    if worth.n_patients < MIN_PATIENTS:
        return f"undecided, {plural(worth.n_patients, 'patient')} are too few"
    return "undecided" + (", and each was trained once" if worth.one_seed else "")


def _shown(value: Value) -> str:
    return interval(*value, sign=True)


def _cell(value: Value) -> TableCell:
    return pair(*(signed(v) for v in value))
