"""What a page lacks without a development split that decides risk groups and intervals, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from iac_lightning.evaluation.clinical.analysis import Shortage


def missing_development(names: Sequence[str], split: str, *, cutoffs_fixed: bool) -> str:
    """That models are not evaluated on the development split.

    Args:
        names: of these models.
        split: that the page is about.
        cutoffs_fixed: whether risk groups need no development split.
    """
    return (
        f"{_left_out(cutoffs_fixed)} until {' and '.join(names)} {'is' if len(names) == 1 else 'are'} evaluated on the "
        f"development split, with the weights and thresholds of the {split} split"
    )


def small_development(lacking: Shortage, *, cutoffs_fixed: bool) -> str:
    """That the development split is too small.

    Args:
        lacking: how far.
        cutoffs_fixed: whether risk groups need no development split.
    """
    return (
        f"{_left_out(cutoffs_fixed)} because of {shortage_words(lacking)}; with more of them labelled, evaluate again"
    )


def shortage_words(lacking: Shortage) -> str:
    """Which patients are too few."""
    if lacking.of_patients:
        return (
            f"only {lacking.n_patients} development patients, where intervals of {lacking.coverage:.0%} coverage need "
            f"at least {lacking.needed}"
        )
    return "too few development patients with calcification to part low, medium and high volumes"


def _left_out(cutoffs_fixed: bool) -> str:
    return f"{'Volume' if cutoffs_fixed else 'Risk groups and volume'} intervals are left out"
