"""3D vision transformer encoder: any patch size per axis, any crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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


class Attention(nn.Module):
    """Multi-head self-attention on `scaled_dot_product_attention`.

    `[B, N, D]` → `[B, N − first, D]`: all tokens are looked at, those from `first` on are computed.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} attention heads do not divide a width of {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Attend from the tokens from `first` on to all."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q[:, :, first:], k, v)
        return self.projection(mixed.transpose(1, 2).reshape(b, n - first, d))


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth, `[B, N, D]` → `[B, N − first, D]`.

    Args:
        dim: width of a token.
        heads: attention heads.
        mlp_ratio: width of the MLP over `dim`.
        drop_path: probability that a sample skips a branch in training (Huang et al. 2016); draws from torch's global
            generator.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        hidden = round(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Tokens from `first` on, after attention to all and the MLP."""
        x = x[:, first:] + self._drop(self.attention(self.norm1(x), first))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep).div_(keep)


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear layers (He et al. 2022); use with `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, *, recompute: bool, depths: Sequence[int] = (), last_from: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Run blocks one after another, and collect what comes out at some depths (1 = after the first block).

    With `recompute`, activations inside each block are computed again in the backward pass instead of stored. The last
    block computes only the tokens from `last_from` on.
    """
    features: dict[int, Tensor] = {0: x}
    for depth, block in enumerate(blocks, start=1):
        first = last_from if depth == len(blocks) else 0
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, first, use_reentrant=False)
        else:
            x = block(x, first)
        if depth in depths:
            features[depth] = x
    return x, [features[d] for d in depths]


class ViTEncoder(nn.Module):
    """Vision transformer encoder without class token.

    The patch embedding is a linear map of flattened patches (a convolution with kernel = stride = patch), so that
    only the patches that are kept are embedded. The position embedding is a parameter that starts as sin-cos.

    Args:
        crop: voxels along x, y, z that the position embedding is made for.
        patch_size: voxels that a token covers along x, y, z.
        in_channels: channels of the image.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads; divides `dim`.
        mlp_ratio: width of the MLP over `dim`.
        drop_path: stochastic depth rate of the last block; from 0 rising linearly.
        activation_checkpointing: recompute each block's activations in the backward pass.

    Attributes:
        grid: tokens along x, y, z.
        n_tokens: their number.

    Raises:
        ValueError: when the patch does not divide the crop or the heads do not divide the width.
    """

    def __init__(
        self,
        *,
        crop: Sequence[int],
        patch_size: Sequence[int],
        in_channels: int = 1,
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        px, py, pz = patch_size
        self.grid = token_grid(crop, patch_size)
        self.n_tokens = self.grid[0] * self.grid[1] * self.grid[2]
        self.patch_size = (px, py, pz)
        self.in_channels = in_channels
        self.dim = dim
        self.activation_checkpointing = activation_checkpointing
        self.patch_embedding = nn.Linear(in_channels * px * py * pz, dim)
        self.position_embedding = nn.Parameter(sincos_position_embedding(self.grid, dim))
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim)
        self.apply(initialise_linear)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def forward(
        self, image: Tensor, keep: Tensor | None = None, return_depths: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode an image.

        Args:
            image: `[B, C, X, Y, Z]`. Another crop than the one the encoder was made for is welcome as long as it is
                whole patches: the position embedding is resized.
            keep: `[B, K]` indices of the tokens to encode; all when None.
            return_depths: after which blocks to return features as well (1 = first block; 0 = embedded patches).

        Returns:
            Normalised tokens of the last block `[B, K, D]`, and the features asked for, `[B, K, D]` each (not
            normalised).
        """
        patches = patchify(image, self.patch_size)
        grid = token_grid(image.shape[2:], self.patch_size)
        position = resize_position_embedding(self.position_embedding, self.grid, grid)
        if keep is None:
            x = self.patch_embedding(patches) + position
        else:
            x = self.patch_embedding(gather_tokens(patches, keep)) + position[keep]
        recompute = self.activation_checkpointing and self.training
        x, features = run_blocks(self.blocks, x, recompute=recompute, depths=return_depths)
        return self.norm(x), features
