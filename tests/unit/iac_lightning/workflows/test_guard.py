"""What is said of figures that are too good, and of registries that hold other things."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from data_modules.cohort.registry import Registry
from iac_lightning.workflows.guard import LOOK, SET, USE, counts, findings, implausible


def table(*dice: float, volume_mm3: float = 50.0) -> pd.DataFrame:
    rows = [{"has_lesion": True, "label_volume_mm3": volume_mm3, "dice": d, "plain_dice": 0.5} for d in dice]
    return pd.DataFrame([*rows, {"has_lesion": False, "label_volume_mm3": 0.0, "dice": 1.0, "plain_dice": 1.0}])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (table(0.8, 0.9, 1.0), ""),
        (table(0.8, 1.0), "1 of 2 predictions with lesions are their labels, voxel for voxel"),
        (table(0.996, 0.999, 0.4), "The median Dice over 3 scans with lesions is 0.996"),
        (table(1.0, 1.0, volume_mm3=2.0), ""),  # of a few voxels
        (table(), ""),
        (table(0.9, 0.8).assign(plain_dice=1.0), "2 of 2 predictions"),
    ],
)
def test_predictions_that_are_labels(values: pd.DataFrame, said: str) -> None:
    found = implausible(values)
    assert found == [] if not said else found[0].startswith(said)


def looked(folder: Path, name: str, images: dict[str, str], **facts: str) -> Registry:
    registry = Registry(folder, None)
    registry.add(f"set-{name}", SET, test_set=name, images=images)
    registry.add(f"look-{name}", LOOK, test_set=name, settings="s", name="n", **{"model": "m", **facts})
    return registry


def test_looks_at_sets_that_share_half_of_their_images_count_together(tmp_path: Path) -> None:
    registry = looked(tmp_path, "one", dict.fromkeys("abcd", ""))
    looked(tmp_path, "two", dict.fromkeys("abcx", ""), model="other")
    looked(tmp_path, "three", dict.fromkeys("axyz", ""))
    assert counts(registry, "one") == {"n_looks": 2, "n_models": 2, "n_settings": 2}
    assert counts(registry, "three") == {"n_looks": 2, "n_models": 2, "n_settings": 2}
    assert counts(registry, "none") == {"n_looks": 0, "n_models": 0, "n_settings": 0}


def test_events_that_somebody_has_made_something_else_of_end_nothing(tmp_path: Path) -> None:
    registry = looked(tmp_path, "one", {"a": ""})
    for k, what in enumerate((LOOK, SET, USE)):
        registry.add(f"odd{k}", what, test_set=7, images=3)
    known = {"test_set": "one", "judged": "m"}
    assert findings(registry, known, tmp_path) == [
        "1 of 1 looks with this very model are not in its own record (test_looks.jsonl): they went to other folders, "
        "or the record was deleted."
    ]
