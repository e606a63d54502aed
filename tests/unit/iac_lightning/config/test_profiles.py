"""Which profile an experiment takes, and what of its files it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.config import profiles
from iac_lightning.config.profiles import as_overrides, choose_profile, gpu_at_hand, profile_words
from iac_lightning.config.reading import ConfigError, load_experiment, load_stored
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_hash, to_yaml

BASE = """
data: {batch_size: 128}
optimizer: {lr: 3.0e-4}
trainer: {precision: bf16-mixed}
profiles:
  cpu:
    data: {batch_size: 4}
    trainer: {precision: 32-true, max_epochs: 2}
"""
CHILD = """
extends: base.yaml
name: child
optimizer: {lr: 1.0e-4}
trainer: {max_epochs: 100}
profiles:
  cpu: {optimizer: {lr: 1.0e-3}}
"""


@pytest.fixture
def child(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "child.yaml").write_text(CHILD)
    return tmp_path / "child.yaml"


@pytest.fixture(params=[True, False], ids=["gpu here", "none here"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(profiles, "gpu_at_hand", lambda: request.param)
    return bool(request.param)


def sizes(config: ExperimentConfig) -> tuple[str, int, float, str, int]:
    trainer = config.trainer
    return config.profile, config.data.batch_size, config.optimizer.lr, trainer.precision, trainer.max_epochs


WHOLE = ("gpu", 128, 1e-4, "bf16-mixed", 100)
SMALL = ("cpu", 4, 1e-3, "32-true", 100)
"""A file's profile is laid over that file: one that extends it comes later, and its 100 epochs win."""


def test_the_machine_decides(child: Path, gpu: bool) -> None:
    assert sizes(load_experiment(child)) == (WHOLE if gpu else SMALL)


@pytest.mark.usefixtures("gpu")
def test_the_word_decides_over_the_machine(child: Path) -> None:
    assert sizes(load_experiment(child, ["profile=gpu"])) == WHOLE
    assert sizes(load_experiment(child, ["profile=cpu"])) == SMALL
    assert sizes(load_experiment(child, ["profile=cpu", "data.batch_size=8"]))[1] == 8  # the command line comes last


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        (["trainer.accelerator=gpu"], "gpu"),
        (["trainer.accelerator=cpu"], "cpu"),
        (["launcher=slurm", "launcher.gpus_per_node=2"], "gpu"),
        (["launcher=slurm"], "cpu"),
        (["launcher=slurm", "launcher.gpus_per_node=2", "profile=cpu"], "cpu"),
        (["launcher=slurm", "trainer.accelerator=gpu"], "gpu"),
    ],
)
def test_where_it_will_run_decides_over_where_it_is_read(child: Path, settings: list[str], chosen: str) -> None:
    assert load_experiment(child, settings).profile == chosen


def test_gpus_of_a_launcher_that_is_not_used_mean_nothing(child: Path, gpu: bool) -> None:
    config = load_experiment(child, ["launcher.gpus_per_node=2"])
    assert config.profile == ("gpu" if gpu else "cpu")


@pytest.mark.usefixtures("gpu")
def test_a_stored_run_keeps_its_profile(child: Path, tmp_path: Path) -> None:
    for chosen, expected in (("gpu", WHOLE), ("cpu", SMALL)):
        config = load_experiment(child, [f"profile={chosen}"])
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        for again in (load_stored(tmp_path / "config.yaml"), load_experiment(tmp_path / "config.yaml")):
            assert again == config
            assert sizes(again) == expected
        assert sizes(load_experiment(tmp_path / "config.yaml", [f"profile={chosen}"])) == expected
    assert config_hash(load_experiment(child, ["profile=cpu", "name=a"])) == config_hash(config)


def test_settings_without_profiles(tmp_path: Path) -> None:
    assert choose_profile({"profile": "gpu"}) == "gpu"
    assert load_experiment(None, ["name=a"]).profile == "auto"
    assert as_overrides(load_experiment(None, ["name=a"])) == ()
    assert load_experiment(None, ["name=a", "profile=gpu"]).profile == "gpu"  # as they are written
    with pytest.raises(ConfigError, match="profile = cpu: these settings have no section profiles: cpu"):
        load_experiment(None, ["name=a", "profile=cpu"])
    with pytest.raises(ConfigError, match="unknown choice; did you mean gpu"):
        load_experiment(None, ["name=a", "profile=gpus"])


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("cpu: {data: {batchsize: 4}}", r"bad.yaml:2: data.batchsize: unknown key"),
        ("cpu: {data: {batch_size: four}}", r"data.batch_size = 'four': expected a whole number"),
        ("tpu: {data: {batch_size: 4}}", r"bad.yaml:2: profiles.tpu: unknown profile; there are gpu, cpu"),
        ("cpu: 4", r"profiles.cpu: expected settings"),
        ("4", r"profiles: expected sections among gpu, cpu"),
    ],
)
def test_a_mistake_in_a_profile_is_found_on_every_machine(
    section: str, problem: str, tmp_path: Path, gpu: bool
) -> None:
    path = tmp_path / "bad.yaml"
    inside = f"\n  {section}" if ":" in section else f" {section}"
    path.write_text(f"profiles:{inside}\nname: a\n")
    with pytest.raises(ConfigError, match=problem):
        load_experiment(path)


def test_the_line_and_the_words_for_another_process(child: Path) -> None:
    small, whole = (load_experiment(child, [f"profile={name}"]) for name in ("cpu", "gpu"))
    assert profile_words(whole) is None
    words = profile_words(small)
    assert words is not None
    assert words.startswith("child: cpu profile")
    assert "\n" not in words
    assert (as_overrides(small), as_overrides(whole)) == (("profile=cpu",), ("profile=gpu",))


def test_torch_is_asked_only_where_a_device_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(profiles.sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(profiles, "_DEVICES", (str(tmp_path / "nvidiactl"),))
    assert not gpu_at_hand()
    (tmp_path / "nvidiactl").touch()
    assert gpu_at_hand()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not gpu_at_hand()
