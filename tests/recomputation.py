"""The table of an evaluation once more, from its NIfTI files alone: plain NumPy, nothing of the project.

`python -m tests.recomputation RUN COHORT.csv [SPLIT]` prints what differs, and how much was compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

NEIGHBOURS_26 = [o for o in product((-1, 0, 1), repeat=3) if any(o)]
NEIGHBOURS_8 = [o for o in NEIGHBOURS_26 if o[2] == 0]
NEIGHBOURS_6 = [o for o in NEIGHBOURS_26 if sum(map(abs, o)) == 1]
Voxel = tuple[int, int, int]


def components(mask: np.ndarray, offsets: Sequence[Voxel] = NEIGHBOURS_26) -> list[set[Voxel]]:
    """Voxels that hang together, by flooding."""
    left = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    while left:
        inside, front = set(), [left.pop()]
        while front:
            at = front.pop()
            inside.add(at)
            for o in offsets:
                beside = (at[0] + o[0], at[1] + o[1], at[2] + o[2])
                if beside in left:
                    left.remove(beside)
                    front.append(beside)
        found.append(inside)
    return found


def surface_mm(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Centres `[n, 3]` of the voxels with a 6-neighbour outside."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis, step in product(range(3), (-1, 1)):
        inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inner) * spacing


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of each point of `a` to the nearest of `b`."""
    return np.array([np.sqrt(((b - point) ** 2).sum(axis=1).min()) for point in a])


def agatston(mask: np.ndarray, hu: np.ndarray, spacing: np.ndarray) -> float:
    """Area times factor of the brightest voxel, over the lesions of each slice of at least 1 mm²."""
    score = 0.0
    for lesion in components(mask & (hu >= 130), NEIGHBOURS_8):
        area = len(lesion) * spacing[0] * spacing[1]
        peak = max(hu[voxel] for voxel in lesion)
        score += area * (1 + (peak >= 200) + (peak >= 300) + (peak >= 400)) if area >= 1 - 1e-4 else 0
    return score * spacing[2] / 3


def row_of(mask: np.ndarray, label: np.ndarray, hu: np.ndarray, spacing: np.ndarray, true_mm3: float) -> dict[str, Any]:
    """What a table says of one mask, and of the label."""
    nan, voxel_mm3 = float("nan"), float(np.prod(spacing))
    p, g, both = int(mask.sum()), int(label.sum()), int((mask & label).sum())
    predicted, lesions = components(mask), components(label)
    in_mask, in_label = (set(map(tuple, np.argwhere(m).tolist())) for m in (mask, label))
    hit = [lesion for lesion in lesions if lesion & in_mask]
    predicted_hit = sum(bool(c & in_label) for c in predicted)
    small = [lesion for lesion in lesions if len(lesion) * voxel_mm3 <= 10 + 1e-3]
    sensitivity = len(hit) / len(lesions) if lesions else nan
    ppv = predicted_hit / len(predicted) if predicted else nan
    a, b = surface_mm(mask, spacing), surface_mm(label, spacing)
    nsd, hd95 = (1.0, nan) if not p and not g else (0.0, float("inf"))
    if p and g:
        there, back = nearest(a, b), nearest(b, a)
        nsd = float((np.concatenate([there, back]) <= 1.0001).mean())
        hd95 = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    f1 = nan if not lesions and not predicted else 2 * sensitivity * ppv / (sensitivity + ppv) if hit else 0.0
    return {
        "dice": 2 * both / (p + g) if p + g else 1.0,
        "sensitivity": both / g if g else nan,
        "ppv": both / p if p else nan,
        "lesion_sensitivity": sensitivity,
        "lesion_ppv": ppv,
        "lesion_f1": f1,
        "nsd_1mm": nsd,
        "hd95_mm": hd95,
        "volume_mm3": p * voxel_mm3,
        "volume_error_mm3": (p - g) * voxel_mm3,
        "true_volume_error_mm3": p * voxel_mm3 - true_mm3,
        "agatston": agatston(mask, hu, spacing),
        "both_empty": p == 0 and g == 0,
        "n_lesions_hit": len(hit),
        "n_predicted": len(predicted),
        "n_predicted_hit": predicted_hit,
        "n_small_lesions_hit": sum(lesion in hit for lesion in small),
        "has_lesion": g > 0,
        "n_lesions": len(lesions),
        "n_small_lesions": len(small),
        "label_volume_mm3": g * voxel_mm3,
        "label_agatston": agatston(label, hu, spacing),
        "true_volume_mm3": true_mm3,
    }


