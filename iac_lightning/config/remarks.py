"""What settings may be, and somebody should know of: `iac plan` says it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from iac_lightning.config.model_schema import resolved_vit
from iac_lightning.config.schema import ExperimentConfig

FLASH_WIDTH = 8
"""Flash attention takes heads whose width is a multiple of this (PyTorch pads others, or takes a slower kernel)."""
LARGEST_TOKEN_MM = 8.0
"""Longest edge of a token that passes without a remark: lesions are of 1 to 5 mm."""
LONGEST_OVER_SHORTEST = 1.5
"""How far a token's edges may differ without a remark."""


def remarks(config: ExperimentConfig) -> list[str]:
    """What costs speed on a GPU or accuracy anywhere."""
    found = [*_crop_remarks(config)]
    if config.model.name == "vit":
        found += [*_token_remarks(config), *_head_remarks(config)]
    return found


def token_mm(config: ExperimentConfig) -> tuple[float, float, float]:
    """Edges of a token along x, y, z."""
    x, y, z = (p * s for p, s in zip(config.model.vit.patch_size, config.data.grid.spacing_mm, strict=True))
    return x, y, z


def region_voxels(config: ExperimentConfig) -> tuple[int, int, int]:
    """The region of interest on the common grid (`Grid.with_spacing` rounds the same way)."""
    grid = config.data.grid
    x, y, z = (max(1, math.ceil(m / s - 1e-6)) for m, s in zip(grid.roi_mm, grid.spacing_mm, strict=True))
    return x, y, z


def _crop_remarks(config: ExperimentConfig) -> Iterator[str]:
    crop = config.data.sampling.crop
    over = [
        f"{axis} {c} of {whole}" for axis, c, whole in zip("xyz", crop, region_voxels(config), strict=True) if c > whole
    ]
    if over:
        yield (
            f"data.sampling.crop exceeds the region of interest ({', '.join(over)} voxels): every patch and every "
            "window is filled up with air; take a smaller crop, or a larger data.grid.roi_mm"
        )


def _token_remarks(config: ExperimentConfig) -> Iterator[str]:
    edges = token_mm(config)
    words = " × ".join(f"{edge:g}" for edge in edges)
    if max(edges) > LARGEST_TOKEN_MM:
        yield (
            f"a token is {words} mm: above {LARGEST_TOKEN_MM:g} mm it is larger than almost every lesion; about 3 to "
            "6 mm suit (model.vit.patch_size, data.grid.spacing_mm)"
        )
    if max(edges) > LONGEST_OVER_SHORTEST * min(edges):
        yield f"a token is {words} mm: choose a model.vit.patch_size that makes it about as long as wide"


def _head_remarks(config: ExperimentConfig) -> Iterator[str]:
    dim, _, heads = resolved_vit(config.model.vit)
    widths = {"model.vit.dim / model.vit.heads": (dim, heads)}
    if config.task == "pretrain":
        mae = config.model.mae
        widths["model.mae.decoder_dim / model.mae.decoder_heads"] = (mae.decoder_dim, mae.decoder_heads)
    for names, (width, n) in widths.items():
        if width // n % FLASH_WIDTH:
            yield f"{names} is {width // n}: attention on a GPU is fastest with heads of a multiple of {FLASH_WIDTH}"
