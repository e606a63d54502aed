"""Which images the prepared series are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.table import read_cohort
from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare import images
from data_modules.prepare.images import KNOWN_FILE, alike_elsewhere, digests_of
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.sources import digest
from data_modules.prepare.store import PreparedStore, open_store
from tests.unit.data_modules.prepare.conftest import image, save


def as_prepared_earlier(store: PreparedStore) -> None:
    for item in store.series:
        path = item.directory / "meta.json"
        meta = json.loads(path.read_text())
        meta.pop("image"), meta.pop("digest")
        path.write_text(json.dumps({**meta, "digest": digest(meta)}))


def test_each_prepared_series_knows_its_image(config: DataConfig) -> None:
    store = prepare_cohort(config)
    digests = [item.image_digests for item in store.series]
    assert len({d[0] for d in digests}) == len(store.series)
    assert [item.image_digests for item in open_store(config).series] == digests


def test_what_was_prepared_earlier_learns_it_once(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    store = prepare_cohort(config)
    before = [(item.image_digests, item.thumbnail, item.source_sha256) for item in store.series]
    as_prepared_earlier(store)
    assert all(not item.image_digests for item in open_store(config).series)
    store = prepare_cohort(config)
    assert [(item.image_digests, item.thumbnail, item.source_sha256) for item in store.series] == before
    monkeypatch.setattr(images, "mapped", lambda *_: pytest.fail("they are known"))
    prepare_cohort(config)


def test_a_store_that_cannot_be_written_is_used_without(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    as_prepared_earlier(prepare_cohort(config))

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images, "FileLock", refused)
    assert len(prepare_cohort(config).series) == 3
    assert "copies of an image are not found there" in caplog.text


def test_one_image_under_two_patients_is_refused(config: DataConfig, tmp_path: Path) -> None:
    save(tmp_path / "images" / "c.nii.gz", image(0)[::-1])  # in another file, the other way round
    with pytest.raises(UserError, match=r"'a' .*and 'c' .* are one image, or parts of one") as error:
        prepare_cohort(config)
    assert str(error.value).count("are one image") == 1
    table = pd.read_csv(config.cohort, dtype=str, keep_default_na=False)
    table["patient_id"], table["split"] = "one", "finetune"
    table.to_csv(config.cohort, index=False)
    assert len(prepare_cohort(config).series) == 3


def test_scans_of_two_patients_that_look_alike(config: DataConfig, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = prepare_cohort(config).series
    twin = replace(a, series=replace(a.series, patient_id="other", series_id="twin", split="test"))
    assert alike_elsewhere([twin], [a, b]) == [
        f"1 pairs of scans of two patients look like one image, the other one of {a.series.split}."
    ]
    assert f"twin and {a.series.series_id} look like one image (correlation 1.0000)" in caplog.text
    assert alike_elsewhere([a], [replace(a), b, c]) == []  # of one patient
    assert alike_elsewhere([replace(twin, thumbnail="")], [a]) == []


def test_digests_of_series_that_are_not_prepared_are_kept(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = read_cohort(config.cohort)
    (tmp_path / "file").write_text("")
    folders = [tmp_path / "file", tmp_path / "kept"]  # the first cannot be written
    found = digests_of(cohort.series, cohort.path, folders, 1)
    assert [found[item.series.series_id] for item in prepare_cohort(config).series] == list(found.values())
    monkeypatch.setattr(images, "read_series", lambda _: pytest.fail("they are known"))
    assert digests_of(cohort.series, cohort.path, folders, 1) == found
    monkeypatch.undo()
    save(tmp_path / "images" / "b.nii.gz", image(9))
    again = digests_of(cohort.series, cohort.path, folders, 1)
    assert np.sum([again[name] != found[name] for name in found]) == 1
    assert len(json.loads((tmp_path / "kept" / KNOWN_FILE).read_text())) == 4
