"""The ceiling that a plan prints: which series it is of, and that it needs no prepared volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.cohort.table import read_cohort
from data_modules.config import DataConfig, GridConfig
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.workflows import ceiling
from iac_lightning.workflows.ceiling import ceiling_words, grids


def experiment(
    cohort: Path, prepared: Path, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 2.0)
) -> ExperimentConfig:
    data = DataConfig(
        cohort=str(cohort), prepared_dir=str(prepared), prepare_workers=1, grid=GridConfig(spacing_mm=spacing_mm)
    )
    return ExperimentConfig(name="a", data=data)


def rows(text: str) -> dict[str, str]:
    """First column of each line of the tables → the rest."""
    return {line.strip().split("  ")[0]: line.strip().partition("  ")[2].strip() for line in text.splitlines()[1:]}


def test_scans_are_read_where_nothing_is_prepared_and_the_test_split_never(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    measure = ceiling.measure
    monkeypatch.setattr(ceiling, "measure", lambda job: measured.append(job[0].split) or measure(job))
    config = experiment(phantom_cohort, tmp_path)
    read = ceiling_words(config, 100)
    assert set(measured) == {"finetune", "dev"}
    assert not list(tmp_path.iterdir())  # nothing is kept
    found = rows(read)
    assert [name for name in found if "×" in name] == ["1 × 1 × 2", "0.5 × 0.5 × 1.6", "0.5 × 0.5 × 1"]
    dice = [float(found[name].split()[1]) for name in found if "×" in name]
    assert dice == sorted(dice)  # a finer grid never has a lower ceiling here
    assert 0.5 < dice[0] < dice[-1] < 1

    assert "not measured" in ceiling_words(config, None)
    prepare_cohort(config.data, ["finetune", "dev"])
    quick = ceiling_words(config, None)
    assert rows(quick) == rows(read)
    assert "prepared ones" in quick


def test_a_sample_is_bounded_and_says_so(phantom_cohort: Path, tmp_path: Path) -> None:
    labelled = [s for s in read_cohort(phantom_cohort).split("finetune", "dev") if s.label]
    with_lesions = [s for s in labelled if float(s.extra["label_volume_mm3"]) > 0]
    assert 2 < len(with_lesions) < len(labelled)
    text = ceiling_words(experiment(phantom_cohort, tmp_path), 2)
    assert f"of 2 drawn from {len(with_lesions)} labelled ones of training and development" in text


def test_series_that_cannot_be_read_are_counted(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = ceiling.read_series, []

    def first_fails(series: object) -> object:
        seen.append(series)
        if len(seen) == 1:
            raise UserError("damaged")
        return read(series)  # type: ignore[arg-type]

    monkeypatch.setattr(ceiling, "read_series", first_fails)
    assert "1 could not be read (iac prepare says why)" in ceiling_words(experiment(phantom_cohort, tmp_path), 3)


def test_without_data_a_plan_says_what_is_missing(tmp_path: Path) -> None:
    config = experiment(tmp_path / "cohort.csv", tmp_path)
    assert "there is no" in ceiling_words(config, None)
    with pytest.raises(UserError, match=r"cohort\.csv"):
        ceiling_words(config, 5)


def test_only_finer_grids_are_held_against_the_planned_one() -> None:
    assert grids(DataConfig()) == ((0.8, 0.8, 1.6), (0.5, 0.5, 1.6), (0.5, 0.5, 1.0))
    assert grids(DataConfig(grid=GridConfig(spacing_mm=(0.5, 0.5, 1.6)))) == ((0.5, 0.5, 1.6), (0.5, 0.5, 1.0))
    assert grids(DataConfig(grid=GridConfig(spacing_mm=(0.8, 0.8, 1.0)))) == ((0.8, 0.8, 1.0), (0.5, 0.5, 1.0))
    assert grids(DataConfig(grid=GridConfig(spacing_mm=(0.4, 0.4, 1.0)))) == ((0.4, 0.4, 1.0),)
