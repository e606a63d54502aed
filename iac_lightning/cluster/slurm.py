"""Commands as SLURM jobs: submission with submitit, and what a job does when its time runs out or it is preempted.

SLURM's launcher of ranks is `srun`, Lightning's `SLURMEnvironment` reads it; nothing here starts ranks by hand. Nothing
here imports torch.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from data_modules.errors import UserError
from data_modules.files import write_text_atomic
from iac_lightning.config.profiles import as_overrides
from iac_lightning.config.schema import ExperimentConfig, LauncherConfig

SIGNAL = "USR1"
"""Sent by SLURM `launcher.signal_delay_s` before the end, and by `scancel --signal=USR1`: save, requeue, continue."""


SIGNAL_NUMBER = getattr(signal, f"SIG{SIGNAL}")
SHARED_JOB = "IAC_SHARED_JOB"
"""Set for processes that run side by side in one job: whoever started them requeues it, when all have saved."""

REQUEUE_EARLY = f"""status=$?
[ $status -eq {128 + SIGNAL_NUMBER} ] && scontrol requeue "$SLURM_JOB_ID"
exit $status"""
"""End of a batch script: a signal that came before Python could listen has ended the step; the job still goes on."""
AT_ONCE = 2
"""Cells of a sweep that run at the same time, where `launcher.at_once` says nothing."""
JOBS = "slurm"
"""Folder of a run or sweep for batch scripts and logs; it is there before the run itself."""
_JOB = "job"


class RequeuedError(BaseException):
    """This job goes back into the queue; it continues where it is now when SLURM starts it again."""


# --- submission -------------------------------------------------------------------------------------------------


Entry = Callable[[list[str], str], None]
"""What a job runs: arguments of `iac`, and the folder in which it was submitted. Importable by its name."""


def submit(
    commands: Sequence[Sequence[str]],
    launcher: LauncherConfig,
    folder: Path,
    name: str,
    entry: Entry,
    dependency: str | None = None,
) -> list[str]:
    """Send `iac` commands to SLURM: one job, or a job array of several.

    Args:
        commands: arguments of `iac`, a list for each job.
        launcher: nodes, GPUs, time and the rest.
        folder: logs (`<job>_<rank>_log.out`, `….err`) and the batch script; shared by all nodes.
        name: of the job.
        entry: what each job calls with its command.
        dependency: as sbatch understands it, such as ``afterok:12``; jobs whose dependency fails are cancelled.

    Returns:
        Id of each job, ``<array>_<task>`` in an array.

    Raises:
        UserError: without SLURM's commands, or when sbatch refuses.
    """
    if shutil.which("sbatch") is None:
        raise UserError("launcher=slurm: there is no sbatch on this machine. Log in to the cluster, or launcher=local.")
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL  # read when submitit is imported, here and in the job
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**_parameters(launcher, name, dependency))
    try:
        with _outside_jobs():
            jobs = executor.map_array(entry, [list(c) for c in commands], [str(Path.cwd())] * len(commands))
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise UserError(f"sbatch refused the job {name}: {str(error).strip().splitlines()[-1]}") from error
    return [job.job_id for job in jobs]


def submit_run(command: Sequence[str], config: ExperimentConfig, entry: Entry) -> str:
    """Send one training to SLURM; returns a line for the terminal.

    A run that starts from a pre-training which is still in the queue waits for it.

    Args:
        command: arguments of `iac`.
        config: what they mean.
        entry: what the job calls with them.
    """
    directory = Path(config.runs_dir) / config.name
    if (directory / "finished.json").exists():
        return f"{config.name} is finished already: {directory}"
    folder = directory / JOBS
    job = _job_of(directory)
    if job in queued([job] if job else []):
        return f"{config.name} is job {job} already; its output: {folder}"
    source = _job_of(Path(config.init_from)) if config.init_from else None
    dependency = f"afterok:{source}" if source in queued([source] if source else []) else None
    (job,) = submit(
        [training_command([*command, *as_overrides(config)], config.launcher)],
        config.launcher,
        folder,
        config.name.replace("/", "-"),
        entry,
        dependency,
    )
    write_text_atomic(folder / _JOB, job + "\n")
    after = f", after job {source}" if dependency else ""
    return f"job {job}{after}; its output: {folder}/{job}_0_log.out and {job}_0_log.err"


def _job_of(directory: Path) -> str | None:
    """The job that a run was submitted as."""
    path = directory / JOBS / _JOB
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def training_command(command: Sequence[str], launcher: LauncherConfig) -> list[str]:
    """A training command as it runs inside a job: not submitted again, with the ranks that `srun` starts."""
    return [*command, "launcher=local", *ranks_of(launcher)]


def ranks_of(launcher: LauncherConfig) -> tuple[str, ...]:
    """Settings of the trainer that fit the processes of a job."""
    return f"trainer.devices={tasks_per_node(launcher)}", f"trainer.num_nodes={launcher.nodes}"


def tasks_per_node(launcher: LauncherConfig) -> int:
    """Processes a node: one for each GPU."""
    return launcher.tasks_per_node or max(1, launcher.gpus_per_node)


def queued(job_ids: Sequence[str]) -> dict[str, str]:
    """State in SLURM's queue (PENDING, RUNNING, …) of those jobs that are in it."""
    if not job_ids or shutil.which("squeue") is None:
        return {}
    arrays = sorted({job.split("_")[0] for job in job_ids})
    found: dict[str, str] = {}
    for array in arrays:  # squeue refuses a whole list for one id that it has forgotten
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={array}"], capture_output=True, text=True
        )
        found |= dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())
    return {job: found[job].strip() for job in job_ids if job in found}


