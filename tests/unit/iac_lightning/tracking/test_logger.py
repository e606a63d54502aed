from __future__ import annotations

import ast
import errno
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from matplotlib.figure import Figure
from mlflow import MlflowClient
from torch.utils.data import DataLoader

from iac_lightning.runs.directory import Run, load_run, open_run
from iac_lightning.tracking import logger as tracking
from iac_lightning.tracking import spool as tracking_spool
from iac_lightning.tracking.logger import (
    RunLogger,
    finish,
    log_figure,
    log_files,
    log_summary,
    start_logger,
)
from iac_lightning.tracking.spool import Spool, spool_file
from iac_lightning.tracking.store import tracking_uri
from tests.unit.iac_lightning.tracking.tracked import artifacts, config_of, stored

ROOT = Path(__file__).parents[4]


class Tiny(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.save_hyperparameters({"lr": 0.1 + torch.rand(1).item()})  # MLflow would refuse its change on resuming

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self.layer(batch) - 1).square().mean()
        self.log("train/loss", loss, batch_size=4)
        self.log("broken", torch.tensor(float("nan")), batch_size=4)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(run: Run, logger: object, epochs: int) -> None:
    L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=logger or False,  # type: ignore[arg-type]
        log_every_n_steps=1,
        default_root_dir=run.directory,
        callbacks=[LearningRateMonitor()] if logger else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Tiny(), DataLoader(torch.arange(8.0).reshape(8, 1), batch_size=4))


def test_one_mlflow_run_through_interruption_and_end(runs_dir, tmp_path, capfd):
    config = config_of(runs_dir, "demo/whole", "data.cohort=" + "x" * 300 + ".csv")
    with open_run(config) as run:
        run.write_provenance("f1")
        logger = start_logger(run)
        assert isinstance(logger, RunLogger)
        fit(run, logger, 1)
        first = stored(run)
        assert first.info.status == "RUNNING"  # `fit` ended, the run did not; a killed one stays like this
        (run.checkpoints_dir / "last.ckpt").touch()
    with open_run(config) as run:
        logger = start_logger(run)
        fit(run, logger, 2)
        run.write_provenance("f1")
        finish(logger, "FINISHED")
    last = stored(run)
    assert last.info.run_id == first.info.run_id == run.mlflow_run_id
    assert last.info.status == "FINISHED"
    assert last.info.run_name == "demo/whole"
    assert last.data.params == first.data.params
    assert last.data.params["model.vit.patch_size"] == "[8, 8, 4]"
    assert last.data.params["data.cohort"] == "x" * 250
    assert last.data.tags["task"] == "segment"
    assert last.data.tags["data_fingerprint"] == "f1"
    assert "train/loss" in last.data.metrics
    assert "broken" not in last.data.metrics
    assert artifacts(run) == ["config.yaml", "provenance.json"]
    client = MlflowClient(tracking_uri(config))
    assert len(client.get_metric_history(run.mlflow_run_id, "train/loss")) == 4  # the first two were there
    provenance = Path(client.download_artifacts(run.mlflow_run_id, "provenance.json", str(tmp_path)))
    assert '"continued"' in provenance.read_text()  # the one stored at the end, not the one from the beginning
    assert (runs_dir / "mlartifacts").is_dir()
    assert not (tmp_path / "mlruns").exists()
    chatter = capfd.readouterr()
    assert "alembic" not in chatter.err
    assert "database tables" not in chatter.err


def test_figures(runs_dir, tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    with open_run(config_of(runs_dir, "figures")) as run:
        logger = start_logger(run)
        path = run.directory / "figures" / "curve.png"
        log_figure(logger, figure, path)
        log_figure(logger, path, path)
        log_figure(logger, path, run.directory / "figures" / "copy.png")
        assert artifacts(run, "figures") == ["figures/copy.png", "figures/curve.png"]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.with_name("copy.png").read_bytes() == path.read_bytes()
    log_figure(None, figure, tmp_path / "alone.svg")
    assert b"<svg" in (tmp_path / "alone.svg").read_bytes()


def test_summary_of_an_evaluation(runs_dir, caplog):
    with open_run(config_of(runs_dir, "summary")) as run:
        log_summary(run, {"a": 1})  # never tracked: nothing to do
        assert run.mlflow_run_id is None
        finish(start_logger(run), "FINISHED")
        log_summary(
            run,
            {"dice": {"mean": np.float64(0.5), "ci": [0.1, 0.9]}, "n (%)": np.int64(3), "ok": True, "nan": np.nan},
            "test",
        )
        assert stored(run).data.metrics == {"test/dice/mean": 0.5, "test/n ___": 3.0}
        log_summary(run, {"a": 1.0})
        assert stored(run).data.metrics["a"] == 1.0
        assert stored(run).info.status == "FINISHED"
        run.mlflow_run_id = "0" * 32
        log_summary(run, {"a": 1.0})
    assert "the summary of summary was not stored" in caplog.text


def test_tracking_can_be_off_and_only_the_first_process_tracks(runs_dir, monkeypatch):
    with open_run(config_of(runs_dir, "untracked", "tracking.enabled=false")) as run:
        assert start_logger(run) is None
    with open_run(config_of(runs_dir, "rank")) as run:
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert start_logger(run) is None
        assert run.mlflow_run_id is None
    finish(None, "FINISHED")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == tracking.__name__]


