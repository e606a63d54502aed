"""The test split is closed to everything that has no look on record."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.cohort.look import RecordedLook, TestSetGuardError, read_label, require_look
from data_modules.cohort.table import read_cohort
from data_modules.config import DataConfig, GridConfig
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import open_store

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def config(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    prepared = tmp_path_factory.mktemp("prepared")
    grid = GridConfig(spacing_mm=(3.2, 3.2, 6.4))
    return DataConfig(cohort=str(phantom_cohort), prepared_dir=str(prepared), prepare_workers=1, grid=grid)


@pytest.fixture
def look(tmp_path: Path) -> RecordedLook:
    (tmp_path / "looks.jsonl").write_text('{"id": "a1b2"}\n')
    return RecordedLook(tmp_path / "looks.jsonl", "a1b2")


def test_a_store_shows_the_test_split_for_a_recorded_look_only(config: DataConfig, look: RecordedLook) -> None:
    closed = prepare_cohort(config)
    assert {p.series.split for p in closed.series} == {"pretrain", "finetune", "dev"}
    assert closed.n_withheld == len(read_cohort(config.cohort).split("test")) == 3
    with pytest.raises(TestSetGuardError, match="prepared series of the split 'test'"):
        closed.split("dev", "test")
    assert len(closed.split("dev")) == 3
    opened = open_store(config, look=look)
    assert len(opened.split("test")) == 3
    assert opened.fingerprint == closed.fingerprint
    forged = dataclasses.replace(look, id="c3d4")
    for false in (forged, RecordedLook(look.path, ""), RecordedLook(look.path.with_name("none"), look.id)):
        store = prepare_cohort(config, ("test",), look=false)
        assert store.series == ()
        with pytest.raises(TestSetGuardError):
            store.split("test")


@pytest.mark.parametrize("task", ["pretrain", "segment"])
def test_training_never_holds_the_test_split(config: DataConfig, task: str) -> None:
    data = CTDataModule(config, task, seed=0)
    data.prepare_data()
    data.setup("fit")
    assert "test" not in {p.series.split for p in (*data.store.series, *data.train_series, *data.dev_series)}
    with pytest.raises(TestSetGuardError):
        data.store.split("test")


def test_labels_of_the_test_split_are_read_for_a_recorded_look_only(config: DataConfig, look: RecordedLook) -> None:
    cohort = read_cohort(config.cohort)
    series = cohort.split("test")[0]
    with pytest.raises(TestSetGuardError, match=f"label of {series.series_id}"):
        read_label(series)
    assert read_label(series, look=look).data.ndim == 3
    assert read_label(cohort.split("dev")[0]).data.ndim == 3
    require_look(("dev", "finetune"), None, "anything")


def calls(module: Path) -> list[str]:
    return [ast.unparse(node) for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]


def test_no_other_way_leads_to_the_labels() -> None:
    """A label's path is opened by guard, preparation, export of training data and import of tables alone."""
    may = {
        "data_modules/intake/listed.py",  # volumes of labels, of test rows none
        "data_modules/cohort/look.py",
        "data_modules/prepare/preparation.py",
        "iac_lightning/workflows/external/nnunet.py",
    }
    found = {
        str(module.relative_to(ROOT))
        for package in ("data_modules", "iac_lightning")
        for module in (ROOT / package).rglob("*.py")
        if any(call.startswith(("read_mask(", "nifti.read_mask(")) and ".label" in call for call in calls(module))
    }
    assert found == may


def test_only_judges_record_looks() -> None:
    judges = {
        f"iac_lightning/workflows/{n}.py"
        for n in ("evaluate", "external/evaluate", "reports/evaluated", "reports/sweep", "stress")
    }
    found = {
        str(module.relative_to(ROOT))
        for package in ("data_modules", "iac_lightning")
        for module in (ROOT / package).rglob("*.py")
        if any(call.startswith(("record_look(", "looks.record_look(")) for call in calls(module))
    }
    assert found <= judges
    assert judges - {"iac_lightning/workflows/reports/sweep.py", "iac_lightning/workflows/stress.py"} <= found
