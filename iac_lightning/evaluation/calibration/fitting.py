"""The scaling from the voxels of the development split, and how good probabilities are before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from data_modules.errors import UserError
from data_modules.files import on_disk
from iac_lightning.evaluation.calibration.candidates import choose_scaling
from iac_lightning.evaluation.calibration.quality import BINS, QUALITIES, quality
from iac_lightning.evaluation.calibration.scaling import HIGHEST, LOWEST, Part, Scaling, apply, thinned


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What the voxels of the development split say.

    Attributes:
        scaling: that is shipped.
        held: of each series, fitted like the shipped one to the patients of other folds, and for its slice thickness.
        record: what of it goes into `calibration.json` as it is.
    """

    scaling: Scaling
    held: list[Scaling]
    record: dict[str, Any]


def calibrate_voxels(
    voxels: Sequence[Part], patients: Sequence[str], thickness_mm: Sequence[float], seed: int, folder: Path
) -> Fitted:
    """The scaling that cross-validation chooses (`candidates.choose_scaling`), and how good probabilities are.

    The quality after calibration is cross-validated by patient too: each scan's probabilities are calibrated by what
    was fitted to other patients.

    Args:
        voxels: of each development series, in the model's domain; best memory-mapped (`voxels_on_disk`).
        patients: `[len(voxels)]`, whose series it is.
        thickness_mm: `[len(voxels)]`, of its slices.
        seed: of the sample that is fitted and of the folds.
        folder: for a temporary file of the calibrated probabilities.

    Raises:
        ValueError: with only one kind of voxels.
    """
    drawn = thinned(voxels, seed)
    choice = choose_scaling(voxels, drawn, patients, thickness_mm, seed)
    before = quality(voxels, patients)
    calibrated = ((apply(p, s.temperature, s.bias), y) for (p, y), s in zip(voxels, choice.held, strict=True))
    with voxels_on_disk(calibrated, folder) as voxels_after:
        after = quality(voxels_after, patients)
    return Fitted(
        scaling=choice.scaling,
        held=choice.held,
        record={
            "temperature": choice.scaling.temperature,
            "bias": choice.scaling.bias,
            "by_thickness": choice.scaling.by_thickness and choice.scaling.by_thickness._asdict(),
            "scaling": choice.name,
            "scaling_why": choice.why,
            "candidates": choice.candidates,
            "after": choice.words,
            **{
                f"{name}_{when}{suffix}": values[f"{name}{suffix}"]
                for name in QUALITIES
                for when, values in (("before", before), ("after", after))
                for suffix in ("", "_ci95")
            },
            "split": "dev",
            "seed": seed,
            "bins": BINS,
            "clip": [float(LOWEST), float(HIGHEST)],
            "n_series": len(voxels),
            "n_patients": len(set(patients)),
            "n_voxels": before["n_voxels"],
            "n_lesion_voxels": before["n_lesion_voxels"],
            "n_fit_voxels": sum(len(p) for p, _, _ in drawn),
            "warnings": remarks(choice.scaling, before, after),
            "reliability_before": before["reliability"],
            "reliability_after": after["reliability"],
        },
    )


@contextmanager
def voxels_on_disk(parts: Iterable[Part], folder: Path) -> Iterator[list[Part]]:
    """The same parts, memory-mapped from nameless files in `folder`, which vanish with the process at the latest.

    Raises:
        UserError: where no part has a voxel.
    """
    with TemporaryFile(dir=folder) as probabilities, TemporaryFile(dir=folder) as labels:
        sizes = []
        with on_disk(folder / "(voxels of the calibration)"):
            for p, y in parts:
                probabilities.write(p.astype(np.float32, copy=False).tobytes())
                labels.write(y.tobytes())
                sizes.append(len(p))
            probabilities.flush()
            labels.flush()
        if not sum(sizes):
            raise UserError("the model's probability is 0 in every development scan; there is nothing to calibrate")
        ends = np.cumsum(sizes)[:-1]
        p_all = np.memmap(probabilities, dtype=np.float32, mode="r")
        y_all = np.memmap(labels, dtype=np.bool_, mode="r")
        yield list(zip(np.split(p_all, ends), np.split(y_all, ends), strict=True))


def remarks(scaling: Scaling, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a reader of the calibration must know: a temperature at its limit, an error that did not fall."""
    sentences = []
    if scaling.at_limit:
        what = "tells lesion from background without error" if scaling.temperature < 1 else "knows next to nothing"
        sentences.append(f"temperature {scaling.temperature:g} is a limit: on the development split this model {what}")
    if after["ece"] > before["ece"]:
        sentences.append(
            f"the expected calibration error did not fall in cross-validation ({before['ece']:.3g} to "
            f"{after['ece']:.3g}): the fit is by likelihood ({before['nll']:.3g} to {after['nll']:.3g}), which weighs "
            "missed lesions more than bins do"
        )
    return sentences
