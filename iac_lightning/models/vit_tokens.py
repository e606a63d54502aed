"""Between voxels and tokens: grids, patches and the steps that lead from one to the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Factor = tuple[int, int, int]


def token_grid(crop: Sequence[int], patch_size: Sequence[int]) -> tuple[int, int, int]:
    """Tokens along x, y, z.

    Raises:
        ValueError: when the patch size does not divide the crop.
    """
    if any(p < 1 or c < p or c % p for c, p in zip(crop, patch_size, strict=True)):
        raise ValueError(f"a crop of {tuple(crop)} voxels is not made of whole patches of {tuple(patch_size)}")
    x, y, z = (c // p for c, p in zip(crop, patch_size, strict=True))
    return x, y, z


def patchify(image: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Cut an image into patches.

    Args:
        image: `[B, C, X, Y, Z]`.
        patch_size: voxels per patch along x, y, z.

    Returns:
        `[B, N, C · px · py · pz]`; tokens run with z fastest, the values of a patch in the order (C, x, y, z).
    """
    b, c, *crop = image.shape
    (gx, gy, gz), (px, py, pz) = token_grid(crop, patch_size), patch_size
    cut = image.reshape(b, c, gx, px, gy, py, gz, pz).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return cut.reshape(b, gx * gy * gz, c * px * py * pz)


def unpatchify(patches: Tensor, grid: Sequence[int], patch_size: Sequence[int]) -> Tensor:
    """The inverse of `patchify`: `[B, N, C · px · py · pz]` → `[B, C, X, Y, Z]` on a grid of (gx, gy, gz) tokens."""
    b = patches.shape[0]
    (gx, gy, gz), (px, py, pz) = grid, patch_size
    cut = patches.reshape(b, gx, gy, gz, -1, px, py, pz).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return cut.reshape(b, -1, gx * px, gy * py, gz * pz)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Choose tokens: `[B, N, D]` and `[B, K]` → `[B, K, D]`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def spread_tokens(visible: Tensor, grid: Sequence[int], factor: Sequence[int]) -> Tensor:
    """Spread values of tokens over the cells that they cover.

    Args:
        visible: `[B, N]`.
        grid: tokens along x, y, z.
        factor: cells of a token along x, y, z.

    Returns:
        `[B, 1, gx · fx, gy · fy, gz · fz]`.
    """
    (gx, gy, gz), (fx, fy, fz) = grid, factor
    cells = visible.reshape(-1, gx, 1, gy, 1, gz, 1).expand(-1, -1, fx, -1, fy, -1, fz)
    return cells.reshape(-1, 1, gx * fx, gy * fy, gz * fz)


def mask_of(keep: Tensor, n_tokens: int, dtype: torch.dtype) -> Tensor:
    """1 for the tokens of `keep` `[B, K]`, 0 for the others, `[B, N]`."""
    return torch.zeros(len(keep), n_tokens, dtype=dtype, device=keep.device).scatter_(1, keep, 1.0)


def upsampling_steps(patch_size: Sequence[int]) -> list[Factor]:
    """Factors per axis that take tokens back to voxels, from coarse to fine.

    Each axis is split into primes, large ones first (they are cheap where the grid is coarse). An axis with fewer
    steps than the others has them first: a token of (8, 8, 4) voxels is usually as long as it is wide in millimetres,
    and stays so until z has reached its resolution, as in nnU-Net's plans. (8, 8, 4) → (2, 2, 2), (2, 2, 2),
    (2, 2, 1); (6, 6, 4) → (3, 3, 2), (2, 2, 2).
    """
    per_axis = [_primes(p) for p in patch_size]
    steps = max(map(len, per_axis))
    x, y, z = (primes + [1] * (steps - len(primes)) for primes in per_axis)
    return list(zip(x, y, z, strict=True))


def _primes(number: int) -> list[int]:
    """Prime factors, largest first."""
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found[::-1]
