"""What a training does around Lightning: the data once, where they lie, and no trace in MLflow of what never began."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch

from data_modules.batches import ct_data_module
from data_modules.cohort import table as cohort_module
from data_modules.cohort.leakage import seen_patients, split_salt
from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.prepare.store import open_store
from iac_lightning.config.reading import load_experiment
from iac_lightning.modules.callbacks import EpochHistory, read_history
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows.reports.evaluated import load_entry
from iac_lightning.workflows.train import build_trainer, train
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
    prepared, salt = open_store(run.config.data), split_salt(phantom_cohort)
    of_training, of_dev = ([s.image_digests for s in prepared.split(*n)] for n in (("pretrain", "finetune"), ("dev",)))
    learnt = cohort.patients("pretrain", "finetune")
    tuned = cohort.patients("dev"), of_dev
    assert checkpoint["iac"]["trained_on"] == [seen_patients(learnt, salt, of_training, tuned)]
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


def copied(cohort: Path, folder: Path) -> Path:
    """The cohort in a folder of its own, which may be moved and changed."""
    shutil.copytree(cohort.parent, folder, ignore=shutil.ignore_patterns("prepared"))
    return folder / cohort.name


@pytest.fixture(scope="module")
def pretrained(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished pre-training of one epoch on a cohort of its own, `here/cohort.csv` beside it."""
    folder = tmp_path_factory.mktemp("pretrained")
    cohort = copied(phantom_cohort, folder / "here")
    settings = overrides(cohort, folder, "trainer.max_epochs=1", "name=mae", "tracking.enabled=false")
    return train(load_experiment(experiment("mae"), settings))


def finetune(pretrained: Run, runs: Path, *more: str) -> Run:
    source, cohort = str(pretrained.directory), Path(pretrained.config.data.cohort)
    settings = overrides(cohort, runs, "trainer.max_epochs=1", "tracking.enabled=false", f"init_from={source}", *more)
    return train(load_experiment(experiment("vit_mae"), settings))