def threshold(known: dict[str, Any], by_thickness: dict[str, Any], thickness_mm: float) -> np.float32:
    """The threshold of a scan: of all, or of its stratum of slice thickness."""
    for s in by_thickness["strata"] if by_thickness["used"] else ():
        if s["threshold"] is not None and s["above_mm"] < thickness_mm <= (s["up_to_mm"] or np.inf):
            return np.float32(s["threshold"])
    return np.float32(known["threshold"])


def cut(probability: np.ndarray, hu: np.ndarray, voxel_mm3: float, applied: dict[str, Any], mm: float) -> np.ndarray:
    """The mask of an operating point."""
    point = applied["operating_point"]
    mask = probability >= threshold(point, point["thickness"], mm)
    kept = np.zeros_like(mask)
    for c in components(mask & (hu >= 130) if point["rule"] == "protocol" else mask):
        alone = len(c) == 1 and point["rule"] == "protocol"
        if not alone and len(c) * voxel_mm3 >= point["least_lesion_mm3"] * (1 - 1e-4):
            kept[tuple(np.array(sorted(c)).T)] = True
    return kept


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def differences(run: Path, cohort: Path, split: str = "test") -> tuple[int, list[str]]:
    """How many values of a run's evaluation were compared, and those that are not what its files say."""
    summary = json.loads((run / f"evaluation/{split}.json").read_text())
    applied = summary["calibration"]
    table = pd.read_csv(run / f"evaluation/{split}.csv", dtype={"series_id": str}).set_index("series_id")
    series = pd.read_csv(cohort, dtype={"series_id": str}).set_index("series_id")
    expected = set(series.index[(series["split"] == split)])
    wrong = [] if expected == set(table.index) else [f"series {sorted(expected ^ set(table.index))}"]
    compared = 0
    for name, row in table.iterrows():
        image = nib.load(cohort.parent / series.loc[name, "image"])  # type: ignore[attr-defined]
        spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
        hu, label = np.asarray(image.dataobj), load(cohort.parent / series.loc[name, "label"]) > 0
        stem, mm = f"{run}/predictions/{split}/{name}", row["slice_thickness_mm"]
        probability = load(Path(f"{stem}_probability.nii.gz"))
        plain = {"threshold": applied["plain_threshold"]}
        masks = {
            "": cut(probability, hu, float(np.prod(spacing)), applied, mm),
            "plain_": probability >= threshold(plain, applied["plain_thickness"], mm),
            "uncalibrated_": probability >= np.float32(1 / (1 + np.exp(-applied["bias"]))),
        }
        for prefix, ending in (("", "mask"), ("plain_", "mask_plain")):
            compared += 1
            if (masks[prefix] != (load(Path(f"{stem}_{ending}.nii.gz")) > 0)).any():
                wrong.append(f"{name}: {ending}")
        for prefix, mask in masks.items():
            found = row_of(mask, label, hu, spacing, float(series.loc[name].get("true_volume_mm3", np.nan)))
            for column in found if not prefix else list(found)[:17]:
                compared += 1
                if not np.isclose(
                    float(row[prefix + column]), float(found[column]), rtol=1e-4, atol=1e-4, equal_nan=True
                ):
                    wrong.append(f"{name}: {prefix}{column} {row[prefix + column]}, of the files {found[column]}")
    return compared, [*wrong, *_summary(summary, table)]


def _summary(summary: dict[str, Any], table: pd.DataFrame) -> Iterator[str]:
    """Means and counts that do not follow from the table."""
    lesion = table["has_lesion"].astype(bool)
    for section, prefix in ((summary, ""), (summary["plain"], "plain_"), (summary["uncalibrated"], "uncalibrated_")):
        for name in ("dice", "sensitivity", "lesion_f1", "nsd_1mm"):
            if not np.isclose(section[name]["mean"], table.loc[lesion, prefix + name].mean()):
                yield f"summary: {prefix}{name} {section[name]['mean']}"
        alarms = int((~lesion & (table[f"{prefix}volume_mm3"] > 0)).sum())
        if section["n_false_alarm"] != alarms:
            yield f"summary: {prefix}n_false_alarm {section['n_false_alarm']}, by the table {alarms}"


if __name__ == "__main__":
    n, wrong = differences(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
    print(f"{sys.argv[1]}: {n} values compared, {len(wrong)} differ", *wrong[:20], sep="\n  ")
