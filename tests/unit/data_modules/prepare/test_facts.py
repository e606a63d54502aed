"""A prepared series is used only while its facts and arrays are those that were written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare.facts import META_FILE, broken_array, read_meta, write_meta
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import open_store
from tests.unit.data_modules.prepare.conftest import change_meta

ARRAYS = ("hu", "peak_hu", "native_hu", "occupancy", "native_label", "components")


def flip(path: Path) -> None:
    """One bit in the middle; size and name stay."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"), [*((name, flip) for name in ARRAYS), *(("hu", damage) for damage in (cut, empty, Path.unlink))]
)
def test_a_damaged_array_is_prepared_anew(
    name: str, damage: object, config: DataConfig, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = prepare_cohort(config)
    path = store.directory / "a" / f"{name}.npy"
    before = path.read_bytes()
    damage(path)  # type: ignore[operator]
    reads.clear()
    again = prepare_cohort(config)
    assert reads == ["a"]
    assert path.read_bytes() == before
    assert again.fingerprint == store.fingerprint
    assert f"a: {name}.npy is missing, cut off or changed; prepared again" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "null",
        '{"half": ',
        '{"series_id": "a", "grid": {}}',
        json.dumps({"arrays": {}, "warnings": 5}),
    ],
)
def test_facts_of_something_else_are_not_taken(content: str, config: DataConfig, reads: list[str]) -> None:
    directory = prepare_cohort(config).directory
    (directory / "a" / META_FILE).write_text(content)
    reads.clear()
    assert len(prepare_cohort(config).series) == 3
    assert reads == ["a"]


def test_a_changed_fact_and_the_facts_of_another_series_are_seen(config: DataConfig, reads: list[str]) -> None:
    directory = prepare_cohort(config).directory
    meta = directory / "a" / META_FILE
    whole = meta.read_text()
    meta.write_text(whole.replace('"slice_thickness_mm": 2.0', '"slice_thickness_mm": 3.0'))
    assert read_meta(directory / "a") is None
    shutil.copyfile(directory / "b" / META_FILE, meta)
    assert read_meta(directory / "a") is None
    reads.clear()
    prepare_cohort(config)
    assert reads == ["a"]
    assert meta.read_text() == whole


def test_series_of_before_have_no_sums_and_are_used(config: DataConfig, reads: list[str]) -> None:
    store = prepare_cohort(config)
    for name in "abc":
        change_meta(store.directory, name)
        assert "arrays" not in (read_meta(store.directory / name) or {})
    reads.clear()
    assert prepare_cohort(config).fingerprint == store.fingerprint
    assert reads == []
    for name, damage in (("hu", cut), ("native_hu", empty), ("components", cut)):
        damage(store.directory / "a" / f"{name}.npy")
        assert prepare_cohort(config).fingerprint == store.fingerprint
        assert reads == ["a"]
        change_meta(store.directory, "a")
        reads.clear()
    np.save(store.directory / "b" / "hu.npy", np.zeros((2, 2, 2), np.float32))
    meta = read_meta(store.directory / "b")
    assert meta is not None
    assert broken_array(store.directory / "b", meta, labelled=True) == "hu.npy is missing, cut off or changed"


def test_series_of_before_have_no_peak_and_are_used(config: DataConfig, reads: list[str]) -> None:
    store = prepare_cohort(config)
    kept = store.series[0].peak_hu()
    for directory in (store.directory / name for name in "abc"):
        (directory / "peak_hu.npy").unlink()
        facts = json.loads((directory / META_FILE).read_text())
        write_meta(directory, {key: value for key, value in facts.items() if key not in {"arrays", "digest"}})
    reads.clear()
    again = prepare_cohort(config)
    assert reads == []
    assert again.fingerprint == store.fingerprint
    computed = again.series[0].peak_hu()
    assert computed.dtype == np.int16
    np.testing.assert_array_equal(computed, kept)


def test_arrays_that_are_cut_after_the_store_was_opened_are_named(config: DataConfig) -> None:
    directory = prepare_cohort(config).directory
    for name in ARRAYS:
        empty(directory / "a" / f"{name}.npy")
    item = next(s for s in open_store(config).series if s.series.series_id == "a")
    for read in (item.hu, item.peak_hu, item.native_hu, item.occupancy, item.native_label, lambda: item.components):
        with pytest.raises(UserError, match=r"\.npy: missing, cut off or foreign; run the same command again"):
            read()
