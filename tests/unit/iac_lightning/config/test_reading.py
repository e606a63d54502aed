from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.config import checks
from iac_lightning.config.reading import (
    ConfigError,
    _choices,
    _leaves,
    config_dict,
    config_hash,
    diff,
    from_dict,
    is_decisive,
    load_experiment,
    resolved_vit,
    to_yaml,
    value_at,
)
from iac_lightning.config.schema import VIT_PRESETS, ExperimentConfig, ViTConfig

ROOT = Path(__file__).parents[4]


FSDP = ("trainer.strategy=fsdp", "trainer.devices=2")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def problems(path: Path | None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    assert isinstance(caught.value, UserError)
    head, *lines = str(caught.value).split("\n  ")
    expected = "1 problem in the settings:" if len(lines) == 1 else f"{len(lines)} problems in the settings:"
    assert head == expected
    return lines


def only(*overrides: str) -> str:
    (line,) = problems(None, "name=a", *overrides)
    return line


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
        "own.yaml:7: model.vit.patch_size = 8: expected three whole numbers, such as [8, 8, 8]",
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
        ("data.sampling.crop=[1,2,x]", "expected three whole numbers, such as [48, 48, 32]"),
        ("runs_dir={a: 1}", 'runs_dir = {"a": 1}: expected text'),
        ("runs_dir=", "runs_dir = null: expected text"),
        ("trainer.precision=16-mixd", "unknown choice; did you mean 16-mixed? choices: 32-true"),
        ("runs_dir=${no.such}", "runs_dir = '${no.such}': Interpolation key 'no.such' not found"),
        ("runs_dir=${runs_dir}", "runs_dir = '${runs_dir}': Recursive interpolation"),
        ("seed=${runs_dir}", "seed = '${runs_dir}': "),
        ("task=${model.name}", "task = '${model.name}': unknown choice; choices: pretrain, segment"),
    ],
)
def test_single_wrong_overrides(override, expected):
    assert only(override).startswith("command line: ")
    assert expected in only(override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.window_hu=[100,100]", "[low, high] with low below high"),
        ("data.augmentation.thickness_range_mm=[6,2]", "the thinnest first"),
        ("data.sampling.lesion_fraction=1.1", "from 0 to 1"),
        ("data.augmentation.flip_probability=-0.1", "from 0 to 1"),
        ("data.labelled_fraction=0", "above 0 and at most 1"),
        ("data.sampling.crop=[48,0,32]", "three whole numbers of 1 or more"),
        ("data.grid.spacing_mm=[1,1,0]", "three numbers greater than 0"),
        ("optimizer.lr=0", "greater than 0"),
        ("optimizer.betas=[0.9,1]", "two numbers from 0 to below 1"),
        ("trainer.gradient_clip_val=0", "greater than 0"),
        ("seed=-1", "from 0 to 4294967295"),
        ("inference.overlap=1", "from 0 to below 1"),
        ("name=../up", "not a safe folder name"),
        ("name=/abs", "not a safe folder name"),
        ("name=a//b", "not a safe folder name"),
        ("name=a b", "not a safe folder name"),
        ("name=a..b", "not a safe folder name"),
        ("name='a\n'", "not a safe folder name"),
        ("tracking.uri=./mlruns", "MLflow needs a database or a server"),
    ],
)
def test_ranges(override, expected):
    assert expected in only(override)


def test_ranges_accept_their_edges_and_null():
    load_experiment(
        None,
        [
            "name=demo/vit_mae-1,x=2",
            "seed=0",
            "data.sampling.jitter=0",
            "data.sampling.lesion_fraction=1",
            "data.labelled_fraction=1",
            "trainer.gradient_clip_val=null",
            "model.vit.dim=null",
            "loss.restrict_hu=",
        ],
    )


