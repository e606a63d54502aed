"""Settings of the network that must fit together and fit the crop; part of `checks`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from iac_lightning.config.cnn_plan import MIN_EDGE, topology, total_stride, valid_lengths
from iac_lightning.config.masks import block_tokens
from iac_lightning.config.model_schema import resolved_vit
from iac_lightning.config.schema import ExperimentConfig


def model_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys involved, and what is wrong and how to mend it."""
    pretrains, of_encoder = config.task == "pretrain", config.model.mae.pretrain == "encoder"
    if config.model.name == "cnn":
        yield from _cnn_problems(config)
        if pretrains:
            yield from _patch_problems(config)
    elif config.model.name == "rule":
        yield from _rule_problems(config)
        return
    else:
        yield from _encoder_problems(config)
        yield from _patch_problems(config)
        if pretrains and of_encoder:
            yield from _mae_decoder_problems(config)
        else:
            yield from _decoder_problems(config)
        if pretrains and not of_encoder:
            yield from _linear_decoder_problems(config)
    if pretrains:
        yield from _mask_problems(config)


def _encoder_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    dim, depth, heads = resolved_vit(config.model.vit)
    if dim % heads:
        yield (
            ("model.vit.dim", "model.vit.heads", "model.vit.preset"),
            f"model.vit.dim {dim} is not a multiple of model.vit.heads {heads}: use {nearest_words(dim, heads)} "
            "as model.vit.dim, or other heads",
        )
    elif depth and config.model.vit.position != "learned" and (dim // heads) % 6:
        yield (
            ("model.vit.dim", "model.vit.heads", "model.vit.position", "model.vit.preset"),
            f"model.vit.position {config.model.vit.position} turns pairs of channels along three axes, so that a head "
            f"must be a multiple of 6 wide, and {dim} / {heads} is {dim // heads}: use "
            f"{nearest_words(dim, 6 * heads)} as model.vit.dim, or model.vit.position=learned",
        )


def _patch_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    crop, patch = config.data.sampling.crop, config.model.vit.patch_size
    uneven = [
        f"{axis} {c} is not a multiple of {p} (use {nearest_words(c, p)})"
        for axis, c, p in zip("xyz", crop, patch, strict=True)
        if c % p
    ]
    if uneven:
        yield (
            ("data.sampling.crop", "model.vit.patch_size"),
            f"data.sampling.crop {list(crop)} does not divide into model.vit.patch_size {list(patch)}: "
            + "; ".join(uneven),
        )


def _mae_decoder_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    mae = config.model.mae
    if mae.decoder_dim % mae.decoder_heads:
        yield (
            ("model.mae.decoder_dim", "model.mae.decoder_heads"),
            f"model.mae.decoder_dim {mae.decoder_dim} is not a multiple of model.mae.decoder_heads "
            f"{mae.decoder_heads}: use {nearest_words(mae.decoder_dim, mae.decoder_heads)} as "
            "model.mae.decoder_dim, or other heads",
        )


def _linear_decoder_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    if config.model.decoder.name == "linear":
        yield (
            ("model.mae.pretrain", "model.decoder.name"),
            "the linear decoder looks at each token by itself, so that nothing visible would reach a hidden one: take "
            "model.decoder.name=progressive or unetr, or model.mae.pretrain=encoder",
        )


def _mask_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    crop, patch, mae = config.data.sampling.crop, config.model.vit.patch_size, config.model.mae
    if any(c % p for c, p in zip(crop, patch, strict=True)):
        return
    grid = [c // p for c, p in zip(crop, patch, strict=True)]
    tokens, block = math.prod(grid), block_tokens(config)
    if not 1 <= round(tokens * mae.mask_ratio) <= tokens - 1:
        yield (
            ("model.mae.mask_ratio", "data.sampling.crop", "model.vit.patch_size"),
            f"of {tokens} tokens (data.sampling.crop {list(crop)} in patches of {list(patch)}) a share of "
            f"{mae.mask_ratio:g} hides {round(tokens * mae.mask_ratio)}, and at least one must be hidden and one "
            "seen: take a larger crop, smaller patches or another model.mae.mask_ratio",
        )
    whole = all(b >= g for b, g in zip(block, grid, strict=True))
    if mae.masking == "blocks" and (whole or math.prod(block) == 1):
        covers = f"all of the crop's {grid} tokens" if whole else "one token"
        yield (
            ("model.mae.mask_block_mm", "model.mae.masking", "model.vit.patch_size", "data.grid.spacing_mm"),
            f"a block of {mae.mask_block_mm:g} mm (model.mae.mask_block_mm) covers {covers}, so that blocks hide as "
            "model.mae.masking=random does: take that, or blocks of another size",
        )


def _decoder_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    decoder = config.model.decoder
    for key, wanted in (("tokeniser_skips", decoder.tokeniser_skips), ("deep_supervision", decoder.deep_supervision)):
        if wanted and decoder.name == "linear":
            yield (
                (f"model.decoder.{key}", "model.decoder.name"),
                f"the linear decoder goes from tokens to voxels in one step, and model.decoder.{key} needs several: "
                "set it to false, or take model.decoder.name=progressive or unetr",
            )
    if decoder.tokeniser_skips and config.model.vit.tokeniser != "conv":
        yield (
            ("model.decoder.tokeniser_skips", "model.vit.tokeniser"),
            f"model.vit.tokeniser {config.model.vit.tokeniser} has no feature maps for model.decoder.tokeniser_skips: "
            "set that to false, or take model.vit.tokeniser=conv",
        )
    if decoder.pyramid and not decoder.image and decoder.name != "linear":
        yield (
            ("model.decoder.pyramid", "model.decoder.image"),
            "model.decoder.pyramid continues the features of the image to coarser levels, and model.decoder.image is "
            "false: set both, or neither",
        )
    if config.model.vit.patch_size == (1, 1, 1) and decoder.name != "linear":
        yield (
            ("model.vit.patch_size", "model.decoder.name"),
            f"tokens of one voxel leave model.decoder.name {decoder.name} nothing to enlarge: take larger "
            "patches, or model.decoder.name=linear",
        )
    if decoder.channels > decoder.max_channels:
        yield (
            ("model.decoder.channels", "model.decoder.max_channels"),
            f"model.decoder.channels {decoder.channels} is above model.decoder.max_channels {decoder.max_channels}: "
            "lower the one or raise the other",
        )


def _rule_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """A rule goes by the place and counts once."""
    threshold_hu, (low, high) = config.model.rule.threshold_hu, config.data.window_hu
    if not low < threshold_hu <= high:
        yield (
            ("model.rule.threshold_hu", "data.window_hu"),
            f"model.rule.threshold_hu {threshold_hu:g} does not lie within data.window_hu [{low:g}, {high:g}], so the "
            "image cannot tell what is brighter: change the one or the other",
        )
    wanted: dict[str, tuple[Any, Any]] = {
        "task": (config.task, "segment"),
        "model.condition_on": (list(config.model.condition_on), ["position"]),
        "trainer.max_epochs": (config.trainer.max_epochs, 1),
        "trainer.devices": (config.trainer.devices, 1),
        "trainer.num_nodes": (config.trainer.num_nodes, 1),
        "optimizer.ema_decay": (config.optimizer.ema_decay, 0),
    }
    wrong = {key: pair for key, pair in wanted.items() if pair[0] != pair[1]}
    if wrong:
        yield (
            ("model.name", *wrong),
            "model.name=rule goes by the place and nothing else, and counts once, in one process: "
            + ", ".join(f"{key}={expected} (it is {found})" for key, (found, expected) in wrong.items()),
        )


def _cnn_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    cnn, crop, spacing_mm = config.model.cnn, config.data.sampling.crop, config.data.grid.spacing_mm
    if cnn.base_features > cnn.max_features:
        yield (
            ("model.cnn.base_features", "model.cnn.max_features"),
            f"model.cnn.base_features {cnn.base_features} is above model.cnn.max_features {cnn.max_features}: "
            "lower the one or raise the other",
        )
    keys = ("data.sampling.crop", "data.grid.spacing_mm", "model.cnn.max_stages")
    strides, _ = topology(crop, spacing_mm, cnn.max_stages)
    if len(strides) < 2:
        yield (
            keys,
            f"a patch of {list(crop)} voxels with model.cnn.max_stages {cnn.max_stages or 'null'} gives no U-Net of "
            f"two stages: take at least {2 * MIN_EDGE} voxels along two axes, and two stages or more",
        )
    uneven = [
        f"{axis} {crop[k]} is not a multiple of {total} "
        f"(use {' or '.join(map(str, valid_lengths(crop, spacing_mm, cnn.max_stages, k)))})"
        for k, (axis, total) in enumerate(zip("xyz", total_stride(strides), strict=True))
        if crop[k] % total
    ]
    if uneven:
        yield (
            keys,
            f"the CNN planned for a patch of {list(crop)} voxels halves its axes beyond what they divide by: "
            + "; ".join(uneven),
        )


def nearest_words(value: int, step: int) -> str:
    """The multiples of `step` on both sides of `value`, as words."""
    below = value // step * step
    return f"{below} or {below + step}" if below else str(step)