def _parameters(launcher: LauncherConfig, name: str, dependency: str | None) -> dict[str, Any]:
    extra: dict[str, Any] = {"requeue": True}
    if dependency:
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    parameters = {
        "job_name": name,
        "nodes": launcher.nodes,
        "ntasks_per_node": tasks_per_node(launcher),
        "gpus_per_node": launcher.gpus_per_node or None,
        "cpus_per_task": launcher.cpus_per_task,
        "mem": f"{launcher.mem_gb:g}GB" if launcher.mem_gb else None,
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "constraint": launcher.constraint,
        "time": launcher.time_min,
        "signal_delay_s": launcher.signal_delay_s,
        "setup": [launcher.setup] if launcher.setup else None,
        "teardown": [REQUEUE_EARLY],
        "array_parallelism": max(1, (launcher.at_once or AT_ONCE) // launcher.per_gpu),
        "additional_parameters": extra,
    }
    return {key: value for key, value in parameters.items() if value is not None}


@contextmanager
def _outside_jobs() -> Iterator[None]:
    """Without the variables of a job that this process may run in: sbatch would take them for the new one's."""
    inherited = {name: os.environ.pop(name) for name in list(os.environ) if re.match(r"(SLURM|SBATCH)_", name)}
    try:
        yield
    finally:
        os.environ.update(inherited)


# --- inside a job -----------------------------------------------------------------------------------------------


class _State:
    """Of the one signal handler of this process."""

    asked = False
    """The signal came."""
    can_save = False
    """Training batches run: `RequeueCallback` saves at the end of the present one."""


def slurm_job() -> str | None:
    """Id of the batch job that this process belongs to, ``<array>_<task>`` in an array; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job


@contextmanager
def requeue_on_signal() -> Iterator[None]:
    """Inside a SLURM job: SIGUSR1 saves what can be saved and puts the job back into the queue. Else nothing.

    Lightning's own handler saves wherever the signal finds the process, in the middle of a step too, each rank at a
    place of its own. Here the ranks agree on the end of a batch (`asked_at_batch_end`), so that the continued run is
    the uninterrupted one; Lightning leaves the signal alone where it has a handler already. Whatever is not a training
    batch (preparation, validation, calibration, evaluation) ends at once: it is on disk, or is done again.

    Raises:
        RequeuedError: in the main thread, after the signal.
    """
    if slurm_job() is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    number = SIGNAL_NUMBER
    _State.asked = _State.can_save = False
    before = signal.signal(number, _handle)
    try:
        yield
    finally:
        signal.signal(number, before)


def _handle(number: int, frame: FrameType | None) -> None:
    _State.asked = True
    if not _State.can_save:
        requeue()


def training_batches(running: bool) -> None:
    """Says whether the signal waits for the end of a training batch; one that came while it did not is answered."""
    _State.can_save = running


def asked() -> bool:
    """Whether the signal has come to this process."""
    return _State.asked


def requeue() -> None:
    """Put this job back into the queue (first process) and leave.

    Raises:
        RequeuedError: always.
    """
    job = slurm_job()
    if job is not None and os.environ.get("SLURM_PROCID", "0") == "0" and SHARED_JOB not in os.environ:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode:
            print(f"job {job} was not requeued: {done.stderr.strip()}; submit it again to continue", file=sys.stderr)
        else:
            print(f"job {job} saves and goes back into the queue", flush=True)
    raise RequeuedError
