"""Remarks on crops, tokens and heads."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.scan.geometry import Grid
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.remarks import region_voxels, remarks, token_mm


def remarks_of(*overrides: str) -> list[str]:
    return remarks(load_experiment(None, ["name=a", *overrides]))


def test_the_defaults_need_no_remark() -> None:
    assert remarks_of() == []
    assert token_mm(load_experiment(None, ["name=a"])) == pytest.approx((6.4, 6.4, 6.4))


def test_a_crop_larger_than_the_region() -> None:
    assert remarks_of("data.sampling.crop=[48,48,28]") == []
    (remark,) = remarks_of("data.sampling.crop=[48,48,32]")  # 48 / 1.6 = 30
    assert "(z 32 of 30 voxels)" in remark
    (remark,) = remarks_of("data.sampling.crop=[104,88,24]")  # 80 / 0.8, 64 / 0.8
    assert "(x 104 of 100, y 88 of 80 voxels)" in remark
    (remark,) = remarks_of("data.sampling.crop=[48,48,32]", "model.name=cnn")
    assert "filled up with air" in remark


@pytest.mark.parametrize("spacing_mm", [(0.8, 0.8, 1.6), (0.7, 0.3, 2.5), (1.0, 1.0, 100.0)])
def test_the_region_is_rounded_as_the_volumes_are(spacing_mm: tuple[float, float, float]) -> None:
    config = load_experiment(None, ["name=a", f"data.grid.spacing_mm={list(spacing_mm)}"])
    grid = Grid((1, 1, 1), np.eye(4)).with_spacing(config.data.grid.spacing_mm, config.data.grid.roi_mm)
    assert region_voxels(config) == grid.shape


def test_large_and_long_tokens() -> None:
    assert remarks_of("model.vit.patch_size=[4,4,2]") == []
    (remark,) = remarks_of("model.vit.patch_size=[16,16,8]")
    assert remark.startswith("a token is 12.8 × 12.8 × 12.8 mm: above 8 mm")
    large, long = remarks_of("model.vit.patch_size=[8,8,8]")
    assert large.startswith("a token is 6.4 × 6.4 × 12.8 mm: above 8 mm")
    assert long == "a token is 6.4 × 6.4 × 12.8 mm: choose a model.vit.patch_size that makes it about as long as wide"
    (long,) = remarks_of("model.vit.patch_size=[4,4,4]")
    assert long.startswith("a token is 3.2 × 3.2 × 6.4 mm: choose")
    assert remarks_of("model.vit.patch_size=[16,16,8]", "model.name=cnn") == []


def test_heads_that_flash_attention_does_not_take() -> None:
    narrow = ("model.vit.dim=24", "model.vit.heads=2")
    (remark,) = remarks_of(*narrow)
    assert remark.startswith("model.vit.dim / model.vit.heads is 12: attention on a GPU is fastest")
    assert len(remarks_of(*narrow, "task=pretrain", "model.mae.decoder_dim=36", "model.mae.decoder_heads=3")) == 2
    assert remarks_of("model.vit.dim=48", "model.vit.heads=2") == []
