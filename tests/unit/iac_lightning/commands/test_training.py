"""What is trained, and which command trains it."""

from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.cli import main, run_in_job
from iac_lightning.config.reading import load_experiment
from tests.unit.iac_lightning.commands.recorder import MAE, VIT, Recorder


@pytest.mark.parametrize(
    ("command", "experiment", "right"), [("finetune", MAE, "iac pretrain"), ("pretrain", VIT, "iac finetune")]
)
def test_a_task_of_the_other_command_names_it(
    command: str, experiment: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, experiment]) == 2
    assert f"Use: {right} {experiment}" in capsys.readouterr().err


def test_training_gets_the_checked_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr("iac_lightning.workflows.train.train", train)
    assert main(["pretrain", MAE, "seed=3"]) == 0
    assert main(["finetune", VIT]) == 0
    (first,), (second,) = train.calls
    assert (first.task, first.seed) == ("pretrain", 3)
    assert second == load_experiment(Path(VIT))


def test_launcher_slurm_submits_what_a_job_runs_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = Recorder("job 7")
    monkeypatch.setattr("iac_lightning.cluster.slurm.submit_run", submit)
    assert main(["pretrain", MAE, "--dry-run", "launcher=slurm"]) == 0  # the plan wins
    assert submit.calls == []
    capsys.readouterr()
    assert main(["pretrain", MAE, "launcher=slurm", "seed=3"]) == 0
    ((command, config, entry),) = submit.calls
    assert command == ["pretrain", MAE, "launcher=slurm", "seed=3"]
    assert config.seed == 3
    assert entry is run_in_job
    assert capsys.readouterr().out == "job 7\n"


def test_sweep_and_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    swept: list[tuple[object, ...]] = []
    monkeypatch.setattr("iac_lightning.workflows.sweep.sweep", lambda *a, **k: swept.append((a, k)) or 3)
    monkeypatch.setattr("iac_lightning.workflows.sweep.status", lambda *a: f"status of {a}")
    monkeypatch.setattr("iac_lightning.workflows.sweep.finish", lambda path: 4)
    demo = Recorder()
    monkeypatch.setattr("iac_lightning.workflows.demo.demo", demo)
    assert main(["sweep", "s.yaml", "--retry", "seeds=[0]"]) == 3
    settings = {"entry": run_in_job, "dry_run": False, "retry": True, "minutes": None}
    assert swept == [((Path("s.yaml"), ["seeds=[0]"]), settings)]
    assert main(["sweep", "s", "--finish"]) == 4
    assert main(["sweep", "s", "--status"]) == 0
    assert "status of" in capsys.readouterr().out
    assert main(["demo", "--patients", "30", "--out", "runs/x", "--data", "data/x", "trainer.max_epochs=2"]) == 0
    assert demo.calls == [(Path("experiments/demo"), Path("runs/x"), Path("data/x"), 30, ["trainer.max_epochs=2"])]


def test_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    run, bound = Recorder(), Recorder()
    monkeypatch.setattr("iac_lightning.workflows.cell.run_cell", run)
    monkeypatch.setattr("iac_lightning.sweeps.local.end_with_parent", bound)
    assert main(["cell", "runs/s", "vit", "--with-parent", "data.num_workers=1"]) == 0
    assert main(["cell", "runs/s", "vit"]) == 0
    assert run.calls == [(Path("runs/s"), "vit", ("data.num_workers=1",)), (Path("runs/s"), "vit", ())]
    assert len(bound.calls) == 1


def test_a_profile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    profile = Recorder(("what was measured", Path("runs/profile/x")))
    monkeypatch.setattr("iac_lightning.workflows.profile.profile", profile)
    monkeypatch.setattr("iac_lightning.workflows.profile.describe_profile", lambda measured: f"text of {measured}")
    assert main(["profile", MAE, "--steps", "7", "seed=3"]) == 0
    ((config, *numbers),) = profile.calls
    assert (config.seed, config.task, numbers) == (3, "pretrain", [7, 5, 3])
    assert capsys.readouterr().out == "text of what was measured\n\nresults: runs/profile/x\n"


def test_a_profile_as_a_job_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Recorder("job 7")
    monkeypatch.setattr("iac_lightning.cluster.slurm.submit_run", submit)
    assert main(["profile", MAE, "--traced", "2", "launcher=slurm", "name=x"]) == 0
    ((command, config, entry),) = submit.calls
    assert command == ["profile", MAE, "--steps=20", "--warmup=5", "--traced=2", "launcher=slurm", "name=x"]
    assert (config.name, entry) == ("profile/x", run_in_job)
