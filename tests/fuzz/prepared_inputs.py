"""Damaged prepared volumes, and scans and labels that preparation should not take."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedStore
from tests.fuzz import head, nifti_inputs, templates
from tests.fuzz.judging import Maker, Trial, Wanted

Generator = np.random.Generator

ARRAYS = ("hu", "occupancy", "native_hu", "native_label", "components")


def content(store: PreparedStore) -> dict[str, Any]:
    """Everything that training and evaluation take from a store."""
    found: dict[str, Any] = {}
    for item in store.series:
        name = item.series.series_id
        found |= {f"{name} {key}": np.asarray(getattr(item, key)()) for key in ARRAYS[:-1]}
        found[f"{name} components"] = np.asarray(item.components)
        found[f"{name} grids"] = np.stack([item.grid.affine, item.native_grid.affine])
        found[f"{name} thickness"] = np.asarray(item.slice_thickness_mm)
    return found


def trial(data: Path, wanted: Wanted = Wanted.HONESTY) -> Trial:
    """Prepared again, and used."""

    def read() -> dict[str, Any]:
        return content(prepare_cohort(templates.data_config(data)))

    def differs(found: dict[str, Any]) -> str:
        expected = content(prepare_cohort(templates.data_config(templates.original("data"))))
        if found.keys() != expected.keys():
            return f"{len(found)} arrays instead of {len(expected)}"
        return next((f"{key} differs" for key, value in expected.items() if not np.array_equal(value, found[key])), "")

    return Trial(read, differs, wanted, warnings=lambda _: ())


def store_copy(folder: Path) -> tuple[Path, Path]:
    """A copy of the cohort, with the times of its files, and the folder of its prepared volumes."""
    data = templates.copied("data", folder)
    return data, next(p for p in (data / "prepared").iterdir() if p.is_dir())


def array_damaged(rng: Generator, folder: Path) -> Trial:
    data, store = store_copy(folder)
    path = store / str(rng.choice(["A", "B"])) / f"{rng.choice(ARRAYS)}.npy"
    damaged = bytearray(path.read_bytes())
    kind = rng.integers(6)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.write_bytes(damaged[: rng.integers(len(damaged))])
    elif kind == 3:
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
    elif kind == 4:
        path.write_bytes(damaged + b"more")
    else:
        np.save(path, np.zeros((3, 3)))
    return trial(data)


def arrays_exchanged(rng: Generator, folder: Path) -> Trial:
    data, store = store_copy(folder)
    a, b = store / "A" / "hu.npy", store / "A" / "native_hu.npy"
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)
    return trial(data)


def values_changed(rng: Generator, folder: Path) -> Trial:
    data, store = store_copy(folder)
    path = store / "B" / "hu.npy"
    np.save(path, np.load(path) + np.int16(rng.integers(1, 2000)))
    return trial(data)


def facts_damaged(rng: Generator, folder: Path) -> Trial:
    data, store = store_copy(folder)
    path = store / str(rng.choice(["A", "B"])) / "meta.json"
    texts = ["", "{}", "[]", "null", "7", "{", '{"source_state": 1}']
    meta = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [
        {"slice_thickness_mm": 50.0},
        {"slice_thickness_mm": "4"},
        {"slice_axis": 7},
        {"grid": {}},
        {"grid": meta["grid"] | {"shape": [1, 1, 1]}},
        {"native_grid": meta["native_grid"] | {"shape": [9, 9, 90000]}},
        {"warnings": None},
        {"native_grid": meta["grid"]},
        {"source_sha256": None},
    ]
    k = rng.integers(len(texts) + len(changes))
    path.write_text(texts[k] if k < len(texts) else json.dumps(meta | changes[k - len(texts)]))
    return trial(data)


def meta_missing_key(rng: Generator, folder: Path) -> Trial:
    data, store = store_copy(folder)
    path = store / "A" / "meta.json"
    meta = json.loads(path.read_text())
    del meta[list(meta)[rng.integers(len(meta))]]
    path.write_text(json.dumps(meta))
    return trial(data)


def listings_of_others(rng: Generator, folder: Path) -> Trial:
    data, store = store_copy(folder)
    name = str(rng.choice(["failed.csv", "warnings.csv", "settings.json"]))
    texts = [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"series_id\nA\n", b"{}", b"x" * 300000]
    (store / name).write_bytes(texts[rng.integers(len(texts))])
    (data / "A.json").touch()  # so that it is prepared again
    return trial(data, Wanted.VALUES)


def left_behind(rng: Generator, folder: Path) -> Trial:
    """What killed or foreign processes leave."""
    data, store = store_copy(folder)
    kind = rng.integers(5)
    if kind == 0:
        (store / ".A.123.abcd.tmp").mkdir()
    elif kind == 1:
        (store / ".lock").write_text("x")
    elif kind == 2:
        (store / "A" / "meta.json").unlink()
    elif kind == 3:
        os.rename(store / "A", store / "Z")
    else:
        (store / "A").rename(folder / "moved")
        (store / "A").write_text("a file")
    return trial(data)


def folder_is_a_link(rng: Generator, folder: Path) -> Trial:
    data, store = store_copy(folder)
    (store / "A").rename(folder / "moved")
    (store / "A").symlink_to(folder / "moved")
    return trial(data, Wanted.VALUES)


PREPARED: tuple[Maker, ...] = (
    array_damaged,
    array_damaged,
    arrays_exchanged,
    values_changed,
    facts_damaged,
    meta_missing_key,
    listings_of_others,
    left_behind,
    folder_is_a_link,
)


# --- labels that are none ---------------------------------------------------------------------------------------


def label_trial(folder: Path, label: NDArray[Any], wanted: Wanted) -> Trial:
    """Both series carry this label, so that preparing either refuses the cohort or takes it."""
    templates.save_cohort(folder)
    for name in ("A", "B"):
        nifti_inputs.save(nifti_inputs.image(label.astype(np.uint8)), folder / f"{name}_label.nii.gz")

    def read() -> PreparedStore:
        return prepare_cohort(templates.data_config(folder))

    def differs(store: PreparedStore) -> str:
        inside = sum(int(item.native_label().sum()) for item in store.series)  # type: ignore[union-attr]
        return "" if inside == 2 * int((label > 0).sum()) else f"{inside} labelled voxels"

    def warnings(store: PreparedStore) -> list[str]:
        return [w for remarks in store.warnings.values() for w in remarks]

    return Trial(read, differs, wanted, warnings=warnings, names="label")


def of_label(change: Callable[[Generator], NDArray[Any]], wanted: Wanted) -> Maker:
    def make(rng: Generator, folder: Path) -> Trial:
        return label_trial(folder, change(rng), wanted)

    make.__name__ = change.__name__
    return make


def label_inverted(rng: Generator) -> NDArray[Any]:
    return 1 - head.lesion_mask()


def label_everywhere(rng: Generator) -> NDArray[Any]:
    return np.full(head.SHAPE, rng.integers(1, 9))


def label_of_the_head(rng: Generator) -> NDArray[Any]:
    return (head.simulated_hu() > rng.choice([-300, 0])).astype(int)


def label_in_air(rng: Generator) -> NDArray[Any]:
    return (head.simulated_hu() < -900) * (rng.random(head.SHAPE) < rng.choice([0.05, 0.5, 1]))


def label_as_drawn(rng: Generator) -> NDArray[Any]:
    return head.lesion_mask()


def label_of_nothing(rng: Generator) -> NDArray[Any]:
    return np.zeros(head.SHAPE)


LABELS: tuple[Maker, ...] = (
    *(of_label(c, Wanted.REFUSAL) for c in (label_inverted, label_everywhere, label_of_the_head, label_in_air)),
    *(of_label(c, Wanted.VALUES) for c in (label_as_drawn, label_of_nothing)),
)
