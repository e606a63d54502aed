"""Settings of the network that must fit together and fit the crop."""

from __future__ import annotations

import pytest

from iac_lightning.config.reading import load_experiment
from tests.unit.iac_lightning.config.problems import only


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["data.sampling.crop=[50,48,33]"],
            "data.sampling.crop = [50, 48, 33]: data.sampling.crop [50, 48, 33] does not divide into "
            "model.vit.patch_size [8, 8, 4]: x 50 is not a multiple of 8 (use 48 or 56); z 33 is not a multiple of 4 "
            "(use 32 or 36)",
        ),
        (["model.vit.patch_size=[8,8,64]"], "z 24 is not a multiple of 64 (use 64)"),
        (["model.vit.dim=100"], "model.vit.dim 100 is not a multiple of model.vit.heads 3: use 99 or 102"),
        (
            ["task=pretrain", "model.mae.decoder_heads=5"],
            "model.mae.decoder_dim 96 is not a multiple of model.mae.decoder_heads 5: use 95 or 100",
        ),
        # 48·48·24 voxels in patches of 48·48·24: one token, of which round(0.75) = 1 is hidden and none is seen
        (["task=pretrain", "model.vit.patch_size=[48,48,24]"], "of 1 tokens"),
        (["task=pretrain", "model.mae.mask_ratio=0.001"], "hides 0"),  # 6·6·6 = 216 tokens
        # A CNN that is pre-trained hides patches of the size that a ViT's tokens have.
        (["task=pretrain", "model.name=cnn", "model.mae.mask_ratio=0.001"], "hides 0"),
        (["task=pretrain", "model.name=cnn", "model.vit.patch_size=[7,8,4]"], "x 48 is not a multiple of 7"),
        (
            ["task=pretrain", "model.mae.masking=blocks", "model.mae.mask_block_mm=5"],
            "a block of 5 mm (model.mae.mask_block_mm) covers one token, so that blocks hide as model.mae.masking=",
        ),
        (
            ["task=pretrain", "model.mae.masking=blocks", "model.mae.mask_block_mm=50"],
            "covers all of the crop's [6, 6, 6]",
        ),
        (
            ["task=pretrain", "model.mae.pretrain=segmenter", "model.decoder.name=linear"],
            "the linear decoder looks at each token by itself, so that nothing visible would reach a hidden one: take",
        ),
        (["task=pretrain", "model.mae.pretrain=segmenter", "model.decoder.channels=256"], "is above"),
        (["model.decoder.channels=256"], "model.decoder.channels 256 is above model.decoder.max_channels 128"),
        (["model.name=cnn", "model.cnn.base_features=512"], "is above model.cnn.max_features 320"),
        (
            ["model.name=cnn", "data.sampling.crop=[48,50,32]"],
            "the CNN planned for a patch of [48, 50, 32] voxels halves its axes beyond what they divide by: y 50 is "
            "not a multiple of 8 (use 48 or 56)",
        ),
        (
            ["model.name=cnn", "data.sampling.crop=[4,4,4]"],
            "a patch of [4, 4, 4] voxels with model.cnn.max_stages null gives no U-Net of two stages: take at least 8",
        ),
        (["model.name=cnn", "model.cnn.max_stages=1"], "with model.cnn.max_stages 1 gives no U-Net of two stages"),
        (
            ["model.name=rule", "trainer.max_epochs=1"],
            "model.name=rule goes by the place and nothing else, and counts once, in one process: "
            "model.condition_on=['position'] (it is [])",
        ),
        (
            ["model.name=rule", "model.condition_on=[position]", "trainer.max_epochs=4"],
            "in one process: trainer.max_epochs=1 (it is 4)",
        ),
        (
            ["model.name=rule", "model.condition_on=[position]", "trainer.max_epochs=1", "data.window_hu=[-200,120]"],
            "model.rule.threshold_hu 130 does not lie within data.window_hu [-200, 120], so the image cannot tell what",
        ),
        (
            ["model.vit.patch_size=[1,1,1]"],
            "tokens of one voxel leave model.decoder.name progressive nothing to enlarge: take larger patches, or",
        ),
        (
            ["model.decoder.tokeniser_skips=true", "model.vit.tokeniser=linear"],
            "model.vit.tokeniser linear has no feature maps for model.decoder.tokeniser_skips: set that to false",
        ),
        (
            ["model.decoder.tokeniser_skips=true", "model.decoder.name=linear"],
            "in one step, and model.decoder.tokeniser_skips needs several: set it to false, or take",
        ),
        (
            ["model.decoder.deep_supervision=true", "model.decoder.name=linear"],
            "in one step, and model.decoder.deep_supervision needs several: set it to false, or take",
        ),
        (
            ["model.decoder.pyramid=true"],
            "to coarser levels, and model.decoder.image is false: set both, or neither",
        ),
    ],
)
def test_settings_that_do_not_fit_together(overrides: list[str], expected: str) -> None:
    assert expected in only(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.decoder.tokeniser_skips=true", "model.vit.tokeniser=conv", "model.decoder.name=unetr"],
        ["model.decoder.pyramid=true", "model.decoder.image=true", "model.decoder.deep_supervision=true"],
        ["model.decoder.pyramid=true", "model.decoder.name=linear"],  # which heeds neither: runs of before have both
        ["model.decoder.convolutions=0"],
    ],
)
def test_settings_of_the_decoder_that_fit_together(overrides: list[str]) -> None:
    assert load_experiment(None, ["name=a", *overrides]).name == "a"


def test_heads_that_rotations_cannot_share_out() -> None:
    line = only("model.vit.dim=96")
    assert "model.vit.position both turns pairs of channels along three axes" in line
    assert "and 96 / 3 is 32: use 90 or 108 as model.vit.dim, or model.vit.position=learned" in line
    load_experiment(None, ["name=a", "model.vit.dim=96", "model.vit.position=learned"])
    load_experiment(None, ["name=a", "model.vit.dim=96", "model.vit.depth=0"])


@pytest.mark.parametrize(
    "option",
    [
        "tokeniser=mlp",
        "tokeniser_channels=0",
        "position=sine",
        "mlp=relu",
        "mlp_ratio=0",
        "layer_scale=0",
        "qk_norm=maybe",
        "inner_norm=1.5",
        "registers=-1",
        "initialisation=he",
        "drop_path=1",
        "depth=-1",
    ],
)
def test_every_option_of_the_encoder_is_checked(option: str) -> None:
    key, _, _ = option.partition("=")
    assert only(f"model.vit.{option}").startswith(f"command line: model.vit.{key} = ")
