"""A real MLflow server that goes away and returns while a run trains."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from iac_lightning.cli import main
from iac_lightning.modules.callbacks import EpochHistory
from iac_lightning.runs.directory import load_run
from iac_lightning.tracking import logger as tracking
from tests.integration.settings import experiment, overrides


class Server:
    """`mlflow server` on a free port, with its own process group."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(command, cwd=self.folder, env=env, start_new_session=True)
        wait_for(f"{self.uri}/health")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def wait_for(url: str, seconds: float = 150) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_goes_away_and_returns(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PAUSE_S", 0.01)
    original = EpochHistory.on_train_epoch_end

    def end_of_epoch(self: EpochHistory, trainer: Any, module: Any) -> None:
        original(self, trainer, module)
        if trainer.current_epoch in (1, 4):
            server.stop()
        if trainer.current_epoch == 2:
            server.start()
            trainer.logger._quiet_until = 0.0

    monkeypatch.setattr(EpochHistory, "on_train_epoch_end", end_of_epoch)
    settings = overrides(
        phantom_cohort,
        tmp_path / "runs",
        f"tracking.uri={server.uri}",
        "trainer.max_epochs=6",
        "trainer.log_every_n_steps=1",
        "name=a",
    )
    command = ["finetune", str(experiment("vit_scratch")), *settings]
    try:
        server.start()
        assert main(command) == 0
        run = load_run(tmp_path / "runs" / "a")
        said = [r.getMessage() for r in caplog.records if r.name == tracking.__name__]
        assert [re.sub(r"\(.*\)|\d+", "…", line) for line in said] == [
            "tracking: logging metrics failed …; training goes on, and what is to be stored waits until MLflow is back",
            "tracking: MLflow is back; … values and files that waited are stored",
            "tracking: logging metrics failed …; training goes on, and what is to be stored waits until MLflow is back",
            "tracking: … values and files of a wait for MLflow in its run directory; the same command stores them",
        ]
        assert run.is_finished
        server.start()
        client = MlflowClient(server.uri)
        assert client.get_run(str(run.mlflow_run_id)).info.status == "RUNNING"
        assert main(command) == 0  # finished already; what waits is stored
        found = client.get_run(str(run.mlflow_run_id))
        assert found.info.status == "FINISHED"
        assert len(client.search_runs([found.info.experiment_id])) == 1

        def steps(name: str) -> list[int]:
            return [m.step for m in client.get_metric_history(found.info.run_id, name)]

        assert sorted(steps("train/loss_step")) == list(range(24))
        assert sorted(steps("train/loss_epoch")) == [4 * epoch + 3 for epoch in range(6)]
        history = [json.loads(line) for line in (run.directory / "logs" / "history.jsonl").read_text().splitlines()]
        stored = sorted(client.get_metric_history(found.info.run_id, "train/loss_epoch"), key=lambda m: m.step)
        assert [m.value for m in stored] == pytest.approx([row["train/loss"] for row in history], abs=1e-5)
        assert [m.timestamp for m in stored] == sorted(m.timestamp for m in stored)
        assert stored[-1].timestamp < found.info.end_time
        assert "calibration/temperature" in found.data.metrics
        for folder in ("figures", "model"):
            assert client.list_artifacts(found.info.run_id, folder)
        kept = client.download_artifacts(found.info.run_id, "figures/overlay.png", str(tmp_path))
        assert Path(kept).read_bytes() == (run.directory / "figures" / "overlay.png").read_bytes()
        assert not (run.directory / "logs" / "tracking_spool.jsonl").exists()
        assert not (run.directory / "mlflow_model").exists()
    finally:
        server.stop()


@pytest.mark.slow
def test_the_page_of_make_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`iac ui` on a sqlite store answers with MLflow's page and knows the runs of the directory."""
    from iac_lightning.config.reading import load_experiment
    from iac_lightning.runs.directory import open_run

    with open_run(load_experiment(None, ["name=shown", f"runs_dir={tmp_path}"])) as run:
        tracking.finish(tracking.start_logger(run), "FINISHED")
    command = [sys.executable, "-m", "iac_lightning.cli", "ui", "--runs-dir", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split(" ")[0]
        assert "<title>MLflow</title>" in wait_for(f"{url}/").decode()
        port = url.rpartition(":")[2]
        for host, status in (("localhost", 200), ("evil.example", 403), (f"10.evil.example:{port}", 403)):
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
            connection.request("GET", "/", headers={"Host": host})
            assert connection.getresponse().status == status
        client = MlflowClient(url)
        assert client.get_run(str(run.mlflow_run_id)).info.run_name == "shown"
        folder = client.download_artifacts(str(run.mlflow_run_id), "config.yaml", str(tmp_path))
        assert "name: shown" in Path(folder).read_text()
    finally:
        process.terminate()
        assert process.wait(30) == 143
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(port))).close()
