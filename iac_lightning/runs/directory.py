"""The run directory: everything that a run is made from and everything that it makes.

`<runs_dir>/<name>/` holds `config.yaml` (resolved), `provenance.json`, `checkpoints/` (`last.ckpt`, `best.ckpt`),
`logs/`, `figures/`, `predictions/`, `evaluation/`, `mlflow_run_id` and, at the end, `finished.json`. Running the same
experiment again continues it. Nothing here imports torch before a run asks for provenance.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from data_modules.errors import UserError
from data_modules.files import remove_leftovers, write_json_atomic, write_text_atomic
from data_modules.system_errors import place_of
from iac_lightning.cluster.ranks import RANKS
from iac_lightning.cluster.slurm import JOBS
from iac_lightning.config.keys import value_at
from iac_lightning.config.reading import ConfigError, load_stored
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import diff, is_decisive, to_yaml
from iac_lightning.runs.data_place import PLACES, check_same_data

FOLDERS = ("checkpoints", "logs", "figures", "predictions", "evaluation")
LOCK_WAIT_S = 8.0
"""Loader processes of a killed run hold its lock for the seconds until they notice (torch looks every 5 s)."""

_PACKAGES = ("iac-lightning", "torch", "lightning", "monai", "torchio", "numpy", "SimpleITK", "mlflow")


@dataclass
class Run:
    """One run on disk.

    As a context manager it gives up, at the end, the lock that `open_run` took.

    Attributes:
        directory: where it lives.
        config: what it is made from.
    """

    directory: Path
    config: ExperimentConfig
    lock: FileLock | None = field(default=None, repr=False, compare=False)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.lock is not None:
            self.lock.release()

    def __getstate__(self) -> dict[str, Any]:
        """A lock belongs to one process: copies (callbacks sent to loader processes) go without."""
        return {"directory": self.directory, "config": self.config, "lock": None}

    @property
    def checkpoints_dir(self) -> Path:
        """Where checkpoints are kept."""
        return self.directory / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest state to continue from: `last.ckpt`, or what SLURM's signal saved, where that is newer.

        Lightning saves `hpc_ckpt_<n>.ckpt` before a requeue and reads it back only without a checkpoint path.
        """
        found = [p for p in (self.checkpoints_dir / "last.ckpt", *self.directory.glob("hpc_ckpt_*.ckpt")) if p.exists()]
        return max(found, key=lambda p: p.stat().st_mtime_ns, default=None)

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the best development metric; None before the first validation."""
        path = self.checkpoints_dir / "best.ckpt"
        return path if path.exists() else None

    @property
    def is_finished(self) -> bool:
        """Whether training came to its end."""
        return (self.directory / "finished.json").exists()

    @property
    def finished(self) -> dict[str, Any]:
        """What `mark_finished` noted; empty before."""
        path = self.directory / "finished.json"
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return data

    def mark_finished(self, summary: dict[str, Any]) -> None:
        """Note the end of training and what came of it; NaN and infinity become null. First process only."""
        if is_main_process():
            write_json_atomic(self.directory / "finished.json", _finite(summary))

    @property
    def mlflow_run_id(self) -> str | None:
        """Id of the run's MLflow run, None before tracking has begun."""
        path = self.directory / "mlflow_run_id"
        return path.read_text(encoding="utf-8").strip() or None if path.exists() else None

    @mlflow_run_id.setter
    def mlflow_run_id(self, run_id: str) -> None:
        write_text_atomic(self.directory / "mlflow_run_id", run_id + "\n")

    @property
    def provenance(self) -> dict[str, Any]:
        """What `write_provenance` wrote; empty before."""
        path = self.directory / "provenance.json"
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return data

    def write_provenance(self, data_fingerprint: str) -> None:
        """Note code, versions, machine and data. First process only; continuing adds an entry under `continued`.

        Raises:
            UserError: when a run with a checkpoint would go on with other data than it began with.
        """
        if not is_main_process():
            return
        now = collect_provenance()
        before = self.provenance
        began = before.get("data_fingerprint", data_fingerprint)
        if began != data_fingerprint and self.last_checkpoint is not None:
            raise UserError(
                f"{self.directory}: the data changed since this run began (fingerprint {began} then, "
                f"{data_fingerprint} now), so continuing would train on two data sets. Bring the data back (where only "
                "the slice thickness of a series changed, warnings.csv of the prepared store names it), give the run "
                f"another name, or delete {self.directory}."
            )
        if before and self.last_checkpoint is not None:
            record = before | {"continued": [*before.get("continued", []), now]}
        else:
            record = {"data_fingerprint": data_fingerprint, **now}
        write_json_atomic(self.directory / "provenance.json", record)


def open_run(config: ExperimentConfig) -> Run:
    """Create the run's directory, or continue there.

    The first process takes the run's lock and holds it until it ends or leaves the `with` block; a killed process
    holds nothing. Other ranks of the same job get the run without touching the disk.

    Raises:
        UserError: when another process works on the run, when the directory holds a run with other settings, or when
            it is not a run.
    """
    directory = Path(config.runs_dir) / config.name
    if not is_main_process():
        return Run(directory, config)
    lock = FileLock(directory / "run.lock")
    try:
        with place_of("choose another place for the run (runs_dir=…, name=…)", directory):
            _check_place(directory, Path(config.runs_dir))
            directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        raise UserError(
            f"{directory}: this run is already in progress in another process. Wait for it, stop it, or give this one "
            "another name (name=…)."
        ) from None
    try:
        _check_same(directory, config)
        write_text_atomic(directory / "config.yaml", to_yaml(config))
        for name in FOLDERS:
            (directory / name).mkdir(exist_ok=True)
        if not (directory / "finished.json").exists():  # later, an evaluation may be writing
            for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
                remove_leftovers(folder)
    except BaseException:
        lock.release()
        raise
    return Run(directory, config, lock)


