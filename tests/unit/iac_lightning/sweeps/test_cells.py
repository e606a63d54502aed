from __future__ import annotations

import json
from pathlib import Path

import pytest

from iac_lightning.config import profiles
from iac_lightning.config.reading import ConfigError, load_experiment
from iac_lightning.config.stored import config_hash
from iac_lightning.sweeps import cells as module
from iac_lightning.sweeps.cells import Cell, cells
from iac_lightning.sweeps.spec import read_sweep
from tests.integration.settings import REPOSITORY
from tests.unit.iac_lightning.sweeps.conftest import TWO_AXES, write


def by_name(found: list[Cell]) -> dict[str, Cell]:
    return {cell.name: cell for cell in found}


def test_grid_seeds_and_shared_pretrainings(tmp_path: Path) -> None:
    found = by_name(cells(read_sweep(write(tmp_path, TWO_AXES))))
    assert list(found)[:2] == ["pretrain_8_half-hidden_seed3", "pretrain_16_half-hidden_seed3"]
    assert len(found) == 2 + 2 * 2 * 2
    scratch, pretrained = found["8_scratch_seed4"], found["16_half-hidden_seed4"]
    assert scratch.needs == ()
    assert scratch.config.init_from is None
    assert scratch.config.seed == 4
    assert scratch.config.loss.ce_weight == 2
    assert scratch.config.name == "tiny/8_scratch_seed4"
    assert pretrained.needs == ("pretrain_16_half-hidden_seed3",)
    assert pretrained.config.init_from == "runs/tiny/pretrain_16_half-hidden_seed3"
    source = found[pretrained.needs[0]].config
    assert source.model.vit.patch_size == (16, 16, 16)
    assert source.model.mae.mask_ratio == 0.5
    assert source.data.batch_size == 2
    assert source.loss.ce_weight == 1, "a pre-training has no segmentation loss"


@pytest.mark.parametrize(
    ("launcher", "profile"),
    [
        (["launcher=slurm", "launcher.gpus_per_node=1"], "gpu"),
        (["launcher=slurm"], "cpu"),
        ([], "cpu"),
    ],
)
def test_cells_keep_the_profile_that_suits_where_they_will_run(
    launcher: list[str], profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "gpu_at_hand", lambda: False)
    base = tmp_path / "base.yaml"
    base.write_text(
        f"extends: {REPOSITORY}/experiments/sweeps/cpu/vit.yaml\ntrainer: {{accelerator: auto}}\n"
        "profiles: {cpu: {data: {batch_size: 1}}}\n"
    )
    (cell,) = cells(read_sweep(write(tmp_path, f"name: tiny\nquestion: a?\nbase: {base}\n"), launcher))
    assert cell.config.profile == profile
    assert f"profile={profile}" in cell.overrides
    monkeypatch.setattr(profiles, "gpu_at_hand", lambda: True)  # on the node that runs it
    again = Cell.from_dict(cell.to_dict())
    assert (again.config.profile, config_hash(again.config)) == (profile, cell.config_hash)


def test_a_pretraining_for_each_seed(tmp_path: Path) -> None:
    found = cells(read_sweep(write(tmp_path, TWO_AXES + "pretrain_seeds: each\n")))
    assert sum(cell.kind == "pretrain" for cell in found) == 4
    for cell in found:
        for need in cell.needs:
            assert need.endswith(f"seed{cell.seed}")


def test_a_level_may_begin_from_another_experiment(tmp_path: Path) -> None:
    text = (
        "name: models\nbase: {cpu}/vit.yaml\naxes:\n  model:\n    ViT: {{}}\n"
        "    CNN: {{base: {cpu}/cnn.yaml}}\n    deep: {{base: {cpu}/cnn.yaml, model.cnn.encoder: residual}}\n"
    )
    found = by_name(cells(read_sweep(write(tmp_path, text))))
    assert found["vit_seed0"].config.model.name == "vit"
    assert found["cnn_seed0"].config.model.cnn.encoder == "plain"
    assert found["deep_seed0"].config.model.cnn.encoder == "residual"


def test_every_cell_is_checked_before_the_first_starts(tmp_path: Path) -> None:
    text = TWO_AXES.replace("[16, 16, 16]", "[12, 16, 16]")
    with pytest.raises(ConfigError, match=r"crop.*does not divide(.|\n)*in 4 cells, such as 16_scratch_seed3"):
        cells(read_sweep(write(tmp_path, text)))
    with pytest.raises(ConfigError, match="names no pre-training experiment"):
        cells(read_sweep(write(tmp_path, TWO_AXES.replace("pretrain: {cpu}/mae.yaml\n", ""))))
    with pytest.raises(ConfigError, match="task is pretrain, expected segment"):
        cells(read_sweep(write(tmp_path, TWO_AXES.replace("vit.yaml", "mae.yaml"))))
    with pytest.raises(ConfigError, match=r"unknown key; did you mean trainer\.max_epochs"):
        cells(read_sweep(write(tmp_path, TWO_AXES), ["trainer.epochs=3"]))


def test_a_cell_survives_its_file_and_reads_its_settings_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = cells(read_sweep(write(tmp_path, TWO_AXES)))
    reads: list[Path] = []
    monkeypatch.setattr(module, "load_experiment", lambda *given: reads.append(given[0]) or load_experiment(*given))
    assert planned[-1].config.seed == 4
    assert reads == [], "a cell's settings were read again"
    stored = json.loads(json.dumps([cell.to_dict() for cell in planned]))
    again = [Cell.from_dict(cell) for cell in stored]
    assert again == planned
    assert reads == []
    assert again[-1].config == planned[-1].config
    assert again[-1].config is again[-1].config
    assert len(reads) == 1
    assert again[-1].config_hash == config_hash(again[-1].config)