def test_a_password_is_refused_and_not_repeated():
    line = only("tracking.uri=http://me:secret@host:5000")
    assert "MLFLOW_TRACKING_PASSWORD" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["data.sampling.crop=[50,48,33]"],
            "data.sampling.crop = [50, 48, 33]: data.sampling.crop [50, 48, 33] does not divide into "
            "model.vit.patch_size [8, 8, 8]: x 50 is not a multiple of 8 (use 48 or 56); z 33 is not a multiple of 8 "
            "(use 32 or 40)",
        ),
        (["model.vit.patch_size=[8,8,64]"], "z 32 is not a multiple of 64 (use 64)"),
        (["model.vit.dim=100"], "model.vit.dim 100 is not a multiple of model.vit.heads 3: use 99 or 102"),
        (
            ["task=pretrain", "model.mae.decoder_heads=5"],
            "model.mae.decoder_dim 96 is not a multiple of model.mae.decoder_heads 5: use 95 or 100",
        ),
        # 48·48·32 voxels in patches of 48·48·32: one token, of which round(0.75) = 1 is hidden and none is seen
        (["task=pretrain", "model.vit.patch_size=[48,48,32]"], "of 1 tokens"),
        (["task=pretrain", "model.mae.mask_ratio=0.001"], "hides 0"),  # 6·6·4 = 144 tokens
        (["task=pretrain", "model.name=cnn"], "a CNN cannot be pre-trained"),
        (["init_from=runs/a", "task=pretrain"], "this is task=pretrain with model.name=vit: remove init_from"),
        (["init_from=runs/a", "model.name=cnn"], "this is task=segment with model.name=cnn"),
        (["model.decoder.channels=256"], "model.decoder.channels 256 is above model.decoder.max_channels 128"),
        (["model.name=cnn", "model.cnn.base_features=512"], "is above model.cnn.max_features 320"),
        (["loss.dice_weight=0", "loss.ce_weight=0"], "both losses weigh 0"),
        (["trainer.devices=3"], "200 does not share out over 3 processes with batches of 2: use 198 or 204"),
        (["trainer.num_nodes=4", "data.batch_size=64"], "use 256"),
        (["trainer.accelerator=cpu", "trainer.precision=16-mixed"], "16-mixed does not run on a CPU"),
        (
            ["trainer.global_batch=30", "data.batch_size=4", "trainer.devices=2"],
            "a global batch of 30 is not made of whole batches of 4 on 2 devices: use 24 or 32",
        ),
        (["trainer.global_batch=1", "data.batch_size=4"], "use 4, or another data.batch_size"),
        (
            ["trainer.global_batch=8", "trainer.accumulate_grad_batches=3"],
            "a global batch of 8 accumulates 4 batches, and trainer.accumulate_grad_batches is 3: leave that one out",
        ),
        (["trainer.global_batch=400"], "more than the 200 samples of an epoch"),
        (["optimizer.lr_scaling=linear"], "set optimizer.lr_batch_size"),
        ([*FSDP, "trainer.accelerator=cpu"], "FSDP runs on CUDA GPUs, and trainer.accelerator is cpu: use"),
        (["trainer.strategy=fsdp_cpu_offload"], "and there is one: raise trainer.devices"),
        ([*FSDP, "model.name=cnn"], "FSDP shares out transformer blocks, and model.name is cnn: use"),
        ([*FSDP, "optimizer.ema_decay=0.99"], "set optimizer.ema_decay=0, or use trainer.strategy=ddp"),
        ([*FSDP, "trainer.compile=true"], "set trainer.compile=false, or use trainer.strategy=ddp"),
    ],
)
def test_settings_that_do_not_fit_together(overrides, expected):
    assert expected in only(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=cnn", "data.sampling.crop=[50,48,33]"],  # a CNN has no patches
        ["init_from=runs/a"],
        ["data.sampling.crop=[160,160,160]"],  # larger than the region: padded with air
        ["trainer.devices=2"],
        ["data.sampling.samples_per_epoch=1", "data.batch_size=2"],
        ["model.name=cnn", "trainer.precision=bf16-mixed"],
        ["trainer.global_batch=8", "trainer.accumulate_grad_batches=4"],
        ["trainer.global_batch=24", "trainer.devices=2", "data.batch_size=4"],  # 200 = 8 · 24 + 8
        ["optimizer.lr_scaling=sqrt", "optimizer.lr_batch_size=256"],
        [*FSDP, "trainer.accelerator=gpu", "trainer.precision=bf16-mixed"],
        ["model.mae.decoder_heads=5"],  # decides nothing when segmenting
    ],
)
def test_settings_that_are_fine_together(overrides):
    load_experiment(None, ["name=a", *overrides])


