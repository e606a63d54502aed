"""A profile of a small training: its files, its numbers, its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.modules.profile import PHASES, Timed
from iac_lightning.modules.profile_trace import Operator, Traced, Wait, read_events
from iac_lightning.tracking.store import client_of, tracking_uri
from iac_lightning.workflows.profile import StepProfile, describe_profile, profile
from tests.integration.settings import experiment, overrides


@pytest.fixture(scope="module")
def measured(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StepProfile, Path]:
    runs = tmp_path_factory.mktemp("runs")
    settings = overrides(phantom_cohort, runs, "name=vit", "optimizer.ema_decay=0.9", "trainer.accelerator=cpu")
    earlier = runs / "profile/vit"
    (earlier / "logs").mkdir(parents=True)
    for name in ("config.yaml", "mlflow_run_id", "logs/mlflow_key", "profile.json"):
        (earlier / name).write_text("of an earlier profile, which is replaced\n")
    result, folder = profile(load_experiment(experiment("vit_scratch"), settings), steps=3, warmup=1, traced=2)
    assert result is not None
    return result, folder


def test_the_phases_are_the_step(measured: tuple[StepProfile, Path]) -> None:
    result, _ = measured
    assert len(result.timed.steps_ms) == 3
    assert result.timed.step_ms == pytest.approx(sum(result.timed.steps_ms) / 3, rel=0.01)
    for phase in ("data", "forward", "backward", "optimiser", "average", "logging", "callbacks"):
        assert result.timed.phases_ms[phase] > 0, phase
    assert result.timed.phases_ms["queue"] == 0
    assert result.samples_per_s == pytest.approx(2 * 1000 / result.timed.step_ms)
    assert 0 < result.busy_share <= 1
    assert result.traced.steps == 2
    assert any(operator.name.startswith("aten::") for operator in result.traced.operators)
    assert any(wait.phase == "average" for wait in result.traced.waits)  # the average asks whether it is the first


def test_files_and_mlflow_hold_the_same_numbers(measured: tuple[StepProfile, Path]) -> None:
    result, folder = measured
    stored = json.loads((folder / "profile.json").read_text())
    assert stored["step_ms"] == result.timed.step_ms
    assert stored["traced_steps"] == 2
    assert (folder / "profile.txt").read_text() == describe_profile(result) + "\n"
    assert (folder / "figures/profile.png").stat().st_size > 10_000
    assert any(e["name"] == "training step" for e in read_events(folder / "trace.json.gz"))
    run_id = (folder / "mlflow_run_id").read_text().strip()
    config = load_experiment(experiment("vit_scratch"), [f"runs_dir={folder.parents[1]}"])
    client = client_of(tracking_uri(config))
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("profile/vit", "FINISHED")
    for key, value in result.metrics().items():
        assert run.data.metrics[f"profile/{key}"] == pytest.approx(value), key
    names = {artifact.path for artifact in client.list_artifacts(run_id, "profile")}
    assert names == {"profile/profile.json", "profile/profile.txt", "profile/trace.json.gz"}


def test_a_job_that_must_leave_keeps_no_checkpoint(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for a training when the job is there again."""
    kinds: list[str] = []

    class BegunError(Exception):
        pass

    def fit(self: L.Trainer, *_: Any, **__: Any) -> None:
        kinds.extend(type(callback).__name__ for callback in self.callbacks)  # type: ignore[attr-defined]
        raise BegunError

    monkeypatch.setattr("iac_lightning.workflows.train.slurm_job", lambda: "7")
    monkeypatch.setattr(L.Trainer, "fit", fit)
    settings = overrides(phantom_cohort, tmp_path, "name=vit", "trainer.accelerator=cpu", "tracking.enabled=false")
    with pytest.raises(BegunError):
        profile(load_experiment(experiment("vit_scratch"), settings))
    assert "FiniteGuard" in kinds
    assert not {"ModelCheckpoint", "EpochHistory", "RequeueCallback"} & set(kinds)


def test_the_experiments_own_run_is_left_alone_and_no_checkpoint_is_written(
    measured: tuple[StepProfile, Path],
) -> None:
    _, folder = measured
    assert folder.parent.name == "profile"
    assert not (folder.parents[1] / "vit").exists()
    assert list(folder.rglob("*.ckpt")) == []


def test_what_stops_a_training_stops_its_profile(phantom_cohort: Path, tmp_path: Path) -> None:
    def config(*more: str) -> Any:
        settings = overrides(phantom_cohort, tmp_path, "tracking.enabled=false", "name=x", *more)
        return load_experiment(experiment("vit_scratch"), settings)

    with pytest.raises(UserError, match=r"init_from: .*none does not exist"):
        profile(config(f"init_from={tmp_path / 'none'}"))
    with pytest.raises(UserError, match=r"--steps 0 .* each must be 1 or more"):
        profile(config(), steps=0)
    checkpoints = tmp_path / "profile/x/checkpoints"
    checkpoints.mkdir(parents=True)
    (tmp_path / "profile/x/config.yaml").write_text("name: profile/x\n")
    (checkpoints / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"profile.x"):
        profile(config())
    assert (checkpoints / "last.ckpt").exists()


def on_gpu() -> StepProfile:
    phases = dict.fromkeys(PHASES, 0.0) | {"forward": 3.0, "backward": 4.0, "callbacks": 1.0, "queue": 2.0}
    wait = Wait("callbacks", "aten::item", "iac_lightning/modules/finite.py(128): _looked_at", 0.5, 0.25)
    traced = Traced(3, 4.0, {"forward": 1.5, "backward": 2.5}, 120.0, [wait], [Operator("aten::mm", 12.0, 3.0)])
    return StepProfile(
        "vit", "segment, vit", "A GPU", 800.0, Timed([9.0, 11.0], phases, 5.0, 512.0), traced, 0.4, 512.0
    )


def test_of_a_gpu_the_text_tells_its_share_its_phases_and_who_waits_for_it() -> None:
    text = describe_profile(on_gpu())
    assert "GPU: 40.0% busy, 60.0% idle: 4 ms of work a step in 120 launches" in text
    assert "backward        4.00   40.0%     2.50   gradients" in text
    assert "queue           2.00   20.0%     0.00   what the GPU" in text
    assert "waits for the GPU: 0.5 a step" in text
    assert "0.50    0.250   callbacks  aten::item" in text
    numbers = on_gpu().metrics()
    assert (numbers["device_idle_share"], numbers["gpu/backward_ms"], numbers["step_ms"]) == (0.6, 2.5, 10.0)


@pytest.mark.gpu
def test_on_a_gpu_the_trace_tells_its_work_and_a_wait_in_the_step(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    from iac_lightning.modules.segmentation_module import SegmentationModule

    real = SegmentationModule.training_step

    def reading(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = real(self, batch, batch_idx)
        loss.item()
        return loss

    monkeypatch.setattr(SegmentationModule, "training_step", reading)
    settings = overrides(phantom_cohort, tmp_path, "name=vit", "tracking.enabled=false", "trainer.accelerator=gpu")
    result, _ = profile(load_experiment(experiment("vit_scratch"), settings), steps=3, warmup=2, traced=2)
    assert result is not None
    assert result.on_gpu
    assert 0 < result.busy_share <= 1
    assert min(result.traced.device_phases_ms[phase] for phase in ("forward", "backward", "optimiser")) > 0
    assert sum(w.times for w in result.traced.waits if w.phase == "forward") >= 1
    assert result.peak_memory_mib > 1