def test_a_plan_of_before_still_opens() -> None:
    stored = {
        "name": "8_seed3",
        "kind": "finetune",
        "levels": {"patch": "8³"},
        "seed": 3,
        "run": "8_seed3",
        "experiment": str(REPOSITORY / "experiments/sweeps/cpu/vit.yaml"),
        "overrides": ["seed=3", "name=tiny/8_seed3"],
        "needs": ["pretrain_8_seed3"],
        "config_hash": "0123456789ab",
    }
    cell = Cell.from_dict(stored)
    assert cell.config.name == "tiny/8_seed3"
    assert cell.config_hash == "0123456789ab", "what it was made with counts, not what the settings give today"
    assert cell.to_dict() == stored
    with pytest.raises(KeyError, match="config_hash"):
        Cell.from_dict({k: v for k, v in stored.items() if k != "config_hash"})


def test_each_fold_is_held_out_in_pre_training_and_fine_tuning(tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, TWO_AXES + "folds: 2\n"))
    assert (spec.split, list(spec.held_out)) == ("dev", [0, 1])
    found = by_name(cells(spec))
    assert len(found) == 2 * 2 + 2 * 2 * 2 * 2
    for fold in (0, 1):
        cell = found[f"16_half-hidden_fold{fold}_seed4"]
        assert (cell.fold, cell.config.data.fold) == (fold, fold)
        assert cell.needs == (f"pretrain_16_half-hidden_fold{fold}_seed3",)
        assert found[cell.needs[0]].config.data.fold == fold
        assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    assert len({cell.config_hash for cell in found.values()}) == len(found)


def test_a_level_may_have_a_pre_training_and_seeds_of_its_own(tmp_path: Path) -> None:
    text = (
        "name: own\nbase: {cpu}/vit.yaml\npretrain: {cpu}/mae.yaml\npretrain_seeds: each\nseeds: [1]\naxes:\n  arm:\n"
        "    a: {{}}\n    again: {{seed_offset: 1000}}\n"
        "    other: {{pretrain: {cpu}/../cpu/mae.yaml, data.batch_size: 2}}\n"
    )
    found = by_name(cells(read_sweep(write(tmp_path, text))))
    assert {name: cell.needs for name, cell in found.items() if cell.kind == "finetune"} == {
        "a_seed1": ("pretrain_seed1",),
        "again_seed1001": ("pretrain_seed1001",),
        "other_seed1": ("pretrain_seed1",),
    }
    assert found["again_seed1001"].config.seed == 1001
    own = text.replace("pretrain: {cpu}/mae.yaml\n", "")
    own = own.replace("a: {{}}", "a: {{pretrain: false}}").replace("offset: 1000", "offset: 1000, pretrain: false")
    found = by_name(cells(read_sweep(write(tmp_path, own))))
    assert found["a_seed1"].needs == ()
    assert found["other_seed1"].needs == ("pretrain_other_seed1",)


def test_a_cnn_is_pre_trained_as_a_cnn(tmp_path: Path) -> None:
    text = (
        "name: models\nbase: {cpu}/vit.yaml\npretrain: {cpu}/mae.yaml\nsettings: {{model.cnn.max_features: 48}}\n"
        "axes:\n  model:\n    ViT: {{}}\n    CNN: {{base: {cpu}/cnn.yaml, model.cnn.encoder: residual}}\n"
        "  start: {{scratch: {{pretrain: false}}, masked: {{pretrain: true}}}}\n"
    )
    found = by_name(cells(read_sweep(write(tmp_path, text))))
    assert found["vit_masked_seed0"].needs == ("pretrain_seed0",)
    assert found["cnn_masked_seed0"].needs == ("pretrain_cnn_seed0",)
    assert found["cnn_scratch_seed0"].needs == ()
    vit, cnn = found["pretrain_seed0"].config, found["pretrain_cnn_seed0"].config
    assert (vit.model.name, cnn.model.name) == ("vit", "cnn")
    assert cnn.task == "pretrain"
    assert cnn.model.cnn == found["cnn_masked_seed0"].config.model.cnn
    assert (cnn.model.cnn.encoder, cnn.model.cnn.max_features) == ("residual", 48)
    assert cnn.optimizer == vit.optimizer  # that of the pre-training


def test_a_whole_segmenter_is_pre_trained_with_the_decoder_of_its_cell(tmp_path: Path) -> None:
    text = (
        "name: decoders\nbase: {cpu}/vit.yaml\npretrain: {cpu}/mae.yaml\n"
        "axes:\n  decoder: {{narrow: {{model.decoder.channels: 4}}, wide: {{model.decoder.channels: 8}}}}\n"
        "  part: {{encoder: {{}}, all: {{pretrain.model.mae.pretrain: segmenter}}}}\n"
    )
    found = by_name(cells(read_sweep(write(tmp_path, text))))
    assert found["narrow_encoder_seed0"].needs == found["wide_encoder_seed0"].needs == ("pretrain_seed0",)
    for decoder, channels in (("narrow", 4), ("wide", 8)):
        (need,) = found[f"{decoder}_all_seed0"].needs
        assert need == f"pretrain_{decoder}_all_seed0"
        assert found[need].config.model.decoder.channels == channels
        assert found[need].config.model.mae.pretrain == "segmenter"