def test_joint_checks_wait_for_values_that_are_fine_alone():
    assert "three whole numbers" in only("model.vit.patch_size=[0,8,8]")
    assert "expected three" in only("model.vit.patch_size=seven", "data.sampling.crop=[50,50,50]")


def test_the_name_is_required():
    (line,) = problems(None)
    assert line == "missing: name is required: set name=<value> (the run's name; results go to <runs_dir>/<name>/)"
    (line,) = problems(None, "name=???")
    assert line.startswith("command line: name is required")


def test_interpolations_resolve_after_overrides(tmp_path, monkeypatch):
    monkeypatch.setenv("IAC_SEED", "7")
    path = write(
        tmp_path / "a.yaml",
        "name: 'seed_${seed}'\nseed: 1\nruns_dir: ${oc.env:HOME}/x\ndata:\n  num_workers: ${data.batch_size}\n"
        "  sampling:\n    crop: ['${model.vit.dim}', 48, 32]\n",
    )
    config = load_experiment(path, ["data.batch_size=4", "model.vit.dim=96", "seed=${oc.env:IAC_SEED}"])
    assert config.name == "seed_7"
    assert config.data.num_workers == 4
    assert config.data.sampling.crop == (96, 48, 32)
    assert config.runs_dir == f"{os.environ['HOME']}/x"
    assert "${" not in to_yaml(config)
    assert load_experiment(path, ["runs_dir=plain", "model.vit.dim=96"]).runs_dir == "plain"


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


def test_yaml_and_dictionary_round_trips(tmp_path):
    config = load_experiment(
        None, ["name=no_1", "optimizer.lr=1e-5", "data.sampling.crop=[64,64,32]", "runs_dir='no'", "init_from='null'"]
    )
    assert load_experiment(write(tmp_path / "a.yaml", to_yaml(config))) == config
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


def test_every_number_has_a_range_and_every_rule_a_setting():
    leaves = _leaves(ExperimentConfig)
    numeric = {key for key, hint in leaves.items() if "int" in str(hint) or "float" in str(hint)}
    assert numeric == set(checks.RANGES)
    assert set(_choices(ExperimentConfig)) <= set(leaves)
    for key, words in _choices(ExperimentConfig).items():
        assert value_at(ExperimentConfig(), key) in words


def test_presets():
    assert set(VIT_PRESETS) == set(_choices(ExperimentConfig)["model.vit.preset"])
    assert resolved_vit(ViTConfig()) == (192, 6, 3)
    assert resolved_vit(ViTConfig(preset="base", depth=2)) == (768, 2, 12)


def test_settings_are_checked_before_torch_is_imported():
    code = (
        "import sys\nfrom iac_lightning.config.reading import load_experiment, to_yaml\n"
        "to_yaml(load_experiment(None, ['name=a']))\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'monai'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_experiment_file_loads():
    """Sweeps have a layout of their own and are read by the sweep workflow."""
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        if "sweeps" not in path.relative_to(ROOT).parts:
            config = load_experiment(path, [] if "name:" in path.read_text() else ["name=from_a_base"])
            assert from_dict(config_dict(config)) == config


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
    rising = "out of range: expected one or more rising numbers greater than 0"
    for wrong in ("[]", "[0,1]", "[2,1]", "[1,1]"):
        assert only(f"evaluation.thickness_edges_mm={wrong}").endswith(rising)
    assert only("evaluation.risk_cutoffs_mm3=[1,2]").endswith("expected three numbers or null")
    assert "three rising numbers" in only("evaluation.risk_cutoffs_mm3=[0,5,5]")


def test_settings_of_the_evaluation_decide_no_training_but_a_look():
    config = load_experiment(None, ["name=a"])
    other = load_experiment(None, ["name=a", "evaluation.coverage=0.8", "inference.mirror=true"])
    assert config_hash(config) == config_hash(other)
    assert config_hash(config, "inference", "evaluation") != config_hash(other, "inference", "evaluation")
    assert config_hash(config, "inference") != config_hash(config)
