"""Settings written down and read back, and whether two runs have the same ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from iac_lightning.config.reading import ConfigError, from_dict, load_experiment, load_stored
from iac_lightning.config.stored import config_dict, config_hash, diff, is_decisive, to_yaml


def test_yaml_and_dictionary_round_trips(tmp_path):
    config = load_experiment(
        None, ["name=no_1", "optimizer.lr=1e-5", "data.sampling.crop=[64,64,32]", "runs_dir='no'", "init_from='null'"]
    )
    path = tmp_path / "a.yaml"
    path.write_text(to_yaml(config))
    assert load_experiment(path) == config
    plain = config_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["data"]["sampling"]["crop"] == [64, 64, 32]
    assert from_dict(plain) == config
    assert "crop: [64, 64, 32]" in to_yaml(config)


def test_stored_settings_are_checked_too():
    plain = config_dict(load_experiment(None, ["name=a"]))
    plain["data"]["batch_size"] = 0
    plain["old_key"] = 1
    with pytest.raises(ConfigError, match="stored settings: old_key: unknown key") as caught:
        from_dict(plain)
    assert "stored settings: data.batch_size = 0: out of range" in str(caught.value)


def test_runs_of_before_keep_what_they_did(tmp_path):
    """Settings that came later are not in what they stored; the defaults of today would say something else."""
    path = tmp_path / "config.yaml"
    path.write_text("name: a\ndata: {batch_size: 4}\n")
    for config in (load_stored(path), from_dict({"name": "a"}), load_stored(path, ["seed=1"])):
        augmentation = config.data.augmentation
        assert augmentation.thickness_label == "occupancy"
        assert (augmentation.profile_roundness, augmentation.profile_widening) == ((0, 0), (1, 1))
        assert config.loss.restrict_on == "common"
        assert config.trainer.matmul_precision == "highest"
        assert config.evaluation.operating_point == "dice"
    assert load_stored(path, ["loss.restrict_on=native"]).loss.restrict_on == "native"
    now = load_experiment(path)
    assert now.trainer.matmul_precision == "high"
    path.write_text(to_yaml(now))
    assert load_stored(path) == now


def test_differences_and_hash():
    a = load_experiment(None, ["name=a"])
    b = load_experiment(None, ["name=b", "data.num_workers=3", "model.vit.patch_size=[4,4,4]"])
    assert diff(a, b) == ["name", "data.num_workers", "model.vit.patch_size"]
    assert diff(a, a) == []
    same = load_experiment(None, ["name=other", "data.num_workers=3", "tracking.enabled=false"])
    assert config_hash(a) == config_hash(same)
    assert config_hash(a) != config_hash(b)
    assert config_hash(a) != config_hash(replace(a, seed=1))
    assert not is_decisive("tracking.uri")
    assert is_decisive("trainer.max_epochs")


def test_settings_of_the_evaluation_decide_no_training_but_a_look():
    config = load_experiment(None, ["name=a"])
    other = load_experiment(None, ["name=a", "evaluation.coverage=0.8", "inference.mirror=true"])
    assert config_hash(config) == config_hash(other)
    assert config_hash(config, "inference", "evaluation") != config_hash(other, "inference", "evaluation")
    assert config_hash(config, "inference") != config_hash(config)
    helped = load_experiment(
        None, ["name=a", "evaluation.workers=3", "evaluation.controls=false", "data.residency_share=0.1"]
    )
    assert config_hash(config, "inference", "evaluation") == config_hash(helped, "inference", "evaluation")