def test_an_encoder_that_learnt_otherwise_is_taken_over_only_when_asked_for(
    pretrained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ("data.window_hu=[-100,900]", "model.vit.heads=1")
    with pytest.raises(
        UserError, match=r"window_hu was \[-200.*, 1000.*\] and is \[-100.*heads was 2 and is 1 here.*other=true"
    ):
        finetune(pretrained, tmp_path, *others)
    run = finetune(pretrained, tmp_path, *others, "init_from_other=true")
    assert "warning: the pre-training learnt otherwise: data.window_hu was" in capsys.readouterr().out
    assert "model.vit.heads was 2 and is 1 here" in (run.directory / "logs/transfer.txt").read_text()


@pytest.mark.parametrize("kind", [["model.name=cnn", "model.cnn.base_features=4"], ["model.mae.pretrain=segmenter"]])
def test_whole_networks_are_pre_trained_and_taken_over(
    kind: list[str], phantom_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = overrides(phantom_cohort, tmp_path, "trainer.max_epochs=1", "tracking.enabled=false")
    decoder = ["model.decoder.name=progressive", "model.decoder.channels=4", "model.decoder.upsampling=transposed"]
    made = train(load_experiment(experiment("mae"), [*short, *kind, *decoder, "name=whole"]))
    told = capsys.readouterr().out
    assert "R² of what was hidden" in told
    (epoch,) = read_history(made.directory / "logs/history.jsonl")
    assert {"dev/r2", "dev/r2_interpolation", "dev/r2_patch_mean", "dev/loss"} <= set(epoch)
    assert (made.directory / "figures/reconstruction.png").stat().st_size > 0
    own = kind if "model.name=cnn" in kind else []
    settings = [*short, *own, *decoder, f"init_from={made.directory}", "name=tuned"]
    tuned = train(load_experiment(experiment("vit_scratch"), settings))
    rows = (tuned.directory / "logs/transfer.txt").read_text().splitlines()
    loaded = {row.split()[1] for row in rows if row.startswith("loaded")}
    new = {row.split()[1] for row in rows if row.startswith("new")}
    assert any("decoder" in name for name in loaded)
    assert new
    assert all("head" in name for name in new)
    other = "vit_scratch" if own else "cnn"
    with pytest.raises(UserError, match=r"has pre-trained a .*, and this network is a"):
        train(load_experiment(experiment(other), [*short, f"init_from={made.directory}", "name=other"]))


def test_an_encoder_that_is_not_finite_is_not_taken_over(pretrained: Run, tmp_path: Path) -> None:
    shutil.copytree(pretrained.directory, tmp_path / "nan")
    path = tmp_path / "nan/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["model.encoder.norm.weight"][3] = float("nan")
    torch.save(saved, path)
    with pytest.raises(UserError, match=r"last\.ckpt: 1 of its tensors .* such as model\.encoder\.norm\.weight"):
        finetune(pretrained, tmp_path, f"init_from={tmp_path / 'nan'}")


def test_data_that_were_moved_are_taken_at_their_new_place_if_they_are_the_same(
    pretrained: Run, tmp_path: Path
) -> None:
    shutil.copytree(pretrained.directory, tmp_path / "mae")
    here, there = Path(pretrained.config.data.cohort), tmp_path / "there" / "cohort.csv"
    shutil.copytree(here.parent, there.parent)
    moved = f"data.cohort={there}"
    for load in (load_run, load_entry):
        run = load(tmp_path / "mae", [moved])
        assert isinstance(run, Run)
        assert run.config.data.cohort == str(there)
    settings = [*overrides(here, tmp_path, "trainer.max_epochs=1", "name=mae", "tracking.enabled=false"), moved]
    assert train(load_experiment(experiment("mae"), settings)).is_finished
    assert load_run(tmp_path / "mae").config.data.cohort == str(there), "the run knows its place from then on"

    labels = sorted((there.parent / "labels").glob("*"))
    used = {s.label for s in read_cohort(there).split("finetune")}
    other = next(path for path in labels if path in used)
    other.write_bytes(next(path for path in labels if path.read_bytes() != other.read_bytes()).read_bytes())
    shutil.copyfile(pretrained.directory / "config.yaml", tmp_path / "mae/config.yaml")  # before it was moved
    for begin in (
        lambda: load_run(tmp_path / "mae", [moved]),
        lambda: train(load_experiment(experiment("mae"), settings)),
    ):
        with pytest.raises(UserError, match=r"there/cohort\.csv does not hold the data of .*mae \(fingerprint"):
            begin()
    with pytest.raises(UserError, match=r"seed=3: a trained run takes .* the place that its data were moved to"):
        load_run(tmp_path / "mae", ["seed=3"])


def while_training(monkeypatch: pytest.MonkeyPatch, epoch: int, act: Callable[[], object]) -> None:
    """Do something at the end of an epoch."""
    real = EpochHistory.on_train_epoch_end

    def on_train_epoch_end(self: EpochHistory, trainer: L.Trainer, module: L.LightningModule) -> None:
        real(self, trainer, module)
        if trainer.current_epoch == epoch:
            act()

    monkeypatch.setattr(EpochHistory, "on_train_epoch_end", on_train_epoch_end)


def test_labels_that_change_while_it_trains_are_noticed(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = copied(phantom_cohort, tmp_path / "data")
    first, second = (s for s in read_cohort(cohort).split("finetune")[:2])
    label, other = first.label, second.label
    assert label is not None
    assert other is not None
    before, after = label.read_bytes(), other.read_bytes()
    config = load_experiment(experiment("mae"), overrides(cohort, tmp_path, "name=a", "tracking.enabled=false"))
    with monkeypatch.context() as patch:
        while_training(patch, 0, lambda: label.write_bytes(after))
        with pytest.raises(UserError, match=rf"labels of 1 series \({first.series_id}\) were changed while .* epoch 2"):
            train(config)
    assert not load_run(tmp_path / "a").is_finished
    label.write_bytes(before)
    with monkeypatch.context() as patch:
        while_training(patch, 1, lambda: os.utime(label))
        assert train(config).is_finished, "the same content under another time"


@pytest.mark.parametrize(
    ("setting", "algorithms", "only_warns", "benchmark"),
    [("strict", True, False, False), ("warn", True, True, False), ("off", False, False, True)],
)
def test_deterministic_is_a_setting(
    setting: str, algorithms: bool, only_warns: bool, benchmark: bool, tmp_path: Path
) -> None:
    config = load_experiment(experiment("cnn"), [f"runs_dir={tmp_path}", f"trainer.deterministic={setting}"])
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        build_trainer(config, Run(tmp_path, config), None)
        assert torch.are_deterministic_algorithms_enabled() is algorithms
        assert torch.is_deterministic_algorithms_warn_only_enabled() is only_warns
        assert torch.backends.cudnn.benchmark is benchmark
        assert torch.utils.deterministic.fill_uninitialized_memory is (setting == "strict")  # type: ignore[attr-defined]
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = False