def load_run(path: Path, overrides: Sequence[str] = ()) -> Run:
    """A run to read from; takes no lock.

    Args:
        path: its directory.
        overrides: settings of the sections `inference` and `evaluation` that differ from those it was trained with;
            and where its data lie now, which must be the same.

    Raises:
        UserError: when `path` is not a run directory, its settings are not valid (any more), or other settings are
            overridden, or other data lie at the place that is given.
    """
    if not (path / "config.yaml").is_file():
        what = "there is no such directory" if not path.exists() else "not a run directory (it has no config.yaml)"
        raise UserError(f"{path}: {what}. Give the directory of a run, such as runs/demo/vit_mae.")
    places = tuple(f"{key}=" for key in PLACES)
    trained = [o for o in overrides if not o.startswith(("inference.", "evaluation.", *places))]
    if trained:
        raise UserError(
            f"{', '.join(trained)}: a trained run takes settings of inference and evaluation only, as "
            f"inference.mirror=true, and the place that its data were moved to ({', '.join(PLACES)})"
        )
    run = Run(path, load_stored(path / "config.yaml", overrides))
    if any(o.startswith(places) for o in overrides):
        check_same_data(path, run.config, run.provenance)
    config = run.config
    if (Path(config.runs_dir) / config.name).resolve() != path.resolve():  # moved or copied with what lies around it
        config.runs_dir = str(path.absolute().parents[len(Path(config.name).parts) - 1])
    return run


def is_main_process() -> bool:
    """Whether this is the first process of its job, by the variables that launchers set.

    Lightning starts ranks with LOCAL_RANK (and NODE_RANK), torchrun with RANK, SLURM with SLURM_PROCID; a rank that
    Lightning starts inside a SLURM task inherits SLURM_PROCID=0, so every one that is set must be 0.
    """
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def _check_place(directory: Path, runs_dir: Path) -> None:
    """Refuse a directory inside another run, and one that holds something else."""
    for parent in directory.parents:
        if parent == runs_dir:
            break
        if (parent / "config.yaml").exists():
            raise UserError(f"name: {directory} would lie inside the run {parent}. Give this run another name.")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: is a file, expected a place for a run. Give this run another name.")
    if not directory.is_dir() or (directory / "config.yaml").exists():
        return
    known = ("run.lock", JOBS)
    others = sorted(p.name for p in directory.iterdir() if p.name not in known and not p.name.endswith(".tmp"))
    if others:
        raise UserError(
            f"{directory}: exists and is not a run (no config.yaml, but {', '.join(others[:3])}). Give this run "
            "another name, or move those files away."
        )


def _check_same(directory: Path, config: ExperimentConfig) -> None:
    """Refuse to continue a run with settings that would change its result; its data may have been moved."""
    path = directory / "config.yaml"
    begun = (directory / "finished.json").exists() or any((directory / "checkpoints").glob("*.ckpt"))
    if not path.exists() or not begun:  # a mistake that stopped the first attempt may be mended under the same name
        return
    remedy = f"Give this run another name (name=…), or delete {directory}."
    try:
        before = load_stored(path)
    except ConfigError as error:
        raise UserError(
            f"{directory}: its settings are not valid in this version, so it cannot be continued. {remedy}\n{error}"
        ) from error
    moved = [key for key in diff(before, config) if key in PLACES and is_decisive(key)]
    changed = [key for key in diff(before, config) if is_decisive(key) and key not in moved]
    if moved and not changed:
        check_same_data(directory, config, Run(directory, config).provenance)
    if changed:
        if before.profile not in ("auto", config.profile):
            changed.insert(0, "profile")
            remedy = f"Continue it with profile={before.profile}, or g{remedy[1:]}"
        rows = "".join(f"\n  {k}: {value_at(before, k)} in {path}, {value_at(config, k)} now" for k in changed)
        raise UserError(f"{directory}: this run exists with other settings:{rows}\n{remedy}")


# --- provenance -------------------------------------------------------------------------------------------------


def collect_provenance() -> dict[str, Any]:
    """Code, versions and kind of machine; no user names, host names or folders."""
    return {
        "git": git_state(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": {"system": platform.system(), "cpu": _cpu_model(), "cpus": os.cpu_count(), "gpus": _gpu_models()},
        "command": [Path(sys.argv[0]).name, *map(_without_folders, sys.argv[1:])],
    }


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit of the code and whether it differs from it; None where the code is not a git checkout.

    A package installed into an environment inside somebody's repository is not that repository's code, therefore the
    checkout's top folder must be `root`.
    """
    top, commit = _git(root, "rev-parse", "--show-toplevel"), _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain")
    if not top or not commit or status is None or Path(top).resolve() != root.resolve():
        return None
    return {"commit": commit, "dirty": bool(status)}


def git_words(git: Mapping[str, Any]) -> str:
    """The commit of a run's provenance, and whether the code differed from it."""
    return str(git.get("commit", "unknown")) + (" (with local changes)" if git.get("dirty") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _gpu_models() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _without_folders(argument: str) -> str:
    """An argument with the folders of absolute paths, and the host of an address, left out."""
    argument = re.sub(r"\b([a-z]+)://[^/\s]+", r"\1://…", argument)
    return re.sub(r"(?<![\w.…/])~?/+(?:[^/\s,\[\]=]+/)+", "…/", argument)


def _finite(value: Any) -> Any:
    """NaN and infinity as None, all the way down."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
