"""MLflow: what a run was made from, its curves and figures, where other runs can be compared with it.

Tracking serves training and never stops it: where the store fails, one line says so, training goes on, and what was
to be stored waits in the run directory until the store is back. Only the first process of a job tracks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure

from data_modules.errors import UserError
from data_modules.files import DiskFull, replacing
from iac_lightning.runs.directory import Run, is_main_process
from iac_lightning.tracking.mlflow_run import continue_or_create, log_parameters, log_provenance
from iac_lightning.tracking.names import metric_name, numbers_of
from iac_lightning.tracking.spool import Spool, spool_file, stored_steps
from iac_lightning.tracking.store import client_of, create_store, has_store, tracking_uri

log = logging.getLogger(__name__)

PAUSE_S = 60.0
"""After a failure the store is left alone for at least this long: attempts on a dead server cost training time."""
SEND_S = 5.0
"""What has waited is sent in portions of about this long while training runs."""
FINISH_S = 300.0
"""The longest that the end of a run takes to send it."""


class RunLogger(Logger):
    """A run's way into MLflow, which survives failures of its store.

    What cannot be stored waits (`Spool`) and is sent when the store is back: after a pause, at `finish`, or when the
    run is started again. Lightning's `MLFlowLogger` opens the store in its constructor and in each of its properties,
    so it cannot outlive one that is away.

    Parameters are logged once, on connecting, and the status is set by `finish`: what Lightning sends at the end of
    each `fit` or `validate` says nothing about the run.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.spool = Spool(run.directory)
        self._client: Any = None
        self._quiet_until = 0.0
        self._away = False
        self._full = False
        self.has_begun = False

    @property
    def name(self) -> str:
        """Of the MLflow experiment."""
        return self.run.config.tracking.experiment

    @property
    def version(self) -> str | None:
        """Id of the MLflow run."""
        return self.run.mlflow_run_id

    @property
    def experiment(self) -> Any:
        """The client; None until the store was reached, so use it inside `attempt`."""
        return self._client

    def _connect(self) -> Any:
        """A client, once the run and its settings are in the store."""
        experiment_id = create_store(self.run.config)
        run_id, is_new = continue_or_create(self.run, experiment_id)
        client = client_of(tracking_uri(self.run.config))
        if is_new:
            log_parameters(client, run_id, self.run.config)
        client.log_artifact(run_id, str(self.run.directory / "config.yaml"))
        log_provenance(client, run_id, self.run)
        self.spool.stored = stored_steps(client, run_id, list(client.get_run(run_id).data.metrics))
        return client

    def attempt(self, what: str, action: Callable[[], Any], warn: bool = True) -> bool:
        """Do something with the store, and whether it succeeded; on failure warn (once an outage) and pause."""
        start = time.monotonic()
        if start < self._quiet_until:
            return False
        try:
            if self._client is None:
                self._client = self._connect()
            done = action()
            if self._away:
                sent = self.spool.send(self._client, str(self.run.mlflow_run_id), SEND_S)
                sent += done if isinstance(done, int) else 0
                self._away = False
                log.warning("tracking: MLflow is back; %d values and files that waited are stored", sent)
        except Exception as error:  # whatever a store or a network may throw: none of it may end a training
            now = time.monotonic()
            self._quiet_until = now + max(PAUSE_S, 20 * (now - start))
            if warn and not self._away:
                self._away = True
                log.warning(
                    "tracking: %s failed (%s); training goes on, and what is to be stored waits until MLflow is back",
                    what,
                    _one_line(error),
                )
            return False
        return True

    def send(self, what: str, seconds: float | None = None) -> bool:
        """Store what waits, as far as it can be stored now; the rest is kept in the run directory."""
        seconds = SEND_S if seconds is None else seconds
        done = self.attempt(what, lambda: self.spool.send(self._client, str(self.run.mlflow_run_id), seconds))
        if not done and len(self.spool):
            self.spool.keep()
        if self.spool.dropped and not self._full:
            self._full = True
            log.warning("tracking: more waits for MLflow than is kept; what comes now is in logs/history.jsonl alone")
        return done

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: MLflow refuses changed parameters on resuming, and they are logged already."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step."""
        finite = {metric_name(k): float(v) for k, v in metrics.items() if math.isfinite(float(v))}
        self.spool.add_metrics(finite, step or 0)
        self.send("logging metrics")

    def store(self, path: Path, folder: str | None) -> None:
        """Store a file of the run directory, or a folder of it, which is removed then."""
        self.spool.add_file(path, folder)
        self.send(f"storing {path.name}")

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send what the store lacks of these lines of `logs/history.jsonl`."""
        if self._client is not None:
            self.spool.add_history(rows)
            self.send("logging metrics")

    def finalize(self, status: str = "success") -> None:
        """Nothing: see `finish`."""


def start_logger(run: Run) -> RunLogger | None:
    """The logger of a run, begun (`begin`): of a new MLflow run, or the one it had before it was interrupted.

    Returns:
        None where tracking is off, and off the first process.
    """
    logger = waiting_logger(run)
    begin(logger)
    return logger


def waiting_logger(run: Run) -> RunLogger | None:
    """The same before it begins: the store knows nothing of it yet, so that a mistake in the data leaves no run."""
    return RunLogger(run) if run.config.tracking.enabled and is_main_process() else None


def begin(logger: object) -> None:
    """Open the run in MLflow; where the store cannot be reached, one warning says so, and what is logged waits."""
    if not isinstance(logger, RunLogger):
        return
    logger.has_begun = True
    if logger.spool.status is not None:  # of a process that was killed at its very end
        logger.spool.set_status(None)
    logger.send("opening MLflow")


def announce_finish(logger: object) -> None:
    """Note in the run directory that the run is about to be finished: a process may be killed before MLflow knows."""
    if isinstance(logger, RunLogger):
        logger.spool.set_status("FINISHED")
        logger.spool.keep()


def finish(logger: object, status: str) -> None:
    """Set the final status (`FINISHED`, `FAILED`, `KILLED`) and store what was written meanwhile.

    Of a run that never began nothing is stored.
    """
    if not isinstance(logger, RunLogger) or not logger.has_begun:
        return
    spool = logger.spool
    spool.set_status(status)

    def everything() -> int:
        log_provenance(logger.experiment, logger.run.mlflow_run_id, logger.run)
        return spool.send(logger.experiment, str(logger.run.mlflow_run_id), FINISH_S)

    logger._quiet_until = 0.0  # the last chance, pause or not
    if not logger.attempt("ending the run", everything, warn=False) or len(spool):
        spool.keep()
        log.warning(
            "tracking: %d values and files of %s wait for MLflow in its run directory; the same command stores them",
            len(spool),
            logger.run.config.name,
        )


def catch_up(run: Run) -> None:
    """Store what an earlier process of a finished run could not."""
    if spool_file(run.directory).exists() and run.config.tracking.enabled and is_main_process():
        logger = RunLogger(run)
        logger.has_begun = True
        finish(logger, "FINISHED")


def log_figure(logger: object, figure: Figure | Path, path: Path) -> None:
    """Keep a figure as a file of the run and, where there is a logger, in MLflow.

    A figure that finds no room on the disk is left out, with a warning: training does not need it.

    Args:
        logger: the run's logger; anything else (None) only keeps the file.
        figure: a matplotlib figure, or a file that exists.
        path: where it is kept; the ending decides the format.
    """
    try:
        if isinstance(figure, Figure):
            with replacing(path) as temporary:
                figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=120)
        elif figure != path:
            with replacing(path) as temporary:
                temporary.write_bytes(figure.read_bytes())
    except DiskFull as error:
        log.warning("figure left out: %s", error)
        return
    if isinstance(logger, RunLogger):
        logger.store(path, "figures")


def log_summary(run: Run, summary: Mapping[str, Any], prefix: str = "", logger: object = None) -> None:
    """Add the numbers of an evaluation to the run's MLflow run, as `<prefix>/<key>/<key below>`.

    Does nothing where the run was not tracked; a failing store costs one warning, and the numbers wait.

    Args:
        run: that was evaluated.
        summary: nested numbers; anything else in it is left out.
        prefix: of the metrics' names.
        logger: of a training in progress.
    """
    numbers = dict(numbers_of({prefix.rstrip("/"): summary} if prefix else summary))
    if isinstance(logger, RunLogger):
        logger.log_metrics(numbers, 0)
        return
    named = {metric_name(key): value for key, value in numbers.items()}
    _store_now_or_later(run, f"the summary of {run.config.name}", lambda spool: spool.add_metrics(named, 0))


def log_folder(run: Run, path: Path, folder: str, logger: object = None) -> None:
    """Store a folder of the run directory as artifacts, and remove it when that is done; errors as `log_summary`."""
    if isinstance(logger, RunLogger):
        logger.store(path, folder)
    else:
        _store_now_or_later(run, path.name, lambda spool: spool.add_file(path, folder))


def _store_now_or_later(run: Run, what: str, add: Callable[[Spool], None]) -> None:
    """Send something to the MLflow run of a run that no logger serves; keep it in the run directory on failure."""
    run_id = _run_id(run)
    if run_id is None:
        return
    spool = Spool(run.directory)
    add(spool)
    try:
        if not has_store(run.config):
            raise UserError(f"there is no MLflow database in {run.config.runs_dir}")
        create_store(run.config)
        spool.send(client_of(tracking_uri(run.config)), run_id)
    except Exception as error:  # see RunLogger.attempt
        spool.keep()
        log.warning("tracking: %s was not stored in MLflow (%s); it waits in the run directory", what, _one_line(error))


def log_files(run: Run, paths: Sequence[Path], root: Path, folder: str) -> None:
    """Keep files as artifacts of the run's MLflow run, in the folders that they have below `root`.

    Does nothing where the run was not tracked; a failing store costs one warning.

    Args:
        run: whose.
        paths: files below `root`.
        root: their common folder.
        folder: of the artifacts.
    """
    run_id = _run_id(run)
    if run_id is None or not has_store(run.config):
        return
    try:
        create_store(run.config)
        client = client_of(tracking_uri(run.config))
        for path in paths:
            below = path.parent.relative_to(root).as_posix()
            client.log_artifact(run_id, str(path), folder if below == "." else f"{folder}/{below}")
    except Exception as error:  # see RunLogger.attempt
        log.warning("tracking: %s of %s was not stored in MLflow (%s)", folder, run.config.name, _one_line(error))


def _run_id(run: Run) -> str | None:
    """The MLflow run to add to; None where there is none, or where it belongs to the run that this one is a copy of."""
    if run.mlflow_run_id is None or not run.config.tracking.enabled or not is_main_process():
        return None
    original = Path(run.config.runs_dir) / run.config.name
    if original.exists() and not original.samefile(run.directory):
        log.warning("tracking: %s is a copy of %s, whose MLflow run is left as it is", run.directory, original)
        return None
    return run.mlflow_run_id


def _one_line(error: Exception) -> str:
    if isinstance(error, UserError):
        return error.kept.splitlines()[0].strip()[:200]
    text = (str(error).splitlines() or [""])[0].strip()[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
