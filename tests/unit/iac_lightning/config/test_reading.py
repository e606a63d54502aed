"""From files and overrides to a checked experiment, and every way in which that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from iac_lightning.config.reading import ConfigError, from_dict, load_experiment, load_stored
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_dict, to_yaml
from tests.unit.iac_lightning.config.problems import only, problems

ROOT = Path(__file__).parents[4]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_sources_win_and_types_follow_the_schema(tmp_path):
    write(tmp_path / "base.yaml", "seed: 1\noptimizer: {lr: 1e-3, weight_decay: 0.1}\nloss: {ce_weight: 3}\n")
    write(tmp_path / "more.yaml", "seed: 2\noptimizer: {lr: .5e-2}\n")
    path = write(
        tmp_path / "sub/own.yaml",
        "name: demo/own\nextends: [../base.yaml, ../more.yaml]\nseed: 3\ndata:\n  sampling: {crop: [64, 64, 32]}\n"
        "  augmentation:\n",
    )
    config = load_experiment(path, ["seed=4", "data.grid.spacing_mm=[1,1,2]", "tracking={enabled: off}"])
    assert (config.name, config.seed) == ("demo/own", 4)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (0.005, 0.1)
    assert config.loss.ce_weight == 3.0
    assert isinstance(config.loss.ce_weight, float)
    assert config.data.sampling.crop == (64, 64, 32)
    assert config.data.grid.spacing_mm == (1.0, 1.0, 2.0)
    assert isinstance(config.data.grid.spacing_mm, tuple)
    assert not config.tracking.enabled
    assert config.data.augmentation == ExperimentConfig().data.augmentation


def test_a_shared_base_is_read_once_so_that_it_does_not_undo_a_sibling(tmp_path):
    write(tmp_path / "base.yaml", "seed: 1\nname: base")
    write(tmp_path / "a.yaml", "extends: base.yaml\nseed: 2")
    write(tmp_path / "b.yaml", "extends: base.yaml\nname: b")
    config = load_experiment(write(tmp_path / "c.yaml", "extends: [a.yaml, b.yaml]"))
    assert (config.seed, config.name) == (2, "b")


def test_every_problem_in_one_message_with_file_line_key_value_and_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base.yaml", "model:\n  vit:\n    preset: tinny\n")
    path = write(
        tmp_path / "own.yaml",
        "extends: base.yaml\nname: no\npatch_size: [4, 4, 4]\nmodel:\n  vit:\n    patchsize: [4, 4]\n"
        "    patch_size: 8\n  mae: {mask_ratio: 1.0}\ndata:\n  batch_size: 2\n  batch_size: two\noptimiser: {lr: 1}\n",
    )
    assert problems(path, "seed=a", "task=segmnt", "foo") == [
        "base.yaml:3: model.vit.preset = 'tinny': unknown choice; did you mean tiny? choices: tiny, small, base",
        "own.yaml:2: name = false: expected text; YAML reads yes, no, on, off, true and false as truth values: "
        "put the word in quotes",
        "own.yaml:3: patch_size: unknown key; did you mean model.vit.patch_size?",
        "own.yaml:6: model.vit.patchsize: unknown key; did you mean model.vit.patch_size?",
        "own.yaml:7: model.vit.patch_size = 8: expected three whole numbers, such as [8, 8, 4]",
        "own.yaml:11: data.batch_size is given twice (first on line 10): keep one of them",
        "own.yaml:11: data.batch_size = 'two': expected a whole number",
        "own.yaml:12: optimiser: unknown key; did you mean optimizer?",
        "command line: seed = 'a': expected a whole number",
        "command line: task = 'segmnt': unknown choice; did you mean segment? choices: pretrain, segment",
        "command line: 'foo' is not key=value, such as seed=1",
        "own.yaml:8: model.mae.mask_ratio = 1.0: out of range: expected a number between 0 and 1, both excluded",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lr=1", "lr: unknown key; did you mean optimizer.lr?"),
        ("--seed=1", "--seed: unknown key; did you mean seed?"),
        ("models.vit.dim=8", "models: unknown key; did you mean model?"),
        ("model.vit.zzz=8", "model.vit.zzz: unknown key; model.vit has preset, patch_size, dim"),
        ("data.batch_size.x=1", "data.batch_size.x: data.batch_size holds a whole number, without keys below it"),
        ("extends=a.yaml", "extends: unknown key"),
        ("data.sampling=3", "data.sampling = 3: expected a section with keys among crop, samples_per_epoch"),
        ("data.sampling=", "data.sampling = null: expected a section"),
        ("data.window_hu=[1", "data.window_hu = '[1': not valid YAML"),
        ("seed=", "seed = null: expected a whole number"),
        ("seed=1.5", "seed = 1.5: expected a whole number"),
        ("seed=true", "seed = true: expected a whole number"),
        ('seed="12"', "seed = '12': expected a whole number, without quotes"),
        ("optimizer.lr=.nan", "optimizer.lr = NaN: expected a number"),
        ("model.vit.dim=big", "model.vit.dim = 'big': expected a whole number or null"),
        ("data.window_hu=[1,2,3]", "data.window_hu = [1, 2, 3]: expected two numbers, such as [-200.0, 1000.0]"),
        ("data.sampling.crop=[1,2,x]", "expected three whole numbers, such as [48, 48, 24]"),
        ("runs_dir={a: 1}", 'runs_dir = {"a": 1}: expected text'),
        ("runs_dir=", "runs_dir = null: expected text"),
        ("trainer.precision=16-mixd", "unknown choice; did you mean 16-mixed? choices: 32-true"),
        ("runs_dir=${no.such}", "runs_dir = '${no.such}': Interpolation key 'no.such' not found"),
        ("runs_dir=${runs_dir}", "runs_dir = '${runs_dir}': Recursive interpolation"),
        ("seed=${runs_dir}", "seed = '${runs_dir}': "),
        ('seed="[1"', "seed = '[1': expected a whole number"),
        (f"optimizer.lr={'9' * 400}", "expected a number"),
        (f"seed={'9' * 5000}", "expected a whole number"),
        ("optimizer.lr=1e400", "expected a number"),
        ("optimizer.lr=-.inf", "expected a number"),
        ("optimizer.lr=true", "optimizer.lr = true: expected a number"),
        ("task=${model.name}", "task = '${model.name}': unknown choice; choices: pretrain, segment"),
    ],
)
def test_single_wrong_overrides(override, expected):
    assert only(override).startswith("command line: ")
    assert expected in only(override)


def test_the_name_is_required():
    (line,) = problems(None)
    assert line == "missing: name is required: set name=<value> (the run's name; results go to <runs_dir>/<name>/)"
    (line,) = problems(None, "name=???")
    assert line.startswith("command line: name is required")


def test_interpolations_resolve_after_overrides(tmp_path):
    path = write(
        tmp_path / "a.yaml",
        "name: 'seed_${seed}'\nseed: 1\nruns_dir: here/${name}\ndata:\n  num_workers: ${data.batch_size}\n"
        "  sampling:\n    crop: ['${model.vit.dim}', 48, 32]\n",
    )
    config = load_experiment(path, ["data.batch_size=4", "model.vit.dim=72", "seed=${data.num_workers}"])
    assert config.name == "seed_4"
    assert config.data.num_workers == 4
    assert config.data.sampling.crop == (72, 48, 32)
    assert config.runs_dir == "here/seed_4"
    assert "${" not in to_yaml(config)
    assert load_experiment(path, ["runs_dir=plain", "model.vit.dim=72"]).runs_dir == "plain"


@pytest.mark.parametrize(
    "value",
    [
        "leak-${oc.env:SECRET}",
        "leak-${oc.env:SECRET,none}",
        "${oc.decode:${oc.env:SECRET}}",
        "${oc.select:oc.env:SECRET}",
        "${own:SECRET}",
        "${.seed}",
        "${data.${model.name}}",
        "${data[batch_size]}",
        "$${seed}{oc.env:SECRET}",
        "\\${oc.env:SECRET}",
        "${oc.env:SECRET",
    ],
)
def test_neither_the_environment_nor_functions_are_read(value, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    OmegaConf.register_resolver("own", os.environ.get, replace=True)
    path = write(tmp_path / "a.yaml", f"seed: 1\ninit_from: '{value}'\n")
    (line,) = problems(path, "name=a")
    assert line.startswith(f"{path}:2: init_from = ")
    assert "the environment and functions are never read" in line
    assert "hunter2" not in line
    assert "never read" in only(f"init_from='{value}'")


def test_an_interpolation_put_together_from_pieces_is_not_read(monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    line = only("init_from=$", "runs_dir='${init_from}{oc.env:SECRET}'")
    assert "gives an interpolation again" in line
    assert "hunter2" not in line


def test_stored_settings_hold_plain_values():
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    for value in (object(), 1j, nested):
        with pytest.raises(ConfigError, match="a checkpoint: not settings"):
            from_dict({"name": "a", "seed": value}, "a checkpoint")


def test_stored_settings_are_taken_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    write(tmp_path / "other.yaml", "seed: 5\n")
    stored = "settings of a run or model are taken as they are written"
    for value in ("${seed}", "${oc.env:SECRET}"):
        path = write(tmp_path / "config.yaml", f"name: a\nruns_dir: '{value}'\n")
        for load, given in ((load_stored, path), (from_dict, {"name": "a", "runs_dir": value})):
            with pytest.raises(ConfigError, match=stored) as caught:
                load(given)
            assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"config.yaml:2: extends: unknown key"):
        load_stored(write(tmp_path / "config.yaml", "name: a\nextends: other.yaml\n"))
    (tmp_path / "link.yaml").symlink_to(tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match=r"link.yaml: is a link"):
        load_stored(tmp_path / "link.yaml")
    config = load_experiment(None, ["name=a", "seed=3"])
    path = write(tmp_path / "config.yaml", to_yaml(config))
    assert load_stored(path) == config
    assert load_stored(path, ["inference.overlap=0.25"]).inference.overlap == 0.25


@pytest.mark.parametrize("uri", ["https://T0KEN@host", "postgresql://h/db?password=T0KEN", "u:T0KEN@host"])
def test_an_address_with_a_secret_is_refused_and_never_repeated(uri, tmp_path):
    path = write(tmp_path / "a.yaml", f"name: a\ntracking:\n  uri: '{uri}'\nseed: '{uri}'\ndata: {{cohort: '{uri}'}}\n")
    lines = problems(path, f"tracking.uri=['{uri}']", f"tracking='{uri}'", f"tracking.uri='{uri}", f"runs_dir='{uri}'")
    assert not [line for line in lines if "T0KEN" in line and "://" in uri]
    (line,) = problems(None, "name=a", f"tracking={{uri: '{uri}'}}")
    assert "may hold a password or token" in line
    assert "MLFLOW_TRACKING_TOKEN" in line
    assert "T0KEN" not in line
    if "://" in uri:
        assert "holds an address with a user, password or token" in only(f"init_from='{uri}'")


BOMB = "".join(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x'}]\n" for i in range(8))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "a.yaml:5: not valid YAML: more than 20,000 values"),
        ("name: &a [*a]", "a.yaml:1: not valid YAML: an alias inside what it stands for"),
        ("name: " + "[" * 2000, "a.yaml:1: not valid YAML: more than 40 levels"),
        ("name: " + "{a: " * 100, "a.yaml:1: not valid YAML: more than 40 levels"),
        ("k0: &a0 [x]\n" + "".join(f"k{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60)), "or 40 levels"),
        ("name: !!python/object/apply:os.system [echo]", "'tag:yaml.org,2002:python/object/apply:os.system' is not a"),
        ("name: !!python/name:os.system x", "is not a plain value"),
        ("name: !other x", "'!other' is not a plain value"),
        ("name: a" + " " * 2**18, "not valid YAML: 262,145 characters or more"),
    ],
)
def test_what_no_settings_need_is_refused_before_it_takes_memory(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = problems(write(tmp_path / "a.yaml", text), "name=a")
    assert expected in line


def test_text_stays_as_written(tmp_path):
    path = write(tmp_path / "a.yaml", "name: 007\nruns_dir: 2024-01-01\ntracking: {experiment: 1e3}\n")
    config = load_experiment(path, ["init_from=2024-13-45"])
    assert (config.name, config.runs_dir, config.tracking.experiment) == ("007", "2024-01-01", "1e3")
    assert config.init_from == "2024-13-45"


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "finetune.yaml", "name: a")
    assert "did you mean finetune.yaml?" in problems(Path("finetun.yaml"))[0]
    path = write(tmp_path / "b.yaml", "name: b\n\nextends: finetunes.yaml")
    assert problems(path) == [
        "b.yaml:3: cannot read settings file finetunes.yaml (No such file or directory); did you mean finetune.yaml?"
    ]
    assert "cannot read" in problems(tmp_path)[0]
    assert problems(write(tmp_path / "c.yaml", "name: c\ndata: [1\nseed: 2"))[0].startswith("c.yaml:3: not valid YAML")
    assert problems(write(tmp_path / "d.yaml", "- a\n- b"))[0].startswith("d.yaml:1: expected settings as")
    assert problems(write(tmp_path / "f.yaml", "name: f\nextends: {a: 1}"))[0].startswith("f.yaml:2: extends = ")
    (tmp_path / "e.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in problems(tmp_path / "e.yaml")[0]
    (tmp_path / "g.yaml").write_bytes(b"name: \x00")
    assert "not valid YAML" in problems(tmp_path / "g.yaml")[0]
    assert load_experiment(write(tmp_path / "empty.yaml", "# nothing\n"), ["name=x"]).name == "x"


def test_extends_in_a_circle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.yaml", "name: a\nextends: b.yaml")
    write(tmp_path / "b.yaml", "extends: [c.yaml, a.yaml]")
    write(tmp_path / "c.yaml", "")
    assert problems(Path("a.yaml")) == [
        "b.yaml:1: extends goes round in a circle: a.yaml → b.yaml → a.yaml; remove one of them"
    ]


def test_every_experiment_file_loads():
    """Sweeps have a layout of their own and are read by the sweep workflow."""
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        if path.parent.name not in ("sweeps", "study") and "sweeps" not in path.relative_to(ROOT).parts:
            config = load_experiment(path, ["name=from_a_base"])
            assert from_dict(config_dict(config)) == config


def test_the_aim_of_the_operating_point():
    config = load_experiment(None, ["name=a"])
    assert (config.evaluation.operating_point, config.evaluation.false_components_per_scan) == ("balanced", 1.0)
    assert "balanced, dice, lesion_f1, sensitivity_at_fp" in only("evaluation.operating_point=best")
    assert only("evaluation.false_components_per_scan=-1").endswith("expected a number from 0 to 1000000000")


def test_a_list_of_any_length(tmp_path):
    path = write(
        tmp_path / "a.yaml", "name: a\nevaluation: {thickness_edges_mm: [1, 2.5, 5], risk_cutoffs_mm3: [0, 9, 90]}\n"
    )
    config = load_experiment(path)
    assert config.evaluation.thickness_edges_mm == (1.0, 2.5, 5.0)
    assert config.evaluation.risk_cutoffs_mm3 == (0.0, 9.0, 90.0)
    assert from_dict(config_dict(config)) == config
    assert load_experiment(write(tmp_path / "b.yaml", to_yaml(config))) == config
    assert load_experiment(path, ["evaluation.thickness_edges_mm=[3]"]).evaluation.thickness_edges_mm == (3.0,)
    example = "expected a list of numbers, such as [1.0, 2.0, 4.0, 6.0]"
    assert only("evaluation.thickness_edges_mm=3").endswith(f"= 3: {example}")
    assert only("evaluation.thickness_edges_mm=[1,x]").endswith(f'= [1, "x"]: {example}')
    rising = "out of range: expected one or more rising numbers greater than 0, at most 1000"
    for wrong in ("[]", "[0,1]", "[2,1]", "[1,1]"):
        assert only(f"evaluation.thickness_edges_mm={wrong}").endswith(rising)
    assert only("evaluation.risk_cutoffs_mm3=[1,2]").endswith("expected three numbers or null")
    assert "three rising numbers" in only("evaluation.risk_cutoffs_mm3=[0,5,5]")
