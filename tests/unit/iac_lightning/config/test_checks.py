"""Settings that are wrong on their own, and settings that do not fit together."""

from __future__ import annotations

import typing

import pytest

from iac_lightning.config.keys import leaves
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import unwrapped
from tests.unit.iac_lightning.config.problems import only, problems

FSDP = ("trainer.strategy=fsdp", "trainer.devices=2")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.window_hu=[100,100]", "[low, high] with low below high"),
        ("data.augmentation.thickness_range_mm=[6,2]", "the thinnest first"),
        ("data.sampling.lesion_fraction=1.1", "from 0 to 1"),
        ("data.augmentation.flip_probability=-0.1", "from 0 to 1"),
        ("data.labelled_fraction=0", "above 0 and at most 1"),
        ("data.sampling.crop=[48,0,32]", "three whole numbers from 1 to 4096"),
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
        (f"name={'a' * 300}", "too long for a folder"),
        (f"name={'/'.join(['a' * 100] * 11)}", "too long for a folder"),
        ("tracking.uri=./mlruns", "MLflow needs a database or a server"),
    ],
)
def test_ranges(override, expected):
    assert expected in only(override)


@pytest.mark.parametrize("value", ["-1e300", "1e300", str(10**30), str(-(10**30))])
def test_no_number_is_without_bounds(value):
    """Every setting that holds numbers refuses what no computer could do anything with, by its key."""
    hints = leaves(ExperimentConfig)
    numbers = {key: hint for key, hint in hints.items() if unwrapped(hint)[0] not in (str, bool)}
    assert len(numbers) > 60
    overrides = []
    for key, hint in numbers.items():
        kinds = typing.get_args(unwrapped(hint)[0])
        text = f"[{','.join([value] * (len(kinds) - (kinds[-1] is ...)))}]" if kinds else value
        overrides.append(f"{key}={text}")
    refused = {line.split(" = ")[0] for line in problems(None, "name=a", *overrides)}
    assert refused == {f"command line: {key}" for key in numbers}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.sampling.crop=[4096,4096,4096]"], "data.sampling.crop make 4096 × 4096 × 4096 voxels, and at most"),
        (["data.grid.spacing_mm=[.001,.001,.001]"], "data.grid.spacing_mm and data.grid.roi_mm make 80000 × 64000"),
        (["data.batch_size=100000"], "make 100000 × 48 × 48 × 24 voxels"),
        (["inference.window_batch=100000"], "make 100000 × 48 × 48 × 24 voxels"),
        (["inference.overlap=0.99", "data.sampling.crop=[8,8,8]"], "make 93 × 73 × 23 windows"),
    ],
)
def test_sizes_that_no_memory_holds(overrides, expected):
    assert any(expected in line for line in problems(None, "name=a", *overrides))


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
        (["init_from=runs/a", "task=pretrain"], "only by task=segment; this is task=pretrain: remove init_from"),
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
        (
            ["trainer.compile=cuda_graphs", "trainer.global_batch=8"],
            "take a data.batch_size that fills the global batch",
        ),
        (["trainer.compile=cuda_graphs", "trainer.accumulate_grad_batches=2"], "or trainer.compile=default"),
        ([*FSDP, "trainer.compile=default"], "set trainer.compile=off, or use trainer.strategy=ddp"),
    ],
)
def test_settings_that_do_not_fit_together(overrides, expected):
    assert expected in only(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=cnn", "data.sampling.crop=[12,12,8]"],  # a CNN has no patches
        ["model.vit.patch_size=[1,1,1]", "model.decoder.name=linear"],
        ["init_from=runs/a"],
        ["init_from=runs/a", "model.name=cnn"],
        ["task=pretrain", "model.name=cnn"],
        ["task=pretrain", "model.mae.pretrain=segmenter", "model.mae.masking=blocks"],
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
