from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.config.reading import ConfigError
from iac_lightning.sweeps.cells import Cell, cells
from iac_lightning.sweeps.spec import flat, read_sweep, slug
from tests.integration.settings import REPOSITORY

SWEEPS = sorted((REPOSITORY / "experiments" / "sweeps").glob("*.yaml"))

TWO_AXES = """
name: tiny
base: {cpu}/vit.yaml
pretrain: {cpu}/mae.yaml
settings: {{data.batch_size: 2, loss: {{ce_weight: 2}}}}
axes:
  patch:
    8³: {{model.vit.patch_size: [8, 8, 8]}}
    16³: {{model: {{vit: {{patch_size: [16, 16, 16]}}}}}}
  start:
    scratch: {{pretrain: false}}
    half hidden: {{pretrain: true, pretrain.model.mae.mask_ratio: 0.5}}
seeds: [3, 4]
"""


def write(tmp_path: Path, text: str, name: str = "sweep.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text.format(cpu=REPOSITORY / "experiments/sweeps/cpu"), encoding="utf-8")
    return path


def by_name(found: list[Cell]) -> dict[str, Cell]:
    return {cell.name: cell for cell in found}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_sweep_of_the_project_is_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    spec = read_sweep(path.relative_to(REPOSITORY))
    found = cells(spec)
    assert spec.name == path.stem
    assert len({cell.name for cell in found}) == len(found)
    assert spec.question.endswith("?")
    assert bool(spec.phantom) == path.stem.endswith("_cpu"), "what runs on a CPU makes its own data"
    for axis, level in (spec.report.get("baseline") or {}).items():
        assert level in spec.axes[axis]


def test_each_full_sweep_has_one_for_a_cpu_with_the_same_axes() -> None:
    names = {path.stem for path in SWEEPS}
    full = {name for name in names if not name.endswith("_cpu")}
    assert full
    assert {f"{name}_cpu" for name in full} == names - full


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


def test_command_line_wins(tmp_path: Path) -> None:
    overrides = ["name=other", "seeds=[7]", "runs_dir=elsewhere", "launcher=slurm", "trainer.max_epochs=8"]
    spec = read_sweep(write(tmp_path, TWO_AXES), overrides)
    assert (spec.name, spec.seeds, spec.launcher.name) == ("other", [7], "slurm")
    for cell in cells(spec):
        assert cell.config.trainer.max_epochs == 8
        assert cell.config.runs_dir == "elsewhere"


def test_points_and_exclusions(tmp_path: Path) -> None:
    some = "points: [{{patch: 8³, start: scratch}}, {{patch: 16³, start: half hidden}}]\n"
    assert [c.name for c in cells(read_sweep(write(tmp_path, TWO_AXES + some))) if c.kind == "finetune"] == [
        "8_scratch_seed3",
        "8_scratch_seed4",
        "16_half-hidden_seed3",
        "16_half-hidden_seed4",
    ]
    without = "exclude: [{{start: scratch}}]\n"
    assert all(c.needs for c in cells(read_sweep(write(tmp_path, TWO_AXES + without))) if c.kind == "finetune")


def test_a_level_may_begin_from_another_experiment(tmp_path: Path) -> None:
    text = (
        "name: models\nbase: {cpu}/vit.yaml\naxes:\n  model:\n    ViT: {{}}\n"
        "    CNN: {{base: {cpu}/cnn.yaml}}\n    deep: {{base: {cpu}/cnn.yaml, model.cnn.encoder: residual}}\n"
    )
    found = by_name(cells(read_sweep(write(tmp_path, text))))
    assert found["vit_seed0"].config.model.name == "vit"
    assert found["cnn_seed0"].config.model.cnn.encoder == "plain"
    assert found["deep_seed0"].config.model.cnn.encoder == "residual"


def test_a_file_extends_another(tmp_path: Path) -> None:
    write(tmp_path, TWO_AXES, "full.yaml")
    spec = read_sweep(
        write(tmp_path, "extends: full.yaml\nname: small\nsettings: {{data.batch_size: 4}}\nseeds: [0]\n")
    )
    assert list(spec.axes) == ["patch", "start"]
    assert spec.settings == {"data.batch_size": 4, "loss.ce_weight": 2}
    assert spec.seeds == [0]


def test_all_mistakes_of_a_file_come_together(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: a/b\nbas: x.yaml\nsplit: train\nseeds: [1, 1]\naxes: {{patch: {{8³: {{}}, 8: {{}}}}}}\n"
        "exclude: [{{ptach: 8³}}]\nreport: {{baseline: {{patch: 9}}}}\n",
    )
    with pytest.raises(ConfigError) as error:
        read_sweep(path)
    text = str(error.value)
    for expected in (
        "bas: unknown key; did you mean base?",
        "base is required",
        "name = 'a/b'",
        "split = 'train'",
        "each seed once",
        "make the same folder name",
        "there is no axis 'ptach'; axes are patch",
        "patch has no level 9; levels are 8³, 8",
    ):
        assert expected in text


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


def test_names() -> None:
    assert slug("8×8×4") == "8x8x4"
    assert slug("ViT, MAE pre-trained") == "vit-mae-pre-trained"
    assert slug("10 %") == "10-pc"
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e.f": 3}) == {"a.b": 1, "a.c.d": [2], "e.f": 3}