def steps(run: Run, name: str) -> list[tuple[int, float]]:
    history = MlflowClient(tracking_uri(run.config)).get_metric_history(run.mlflow_run_id, name)
    return sorted((m.step, m.value) for m in history)


def test_a_server_that_is_away_costs_one_line_and_the_next_start_stores_everything(
    runs_dir, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with open_run(config_of(tmp_path / "away", "a", "tracking.uri=http://127.0.0.1:9")) as run:
        logger = start_logger(run)
        fit(run, logger, 1)
        path = run.directory / "figures" / "curve.png"
        log_figure(logger, Figure(), path)
        (message,) = messages(caplog)
        assert message.startswith("tracking: opening MLflow failed (")
        assert "\n" not in message
        finish(logger, "FINISHED")
        run.mark_finished({})
        assert messages(caplog)[1:] == [
            f"tracking: {len(logger.spool)} values and files of a wait for MLflow in its run directory; the same "
            "command stores them"
        ]
    back = Run(run.directory, config_of(runs_dir, "a"))  # the same run with a store that answers
    tracking.catch_up(back)
    assert [step for step, _ in steps(back, "train/loss")] == [0, 1]
    assert artifacts(back, "figures") == ["figures/curve.png"]
    assert stored(back).info.status == "FINISHED"
    assert not spool_file(back.directory).exists()
    monkeypatch.setattr(tracking, "RunLogger", lambda run: pytest.fail("nothing waits"))
    tracking.catch_up(back)


def test_a_store_that_fails_later_is_left_alone_and_gets_everything_when_it_is_back(runs_dir, monkeypatch, caplog):
    with open_run(config_of(runs_dir, "fails")) as run:
        logger = start_logger(run)
        assert logger is not None
        calls = []

        def gone(*args: object, **kwargs: object) -> None:
            calls.append(1)
            raise ConnectionError("the server is gone\nwith details")

        client = type(logger.experiment)
        with monkeypatch.context() as broken:
            broken.setattr(client, "log_batch", gone)
            fit(run, logger, 2)
            assert len(calls) == 1
            logger._quiet_until = 0.0
            before = int(time.time() * 1000)
            logger.log_metrics({"x": 1.0}, 1)
            after = int(time.time() * 1000)
            assert len(calls) == 2
        assert messages(caplog) == [
            "tracking: logging metrics failed (ConnectionError: the server is gone); training goes on, and what is to "
            "be stored waits until MLflow is back"
        ]
        logger.log_metrics({"x": 2.0}, 2)  # still quiet
        logger.log_metrics({"nan": float("nan")}, 2)
        path = run.directory / "figures" / "curve.png"
        log_figure(logger, Figure(), path)
        assert "x" not in stored(run).data.metrics
        kept = Spool(run.directory)  # what a process started after a kill would find
        assert [(m.step, m.value) for m in kept.metrics if m.name == "x"] == [(1, 1.0), (2, 2.0)]
        assert kept.files == {"figures/curve.png": "figures"}
        logger._quiet_until = 0.0
        logger.log_metrics({"x": 3.0}, 3)
        count = len(kept) + 1
        assert messages(caplog)[1:] == [f"tracking: MLflow is back; {count} values and files that waited are stored"]
        assert steps(run, "x") == [(1, 1.0), (2, 2.0), (3, 3.0)]
        (first, *_) = MlflowClient(tracking_uri(run.config)).get_metric_history(run.mlflow_run_id, "x")
        assert before <= first.timestamp <= after  # when it was measured, not when it was stored
        assert [step for step, _ in steps(run, "train/loss")] == [0, 1, 2, 3]
        assert artifacts(run, "figures") == ["figures/curve.png"]
        assert not spool_file(run.directory).exists()
        logger._quiet_until = float("inf")
        finish(logger, "KILLED")  # is not held back
        assert stored(run).info.status == "KILLED"


def test_a_killed_process_leaves_what_waits_to_the_next_and_nothing_comes_twice(runs_dir, monkeypatch, caplog):
    config = config_of(runs_dir, "killed")
    with open_run(config) as run:
        logger = start_logger(run)
        logger.log_metrics({"x": 0.5, "y_step": 1.0}, 0)
        with monkeypatch.context() as broken:
            broken.setattr(type(logger.experiment), "log_batch", lambda *_, **__: (_ for _ in ()).throw(OSError()))
            logger.log_metrics({"x": 0.6}, 1)
        with spool_file(run.directory).open("a") as file:
            file.write('{"metrics": {"x": 0.')  # the kill
        again = start_logger(run)
        assert steps(run, "x") == [(0, 0.5), (1, 0.6)]
        again.log_metrics({"x": 0.6}, 1)  # steps since the last checkpoint are made again
        again.log_metrics({"x": 0.7}, 2)
        assert steps(run, "x") == [(0, 0.5), (1, 0.6), (2, 0.7)]
        # an epoch whose line was written before the kill, and whose means were not logged
        rows = [{"epoch": 0, "step": 2, "seconds": 1.0, "x": 0.6, "y": 3.0}, {"epoch": 1, "step": 4, "x": 0.9}]
        for _ in range(2):
            start_logger(run).restore(rows)
        assert steps(run, "x") == [(0, 0.5), (1, 0.6), (2, 0.7), (3, 0.9)]
        assert steps(run, "y_epoch") == [(1, 3.0)]
        assert "seconds" not in stored(run).data.metrics


def test_a_process_killed_after_the_end_and_before_mlflow_knows(runs_dir):
    with open_run(config_of(runs_dir, "end")) as run:
        logger = start_logger(run)
        tracking.announce_finish(logger)
        run.mark_finished({})
        assert stored(run).info.status == "RUNNING"
        tracking.catch_up(run)
        assert stored(run).info.status == "FINISHED"
        assert not spool_file(run.directory).exists()
        tracking.announce_finish(start_logger(run))  # killed before the end was noted: it goes on
        start_logger(run)
        assert stored(run).info.status == "RUNNING"


def test_a_full_disk_leaves_out_figures_and_keeps_what_waits_in_memory(runs_dir, monkeypatch, caplog):
    with open_run(config_of(runs_dir, "full")) as run:
        logger = start_logger(run)

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(type(logger.experiment), "log_batch", full)
            broken.setattr(Path, "open", full)
            broken.setattr(Figure, "savefig", full)
            logger.log_metrics({"x": 1.0}, 1)
            log_figure(logger, Figure(), run.directory / "figures" / "curve.png")
        assert "figure left out: " in messages(caplog)[1]
        assert not spool_file(run.directory).exists()
        finish(logger, "FINISHED")
        assert steps(run, "x") == [(1, 1.0)]


def test_what_waits_has_a_limit(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking_spool, "LIMIT", 2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = RunLogger(Run(tmp_path, config_of(tmp_path, "a", "tracking.uri=http://127.0.0.1:9")))
    for step in range(4):
        logger.log_metrics({"x": 1.0}, step)
    assert [m.step for m in logger.spool.metrics] == [0, 1]
    assert sum("more waits for MLflow than is kept" in m for m in messages(caplog)) == 1


def test_no_module_imports_mlflow_before_it_is_needed():
    """What stands outside functions is executed on import, and importing MLflow takes seconds."""
    modules = list((ROOT / "iac_lightning").rglob("*.py"))
    found = {
        module.name
        for module in modules
        for name in imported_at_once(ast.parse(module.read_text()).body)
        if name.split(".")[0] == "mlflow"
    }
    assert len(modules) > 100
    assert not found


def imported_at_once(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "handlers", "finalbody"):
                yield from imported_at_once(getattr(node, part, []))


@pytest.mark.slow
def test_importing_tracking_does_not_import_mlflow():
    code = "import sys, iac_lightning.tracking.logger\nassert 'mlflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_files_keep_their_folders(runs_dir, tmp_path, caplog, monkeypatch):
    page, table = tmp_path / "page/index.html", tmp_path / "page/tables/models.csv"
    table.parent.mkdir(parents=True)
    page.write_text("page")
    table.write_text("table")
    with open_run(config_of(runs_dir, "files")) as run:
        log_files(run, [page], tmp_path / "page", "report/test")  # never tracked: nothing to do
        start_logger(run)
        log_files(run, [page, table], tmp_path / "page", "report/test")
        assert artifacts(run, "report/test") == ["report/test/index.html", "report/test/tables"]
        assert artifacts(run, "report/test/tables") == ["report/test/tables/models.csv"]
        monkeypatch.setattr(tracking, "client_of", lambda uri: 1 / 0)
        with caplog.at_level(logging.WARNING):
            log_files(run, [page, table], tmp_path / "page", "report/test")
        assert [r.message for r in caplog.records if "report/test of files was not stored" in r.message]
        assert len(caplog.records) == 1


def test_a_copy_of_a_run_adds_nothing_to_the_run_of_the_original(tmp_path, caplog):
    with open_run(config_of(tmp_path, "a")) as run:
        start_logger(run)
    shutil.copytree(run.directory, tmp_path / "b")
    log_summary(load_run(tmp_path / "b"), {"a": 1.0})
    assert "a" not in stored(run).data.metrics
    assert "is a copy of" in caplog.text
    log_summary(load_run(run.directory), {"a": 2.0})
    assert stored(run).data.metrics["a"] == 2.0


def test_a_run_without_its_store_makes_no_new_one(tmp_path, caplog):
    with open_run(config_of(tmp_path / "runs", "a")) as run:
        start_logger(run)
    shutil.copytree(run.directory, tmp_path / "elsewhere" / "a")
    shutil.rmtree(tmp_path / "runs")
    log_summary(load_run(tmp_path / "elsewhere" / "a"), {"a": 1.0})
    assert "there is no MLflow database" in caplog.text
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["a"]
