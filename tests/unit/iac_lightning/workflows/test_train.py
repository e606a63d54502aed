"""What a training does around Lightning: the data once, and no trace in MLflow of a run that never began."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from data_modules.batches import ct_data_module
from data_modules.cohort import table as cohort_module
from data_modules.cohort.table import read_cohort, seen_patients, split_salt
from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.workflows.train import train
from tests.integration.settings import experiment, overrides


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every reading of the cohort table, preparation, opening and setting up, by name."""
    seen: list[str] = []

    def count(module: object, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: seen.append(name) or real(*a, **k))

    count(cohort_module, "read_table")
    count(ct_data_module, "prepare_cohort")
    count(ct_data_module, "open_store")
    return seen


def test_a_training_reads_the_table_and_prepares_once(phantom_cohort: Path, tmp_path: Path, calls: list[str]) -> None:
    settings = overrides(phantom_cohort, tmp_path, "trainer.max_epochs=1", "name=once", "tracking.enabled=false")
    run = train(load_experiment(experiment("mae"), settings))
    assert calls == ["prepare_cohort", "read_table", "open_store", "read_table"]  # open: in each process
    checkpoint = torch.load(run.checkpoints_dir / "best.ckpt", weights_only=True)
    cohort = read_cohort(phantom_cohort)
    learnt = seen_patients(cohort.patients("pretrain", "finetune"), split_salt(phantom_cohort))
    assert checkpoint["iac"]["trained_on"] == [learnt]
    assert run.provenance["data_fingerprint"]


def test_a_mistake_in_the_data_leaves_no_run_in_mlflow(phantom_cohort: Path, tmp_path: Path) -> None:
    table = pd.read_csv(phantom_cohort, dtype=str, keep_default_na=False)
    for column in ("image", "label"):
        table[column] = [str(phantom_cohort.parent / name) if name else "" for name in table[column]]
    table.loc[table["split"] == "dev", "label"] = ""
    table[table["split"].isin(("finetune", "dev"))].to_csv(tmp_path / "cohort.csv", index=False)
    settings = overrides(tmp_path / "cohort.csv", tmp_path, "trainer.max_epochs=1", "name=wrong")
    config = load_experiment(experiment("cnn"), settings)
    with pytest.raises(UserError, match="have no label"):
        train(config)
    run = tmp_path / "wrong"
    assert run.is_dir()
    assert not (run / "mlflow_run_id").exists()
    assert not (run / "provenance.json").exists()
