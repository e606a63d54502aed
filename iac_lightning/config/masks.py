"""What a pre-training hides, in tokens."""

from __future__ import annotations

from iac_lightning.config.schema import ExperimentConfig


def block_tokens(config: ExperimentConfig) -> tuple[int, int, int]:
    """Tokens of a block along x, y, z: as many as come nearest to `model.mae.mask_block_mm`, one at least."""
    edges_mm = [n * mm for n, mm in zip(config.model.vit.patch_size, config.data.grid.spacing_mm, strict=True)]
    x, y, z = (max(1, round(config.model.mae.mask_block_mm / edge_mm)) for edge_mm in edges_mm)
    return x, y, z
