"""What is sent to SLURM, and what a job does on its signal, with stand-ins for SLURM's commands."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.cli import run_in_job
from iac_lightning.cluster import slurm
from iac_lightning.cluster.slurm import RequeuedError, queued, requeue_on_signal, submit, submit_run, training_command
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import LauncherConfig
from tests.integration.settings import experiment


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sbatch, srun, scontrol and squeue that write down how they were called; returns their notes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    notes = tmp_path / "notes.txt"
    for name, answer in (
        ("sbatch", "Submitted batch job 41"),
        ("srun", ""),
        ("scontrol", ""),
        ("squeue", "41_0 RUNNING\n41_1 PENDING"),
    ):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $* job=$SLURM_JOB_ID" >> {notes}\n'
            f'[ {name} = sbatch ] && cat "$1" >> {notes}\nprintf "{answer}\\n"\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return notes


def test_without_slurm_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no sbatch on this machine"):
        submit([["plan"]], LauncherConfig(name="slurm"), tmp_path, "x", run_in_job)
    assert queued(["1"]) == {}


def test_what_sbatch_is_given(commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # submitted from inside a job
    launcher = LauncherConfig(
        name="slurm",
        nodes=2,
        gpus_per_node=4,
        cpus_per_task=10,
        mem_gb=200,
        partition="gpu",
        account="brain",
        time_min=90,
        signal_delay_s=60,
        setup="module load cuda",
        at_once=3,
    )
    jobs = submit(
        [["plan", "a.yaml"], ["plan", "b.yaml"]], launcher, tmp_path / "logs", "name", run_in_job, "afterok:12"
    )
    assert jobs == ["41_0", "41_1"]
    assert os.environ["SLURM_JOB_ID"] == "7"
    text = commands.read_text()
    assert "job=\n" in text, "the new job must not inherit the old one's variables"
    for line in (
        "--job-name=name",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--cpus-per-task=10",
        "--mem=200GB",
        "--partition=gpu",
        "--account=brain",
        "--time=90",
        "--signal=USR1@60",
        "--array=0-1%2",
        "--dependency=afterok:12",
        "--kill-on-invalid-dep=yes",
        "--requeue",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}\n" in text, line
    assert "\nmodule load cuda\n" in text
    assert '\n[ $status -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"\nexit $status' in text
    assert "qos" not in text
    assert str(tmp_path / "logs") in text


def test_a_job_is_given_its_entry_by_name(commands: Path, tmp_path: Path) -> None:
    (job,) = submit([["plan", "a.yaml"]], LauncherConfig(name="slurm"), tmp_path, "name", run_in_job)
    pickled = (tmp_path / f"{job}_submitted.pkl").read_bytes()
    assert b"iac_lightning.cli" in pickled
    assert b"run_in_job" in pickled


def test_ranks_of_a_training_follow_the_launcher() -> None:
    gpus = LauncherConfig(name="slurm", nodes=2, gpus_per_node=4)
    assert training_command(["pretrain", "a.yaml", "seed=1"], gpus) == [
        *("pretrain", "a.yaml", "seed=1", "launcher=local"),
        *("trainer.devices=4", "trainer.num_nodes=2"),
    ]
    assert "trainer.devices=3" in training_command([], LauncherConfig(tasks_per_node=3))
    assert "trainer.devices=1" in training_command([], LauncherConfig())


@pytest.mark.parametrize(
    ("settings", "handed_on"),
    [
        (["launcher.gpus_per_node=2"], ["profile=gpu"]),
        (["launcher.gpus_per_node=0"], ["profile=cpu"]),
        (["launcher.gpus_per_node=2", "profile=cpu"], ["profile=cpu"]),
    ],
)
def test_a_job_is_told_its_profile(
    settings: list[str], handed_on: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nprofiles: {cpu: {data: {batch_size: 1}}}\n")
    sent: list[list[str]] = []
    monkeypatch.setattr(slurm, "submit", lambda commands, *more: sent.extend(commands) or ["41"])
    words = ["launcher=slurm", f"runs_dir={tmp_path}", *settings]
    submit_run(["finetune", str(path), *words], load_experiment(path, words), run_in_job)
    ((*_, profile, launcher, devices, nodes),) = sent
    assert [profile] == handed_on
    assert (launcher, nodes) == ("launcher=local", "trainer.num_nodes=1")
    assert load_experiment(path, sent[0][2:]).profile == profile.partition("=")[2]
    assert devices.startswith("trainer.devices=")


def test_jobs_in_the_queue(commands: Path) -> None:
    assert queued(["41_1", "41_2"]) == {"41_1": "PENDING"}
    assert queued([]) == {}


def in_a_job(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    for name, value in {"SLURM_JOB_ID": "43", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "a", **more}.items():
        monkeypatch.setenv(name, value)


def test_outside_a_job_the_signal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = signal.getsignal(signal.SIGUSR1)
    with requeue_on_signal():
        assert signal.getsignal(signal.SIGUSR1) is before
    in_a_job(monkeypatch, SLURM_JOB_NAME="interactive")
    with requeue_on_signal():
        assert signal.getsignal(signal.SIGUSR1) is before


def test_between_trainings_the_job_is_requeued_at_once(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_job(monkeypatch, SLURM_ARRAY_JOB_ID="42", SLURM_ARRAY_TASK_ID="1")
    with pytest.raises(RequeuedError), requeue_on_signal():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert "scontrol requeue 42_1" in commands.read_text()


def test_only_the_first_rank_requeues(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_job(monkeypatch, SLURM_PROCID="1")
    with pytest.raises(RequeuedError), requeue_on_signal():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert not commands.exists()


def test_training_batches_are_finished_first(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_job(monkeypatch)
    with requeue_on_signal():
        slurm.training_batches(True)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert slurm.asked()
        assert not commands.exists()
        with pytest.raises(RequeuedError):
            slurm.requeue()
    with requeue_on_signal():
        assert not slurm.asked(), "the next command in this process begins anew"


def test_a_fine_tuning_waits_for_the_pretraining_in_the_queue(commands: Path, tmp_path: Path) -> None:
    common = [f"runs_dir={tmp_path}", "launcher=slurm"]
    mae = load_experiment(experiment("mae"), ["name=mae", *common])
    assert submit_run(["pretrain", "mae.yaml"], mae, run_in_job).startswith("job 41; its output: ")
    (commands.parent / "bin" / "squeue").write_text('#!/bin/sh\necho "41 RUNNING"\n')
    assert "mae is job 41 already" in submit_run(["pretrain", "mae.yaml"], mae, run_in_job)
    vit = load_experiment(experiment("vit_mae"), ["name=vit", f"init_from={tmp_path}/mae", *common])
    assert submit_run(["finetune", "vit.yaml"], vit, run_in_job).startswith("job 41, after job 41; ")
    assert "#SBATCH --dependency=afterok:41\n" in commands.read_text()
    (tmp_path / "mae" / "finished.json").write_text("{}")
    assert "is finished already" in submit_run(["pretrain", "mae.yaml"], mae, run_in_job)
