from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.config.reading import ConfigError
from iac_lightning.sweeps.cells import cells
from iac_lightning.sweeps.keys import CUTOFFS, slug
from iac_lightning.sweeps.spec import read_sweep
from tests.integration.settings import REPOSITORY
from tests.unit.iac_lightning.sweeps.conftest import TWO_AXES, write

SWEEPS = sorted((REPOSITORY / "experiments" / "sweeps").glob("*.yaml"))


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
        "name: a/b\nbas: x.yaml\nsplit: train\nseeds: [1, 1]\naxes: {{patch: {{8³: {{}}, 8: {{seed_offset: -1}}}}}}\n"
        "folds: 1\nstress: [0]\nexclude: [{{ptach: 8³}}]\nreport: {{baseline: {{patch: 9}}}}\n",
    )
    with pytest.raises(ConfigError) as error:
        read_sweep(path)
    text = str(error.value)
    for expected in (
        "bas: unknown key; did you mean base?",
        "folds = 1: expected a whole number from 2 to 100",
        "stress = [0]: expected a list of slice thicknesses in mm",
        "axes: patch: 8: seed_offset = -1: expected a whole number of at least 0",
        "base is required",
        "name = 'a/b'",
        "split = 'train'",
        "each seed once",
        "make the same folder name",
        "there is no axis 'ptach'; axes are patch",
        "patch has no level 9; levels are 8³, 8",
    ):
        assert expected in text


def test_settings_that_the_sweep_gives_itself_are_not_taken_and_forgotten(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: a\nbase: fine.yaml\nsettings: {{seed: 7, data: {{cohort: x.csv}}}}\nphantom: {{folder: data/p}}\n"
        "pretrain_settings: {{runs_dir: elsewhere}}\naxes: {{start: {{far: {{init_from: x, pretrain.seed: 3}}}}}}\n",
    )
    with pytest.raises(ConfigError) as error:
        read_sweep(path, ["seed=8", "init_from=null"])
    for expected in (
        "settings: seed: is no setting of single cells; give the sweep seeds",
        "settings: data.cohort: is no setting of single cells; the cohort is that of phantom",
        "pretrain_settings: runs_dir: is",
        "axes: start: far: init_from: is",
        "axes: start: far: pretrain.seed: is",
        "command line: seed=…: is",
        "command line: init_from=…: is",
    ):
        assert expected in str(error.value)


def test_shares_of_the_phantoms_splits(tmp_path: Path) -> None:
    text = "phantom: {{folder: data/p, fractions: {{finetune: 0.5, dev: 0.5}}}}\n"
    assert read_sweep(write(tmp_path, TWO_AXES + text)).phantom == {
        "folder": "data/p",
        "fractions": {"finetune": 0.5, "dev": 0.5},
    }
    with pytest.raises(ConfigError, match=r"phantom: fractions = 0\.5: expected shares of the patients"):
        read_sweep(write(tmp_path, TWO_AXES + "phantom: {{folder: data/p, fractions: 0.5}}\n"))


def test_names() -> None:
    assert slug("8×8×4") == "8x8x4"
    assert slug("ViT, MAE pre-trained") == "vit-mae-pre-trained"
    assert slug("10 %") == "10-pc"


def test_cut_offs_of_before_become_a_setting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = read_sweep(write(tmp_path, TWO_AXES + "report: {{risk_cutoffs_mm3: {{low: 40, medium: 120}}}}\n"))
    assert spec.settings[CUTOFFS] == [0.0, 40.0, 120.0]
    assert "risk_cutoffs_mm3" not in spec.report
    assert "as settings: {evaluation.risk_cutoffs_mm3: [0.0, 40.0, 120.0]}" in caplog.text
    for cell in cells(spec):
        expected = (0.0, 40.0, 120.0) if cell.kind == "finetune" else None
        assert cell.config.evaluation.risk_cutoffs_mm3 == expected
    with pytest.raises(ConfigError, match=r"report\.risk_cutoffs_mm3 is \[1, 2\]; write instead settings"):
        read_sweep(write(tmp_path, TWO_AXES + "report: {{risk_cutoffs_mm3: [1, 2]}}\n"))


def test_more_combinations_than_anybody_trains_are_refused_before_they_are_counted_out(tmp_path: Path) -> None:
    axes = "".join(
        f"  a{k}:\n" + "".join(f"    l{i}: {{{{optimizer.lr: {i + 1}.0e-4}}}}\n" for i in range(12)) for k in range(9)
    )
    with pytest.raises(ConfigError, match=r"axes: .* make 5,159,780,352 combinations, at most 10,000"):
        read_sweep(write(tmp_path, TWO_AXES.partition("axes:")[0] + "axes:\n" + axes))


@pytest.mark.parametrize("key", ["points", "exclude"])
def test_combinations_that_are_no_list_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{key} = 7: expected a list"):
        read_sweep(write(tmp_path, TWO_AXES + f"{key}: 7\n"))


def test_folds_are_compared_on_development_patients(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nbase: {cpu}/cnn.yaml\nsettings: {{data.fold: 1}}\nsplit: test\n")
    with pytest.raises(ConfigError) as error:
        read_sweep(path, ["folds=3"])
    assert "split = test: folds are compared on dev" in str(error.value)
    assert "settings: data.fold: is no setting of single cells; give the sweep folds: 5" in str(error.value)
