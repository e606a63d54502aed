from __future__ import annotations

import json
from pathlib import Path

import pytest

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
