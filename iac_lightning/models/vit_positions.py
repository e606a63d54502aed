"""How a token of a 3D grid knows its place: a learned embedding that starts as sines and cosines, and rotations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_position_embedding(grid: Sequence[int], dim: int) -> Tensor:
    """Fixed sin-cos embedding of a 3D grid (He et al. 2022, extended to three axes).

    Each axis gets ``dim // 6`` frequencies 10000^(−k/n), as sines and cosines; what remains of a width that six does
    not divide is zero (it is learned where the embedding initialises a parameter).

    Returns:
        `[N, dim]` float32, z fastest.
    """
    n = dim // 6
    frequency = 10000.0 ** (-torch.arange(n, dtype=torch.float64) / max(n, 1))
    index = torch.meshgrid(*(torch.arange(g, dtype=torch.float64) for g in grid), indexing="ij")
    angle = [axis.reshape(-1, 1) * frequency for axis in index]
    parts = [wave for a in angle for wave in (a.sin(), a.cos())]
    return F.pad(torch.cat(parts, dim=1), (0, dim - 6 * n)).float()


def resize_position_embedding(weights: Tensor, old_grid: Sequence[int], new_grid: Sequence[int]) -> Tensor:
    """Position embedding for another number of tokens, by trilinear interpolation (corners not aligned).

    Args:
        weights: `[N, D]` for `old_grid`, z fastest.
        old_grid: tokens along x, y, z that the weights were made for.
        new_grid: tokens wanted along x, y, z.

    Returns:
        `[N', D]`; the very weights when the grids are equal.
    """
    if tuple(old_grid) == tuple(new_grid):
        return weights
    gx, gy, gz = old_grid
    volume = weights.reshape(gx, gy, gz, -1).permute(3, 0, 1, 2)[None]
    resized = F.interpolate(volume.float(), size=tuple(new_grid), mode="trilinear", align_corners=False)
    return resized[0].flatten(1).T.contiguous().to(weights.dtype)


def rotary_table(grid: Sequence[int], head_width: int) -> Tensor:
    """Cosines and sines of axial rotary embeddings (Su et al. 2021) of a 3D grid.

    A head has `head_width` / 2 pairs of channels, a third of them for each axis; pair k of an axis turns by
    ``index · 10000^(−k/n)``, n = `head_width` / 6. That is what EVA-02 (Fang et al. 2023) does with two axes and Primus
    (Wald et al. 2025) with three. Only differences of positions reach the attention, so a table serves any crop.

    Returns:
        `[N, head_width]` float32, z fastest: the cosine of each pair, then the sines.

    Raises:
        ValueError: when three axes do not share out the pairs of a head.
    """
    if head_width % 6:
        raise ValueError(f"rotary embeddings of three axes need heads of a multiple of 6, not {head_width} wide")
    n = head_width // 6
    frequency = 10000.0 ** (-torch.arange(n, dtype=torch.float64) / n)
    index = torch.meshgrid(*(torch.arange(g, dtype=torch.float64) for g in grid), indexing="ij")
    angle = torch.cat([axis.reshape(-1, 1) * frequency for axis in index], dim=1)
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs of channels of each head.

    Args:
        x: `[B, N, H, W]`; channel i and channel i + W / 2 are a pair.
        table: cosines and sines `[1 or B, N, W]` (`rotary_table`).
    """
    cos, sin = table[:, :, None].chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
