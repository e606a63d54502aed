"""The paper's claims in words: what it says, what this sweep shows beside it, and what was compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from iac_lightning.evaluation.ablation.claims import MIN_PATIENTS, NOT_TESTED, UNDECIDED, Claim, Lack
from iac_lightning.evaluation.ablation.recipe_statistics import Value
from iac_lightning.evaluation.ablation.recipes import CNN, MAE_VIT
from iac_lightning.report.page import Table
from iac_lightning.report.words import TableCell, interval, number, plural, sentence


@dataclass(frozen=True, kw_only=True)
class ClaimWords:
    """How a claim is put to readers.

    Attributes:
        claim: what the paper says.
        paper: its number there.
        measure: what ours is, with its unit.
        ours: our number, with what it is the difference of.
        compared: what was compared.
    """

    claim: str
    paper: str
    measure: str
    ours: Callable[[Claim], str]
    compared: Callable[[Claim], str]


def claim_rows(claims: Sequence[Claim]) -> list[dict[str, object]]:
    """A row a claim, as `claims.csv` has it."""
    return [
        {
            "claim": WORDS[c.name].claim,
            "paper": WORDS[c.name].paper,
            "measure": WORDS[c.name].measure,
            "ours": ours(c),
            "estimate": c.value.estimate,
            "low": c.value.low,
            "high": c.value.high,
            "verdict": c.verdict,
            "compared": compared(c),
            "n_cells": c.n_cells,
            "n_trainings": c.n_trainings,
            "n_scans": c.n_scans,
            "n_patients": c.n_patients,
            "remark": remark(c),
        }
        for c in claims
    ]


def claims_table(claims: Sequence[Claim], where: str) -> Table:
    """The claims, their numbers, ours and the verdicts; `where`: what ours were taken from."""
    rows: list[list[TableCell]] = [
        [
            WORDS[c.name].claim,
            WORDS[c.name].paper,
            ours(c) or "–",
            c.verdict,
            "; ".join(filter(None, (compared(c)[:1].upper() + compared(c)[1:], remark(c)))),
            f"{c.n_cells}, {c.n_trainings}, {c.n_scans}, {c.n_patients}" if c.verdict != NOT_TESTED else "–",
        ]
        for c in claims
    ]
    header = [
        ("claim", ""),
        ("paper", ""),
        ("here", "95\u00a0% CI"),
        ("verdict", ""),
        ("compared, or needed", ""),
        ("n", "cells, trainings, scans, patients"),
    ]
    legend = (
        f"{sentence(where)} Points are Dice × 100. What a cell is was read from its own settings; recipes were "
        "compared with all else equal and averaged over such pairs. Claims are not corrected for being five."
    )
    return Table(
        header=header,
        rows=rows,
        legend=legend,
        words=tuple(name for name, _ in header[:5]),
        holes=[c.verdict == NOT_TESTED for c in claims],
    )


def ours(claim: Claim) -> str:
    """Our number in words; empty where the claim was not tested."""
    return "" if claim.lack else WORDS[claim.name].ours(claim)


def compared(claim: Claim) -> str:
    """What was compared, or what is needed."""
    return _needed(claim.lack) if claim.lack else WORDS[claim.name].compared(claim)


def remark(claim: Claim) -> str:
    """What the interval does not cover, and why a verdict is withheld."""
    parts = []
    if claim.one_seed:
        parts.append("one seed a cell: the interval covers patients only")
    if claim.too_few_patients:
        parts.append(f"{claim.n_patients} patients are too few to decide (at least {MIN_PATIENTS})")
    if claim.verdict == UNDECIDED and claim.relative and (claim.value.low > 0 or claim.value.high < 0):
        parts.append("little Dice has little to lose: in % of its own Dice per mm no difference is told")
    return "; ".join(parts)


def _needed(lack: Lack) -> str:
    if lack.what == "families":
        both = f"cells of both kinds, {MAE_VIT} and {CNN}"
        return f"needs {both}; there is no {' and no '.join(lack.names)}"
    needs = {
        "pairs": f"{MAE_VIT} and {CNN} with the same data settings and loss; those here differ in them",
        "patch sizes": "ViT cells that differ in model.vit.patch_size alone (and in that of their pre-training), in "
        "two volumes at least",
        "upsamplings": "ViT cells with model.decoder.upsampling interpolation and transposed that differ in nothing "
        "else",
        "thicknesses": "scans with lesions of at least two slice thicknesses",
        "development": "an evaluation of the development split (iac evaluate RUN --split dev), or fixed cut-offs",
        "cut-offs": f"cut-offs: {' '.join(lack.names)}",
    }
    return f"needs {needs[lack.what]}"


def _words(value: Value, digits: int, *, sign: bool = True) -> str:
    return interval(*value, digits, sign=sign)


def _pairs(claim: Claim, what: str) -> str:
    return f"{what}; mean of {plural(claim.n_sets, 'pair')}"


def _sides(claim: Claim) -> tuple[Value, Value]:
    assert claim.sides is not None  # of every claim about pairs that was tested
    return claim.sides


def _ahead(claim: Claim) -> str:
    vit, _ = _sides(claim)
    return f"Dice {_words(vit, 1, sign=False)}, {_words(claim.value, 1)} points ahead"


def _slopes(claim: Claim) -> str:
    vit, cnn = (_words(value, 2) for value in _sides(claim))
    relative = f"; of its own Dice {_words(claim.relative, 1)} % per mm" if claim.relative else ""
    return f"ViT {vit}, CNN {cnn}; difference {_words(claim.value, 2)} points per mm{relative}"


def _misclassified(claim: Claim) -> str:
    vit, cnn = (f"{number(value.estimate, 1)} %" for value in _sides(claim))
    return f"{_words(claim.value, 0)} % ({vit} of scans misclassified against {cnn})"


def _patch_sizes(claim: Claim) -> str:
    voxels = claim.patch_voxels
    return (
        f"{len(voxels)} volumes from {voxels[0]} to {voxels[-1]} voxels, slope averaged over "
        f"{plural(claim.n_sets, 'set')} of ViTs alike but for the patch"
    )


def _thicknesses(claim: Claim) -> str:
    where = "the same heads at simulated thicknesses (iac stress)" if claim.simulated else "scans as they were acquired"
    return _pairs(claim, f"{claim.family} against CNN, {where}")


def _risk_groups(claim: Claim) -> str:
    cutoffs = claim.cutoffs
    assert cutoffs is not None  # of every claim about risk groups that was tested
    return _pairs(
        claim,
        f"{claim.family} against CNN; none ≤ {cutoffs.none_mm3:g} < low ≤ {cutoffs.low_mm3:.3g} < medium ≤ "
        f"{cutoffs.medium_mm3:.3g} < high mm³ ({cutoffs.source})",
    )


WORDS: Mapping[str, ClaimWords] = {
    "vit ahead": ClaimWords(
        claim="The calibrated, MAE-pre-trained ViT segments better than nnU-Net",
        paper="Dice 65.1 [62.0; 68.4], 3.2 points ahead",
        measure="ViT − CNN, points of Dice (Dice × 100)",
        ours=_ahead,
        compared=lambda claim: _pairs(claim, "the calibrated ViT against the nnU-Net-style CNN of this project"),
    ),
    "small patches": ClaimWords(
        claim="Small patches are crucial: Dice falls as the patch grows",
        paper="falls (no slope given)",
        measure="slope per doubling of the patch's volume, points of Dice",
        ours=lambda claim: f"{_words(claim.value, 1)} points per doubling",
        compared=_patch_sizes,
    ),
    "interpolation": ClaimWords(
        claim="Interpolation with regular convolution beats transposed convolution in ViT decoders",
        paper="better (no figure given)",
        measure="interpolation − transposed, points of Dice",
        ours=lambda claim: f"{_words(claim.value, 1)} points",
        compared=lambda claim: _pairs(claim, "ViTs alike but for the upsampling"),
    ),
    "thick slices": ClaimWords(
        claim="As slices get thicker, the ViT loses less Dice than the CNN",
        paper="loses less (no slope given)",
        measure="slope of the ViT − slope of the CNN, points of Dice per mm of slice thickness",
        ours=_slopes,
        compared=_thicknesses,
    ),
    "risk groups": ClaimWords(
        claim="Risk groups by predicted volume are right more often than with nnU-Net",
        paper="improves by 46 %",
        measure="relative change of misclassified scans, ViT against CNN, %",
        ours=_misclassified,
        compared=_risk_groups,
    ),
}
"""The words of every claim of `CLAIM_SPECS`, by its name."""
