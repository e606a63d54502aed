"""Templates: one, several by age, and the model that is built in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.prepare.templates import (
    BUILT_IN,
    MODEL_FILE,
    Template,
    built_in_model,
    fitting_templates,
    open_templates,
    templates_digest,
)
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti

HU = np.random.default_rng(0).integers(-1000, 1000, (12, 10, 8)).astype(np.int16)


def written(path: Path, ages: object = None, change: int = 0) -> str:
    write_nifti(Volume(HU + np.int16(change), Grid(HU.shape, np.diag([20.0, 20.0, 20.0, 1.0]))), path)
    if ages is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"AgesYears": ages}))
    return str(path)


def test_templates_tell_their_age_groups(tmp_path: Path) -> None:
    child, adult = written(tmp_path / "child.nii.gz", [0, 18]), written(tmp_path / "adult.nii.gz")
    one, other = open_templates((child, adult))
    assert (one.name, one.ages_years, other.ages_years) == ("child.nii.gz", (0.0, 18.0), None)
    assert np.array_equal(one.volume.data, HU)
    assert [t.name for t in open_templates(adult)] == ["adult.nii.gz"]


def test_a_template_that_changes_is_read_again(tmp_path: Path) -> None:
    name = written(tmp_path / "t.nii.gz")
    open_templates(name)
    written(tmp_path / "t.nii.gz", [60, 100], change=5)
    (again,) = open_templates(name)
    assert again.ages_years == (60.0, 100.0)
    assert np.array_equal(again.volume.data, HU + 5)


@pytest.mark.parametrize("ages", [[18], [30, 20], ["a", 3], 12, [-1, 4], [True, 4]])
def test_an_age_group_that_makes_no_sense_is_named(ages: object, tmp_path: Path) -> None:
    name = written(tmp_path / "t.nii.gz", ages)
    with pytest.raises(UserError, match=r"t\.json: AgesYears is .*\[youngest, oldest\]"):
        open_templates((name,))


@pytest.mark.parametrize(
    ("age", "names"), [(5.0, "child"), (18.0, "child young"), (40.0, "young"), (90.0, "child young any"), (None, "all")]
)
def test_the_age_chooses(age: float | None, names: str) -> None:
    volume = Volume(HU, Grid(HU.shape, np.eye(4)))
    given = (
        Template("child", volume, (0.0, 18.0)),
        Template("young", volume, (18.0, 60.0)),
        Template("any", volume),
    )
    found = [template.name for template in fitting_templates(given, age)]
    assert found == (["child", "young", "any"] if names == "all" else names.split())


def test_templates_count_by_content_and_age_group_not_by_name(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a.nii.gz", [0, 18]), written(tmp_path / "b.nii.gz")
    assert templates_digest(other) == hashlib.sha256(Path(other).read_bytes()).hexdigest()
    before = templates_digest((one, other))
    assert before == templates_digest((written(tmp_path / "c.nii.gz", [0, 18]), other))
    assert before != templates_digest((written(tmp_path / "a.nii.gz", [0, 20]), other))
    assert before != templates_digest((other, one))


def test_the_built_in_model_is_a_head_in_mni_space() -> None:
    (model,) = open_templates(None)
    assert model is built_in_model()
    assert (model.name, model.is_built_in) == (BUILT_IN, True)
    assert MODEL_FILE.stat().st_size < 200_000

    def around(*mni_mm: float) -> float:
        return float(model.volume.data[tuple(np.rint(model.volume.grid.to_index(mni_mm)).astype(int))])

    assert 0 < around(30, -20, 20) < 80  # brain
    assert around(0, 95, 60) == -200  # in front of the head: the window's lower end
    assert around(0, 60, -48) < 0  # nasal cavity
    assert around(0, -10, 84) > 100  # vertex
    head = model.volume.data > -100
    assert 2.0 < head.sum() * model.volume.grid.voxel_volume_mm3 / 1e6 < 6.0
