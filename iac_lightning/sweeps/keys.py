"""What a sweep's file may say: its keys, those of its levels, and what it may not."""

from __future__ import annotations

import re
from typing import Any

from data_modules.errors import UserError

KEYS = {
    "name": "name of the sweep; results go to <runs_dir>/<name>/",
    "question": "what is asked, in one sentence",
    "caveat": "what the numbers cannot say, shown beside the answer",
    "extends": "another sweep's file, whose settings this one changes",
    "base": "experiment of the fine-tuning cells, relative to this file",
    "pretrain": "experiment of the pre-training cells; null where there are none",
    "settings": "settings of every cell",
    "pretrain_settings": "further settings of the pre-training cells",
    "axes": "axis: level: settings; the cells are the grid of all levels",
    "points": "a list of level combinations to use instead of the whole grid",
    "exclude": "a list of level combinations to leave out; axes that are not named match every level",
    "seeds": "a list of whole numbers; every combination is trained with each",
    "folds": "how many; every combination is trained with each fold held out, and compared on the patients of all",
    "pretrain_seeds": "shared: one pre-training, with the first seed, serves all seeds; each: one a seed",
    "split": "test or dev: which split the cells are compared on; with folds, dev",
    "stress": "slice thicknesses in mm; each evaluated cell is also measured on the same heads re-imaged with them",
    "phantom": "folder, patients, max_series, seed, fractions of the splits: a digital cohort, made where missing",
    "report": "how the report reads the axes: baseline, numeric, variants",
}
"""Keys of a sweep's file, and what they hold."""

SPECIAL = ("base", "pretrain", "seed_offset")
"""Keys of a level that are no settings: another base experiment; whether the network is pre-trained, or by which other
pre-training experiment; and what is added to the seeds of its cells, for an arm that differs from another by chance
alone."""

PHANTOM = frozenset({"folder", "patients", "max_series", "seed", "fractions"})
"""What a sweep says of its phantom cohort."""

SHARED = ("model.vit.", "data.cohort", "data.prepared_dir", "data.grid.", "data.window_hu", "data.sampling.crop")
"""Settings of a level that its pre-training follows, since they decide the encoder or what it sees. What concerns the
pre-training alone is written with the prefix `pretrain.`."""

SEGMENTATION = (
    "model.decoder.",
    "model.cnn.",
    "model.rule.",
    "model.name",
    "loss.",
    "data.labelled_fraction",
    "evaluation.",
)
"""Settings of the whole sweep that mean nothing to a pre-training."""

OF_THE_SWEEP = {
    "name": "give the sweep a name: cells take theirs from it and from their levels",
    "runs_dir": "give runs_dir=… on the command line: all cells go there",
    "seed": "give the sweep seeds: [0, 1]: every combination is trained with each",
    "data.fold": "give the sweep folds: 5: every combination is trained with each fold held out",
    "data.more_folds": "a sweep holds out one fold at a time",
    "init_from": "give the sweep pretrain, and levels pretrain: true or false",
}
"""Settings that the sweep itself gives to its cells, and where they are said instead."""

MOST_COMBINATIONS, MOST_FOLDS = 10_000, 100
"""Combinations of levels of all axes, each of which is at least one training and is planned before the first; folds."""

CUTOFFS = "evaluation.risk_cutoffs_mm3"
"""Setting of the cells that fixes the cut-offs of the risk groups, for the report of the sweep too."""


def old_cutoffs(limits: Any) -> tuple[float, float, float]:
    """Risk cut-offs [none, low, medium] from how sweeps gave them before: ``{none: 0, low: …, medium: …}``.

    Raises:
        UserError: when they are something else.
    """
    try:
        return float(limits.get("none", 0)), float(limits["low"]), float(limits["medium"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"report.risk_cutoffs_mm3 is {limits!r}; write instead settings: {{{CUTOFFS}: [none, low, medium]}}, the "
            "largest volume of each group"
        ) from None


def slug(text: str) -> str:
    """A level as part of a folder's name."""
    plain = text.replace("×", "x").replace("³", "").replace("²", "").replace("%", "pc")
    return re.sub(r"[^A-Za-z0-9.]+", "-", plain).strip("-.").lower() or "level"
