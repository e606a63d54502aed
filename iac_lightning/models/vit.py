"""3D vision transformer encoder: any patch size per axis, any crop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from iac_lightning.models.condition import Film
from iac_lightning.models.vit_blocks import Block, initialise_depth_scaled, initialise_linear, run_blocks
from iac_lightning.models.vit_positions import resize_position_embedding, rotary_table, sincos_position_embedding
from iac_lightning.models.vit_tokeniser import ConvTokeniser
from iac_lightning.models.vit_tokens import gather_tokens, patchify, token_grid

TOKENISERS = ("linear", "conv")
POSITIONS = ("learned", "rope", "both")
INITIALISATIONS = ("xavier", "depth_scaled")


class Encoded(NamedTuple):
    """What an encoder gives.

    Attributes:
        tokens: `[B, K, D]` of the last block, normalised.
        features: `[B, K, D]` after each of the blocks that were asked for, not normalised.
        details: feature maps of the conv tokeniser, finest first, `[B, C_i, X_i, Y_i, Z_i]`, without the last, which
            is the tokens; none of a linear tokeniser.
    """

    tokens: Tensor
    features: list[Tensor]
    details: list[Tensor]


class ViTEncoder(nn.Module):
    """Vision transformer encoder without class token.

    The linear tokeniser maps flattened patches (a convolution with kernel = stride = patch), so that only the patches
    that are kept are embedded; the other one is `ConvTokeniser`. The learned position embedding starts as sin-cos.

    Args:
        crop: voxels along x, y, z that the position embedding is made for.
        patch_size: voxels that a token covers along x, y, z.
        in_channels: channels of the image.
        dim: width of a token.
        depth: number of blocks; 0: tokens as the tokeniser made them, normalised.
        heads: attention heads; divides `dim`.
        mlp_ratio: width of the MLP over `dim`.
        drop_path: stochastic depth rate of the last block; from 0 rising linearly.
        activation_checkpointing: recompute each block's activations in the backward pass.
        tokeniser: ``linear`` (Dosovitskiy et al. 2021) or ``conv``.
        tokeniser_channels: of the conv tokeniser at full resolution.
        position: ``learned``, ``rope`` (`rotary_table`; wants heads of a multiple of 6) or ``both``.
        mlp: ``gelu`` or ``swiglu``, of each block.
        layer_scale: start of the factor of each branch; None: no factor.
        qk_norm: normalise queries and keys of each head.
        inner_norm: normalise what the heads of a block give before it is projected.
        registers: tokens of no place that go through the blocks beside the others (Darcet et al. 2024).
        initialisation: of the blocks: ``xavier`` or ``depth_scaled`` (`initialise_depth_scaled`).
        condition_on: what the encoder is told beside the image, by a `Film` of the tokens as the tokeniser made them.

    Attributes:
        grid: tokens along x, y, z.
        n_tokens: their number.
        condition_on: what it is told; its decoder is told the same.
        patch_voxels: values that a token covers, channels included.
        tokeniser: the `ConvTokeniser`, or None with a linear one.
        detail_channels: channels of each of `Encoded.details`.

    Raises:
        ValueError: when the patch does not divide the crop, the heads do not divide the width, or an option is unknown.
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
        tokeniser: str = "linear",
        tokeniser_channels: int = 16,
        position: str = "learned",
        mlp: str = "gelu",
        layer_scale: float | None = None,
        qk_norm: bool = False,
        inner_norm: bool = False,
        registers: int = 0,
        initialisation: str = "xavier",
        condition_on: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for word, words in ((tokeniser, TOKENISERS), (position, POSITIONS), (initialisation, INITIALISATIONS)):
            if word not in words:
                raise ValueError(f"{word!r} is none of {', '.join(words)}")
        px, py, pz = patch_size
        self.grid = token_grid(crop, patch_size)
        self.n_tokens = math.prod(self.grid)
        self.patch_size = (px, py, pz)
        self.in_channels = in_channels
        self.patch_voxels = in_channels * px * py * pz
        self.condition_on = tuple(condition_on)
        self.dim = dim
        self.activation_checkpointing = activation_checkpointing
        linear = tokeniser == "linear"
        self.patch_embedding = nn.Linear(self.patch_voxels, dim) if linear else None
        self.tokeniser = None if linear else ConvTokeniser(patch_size, in_channels, tokeniser_channels, dim)
        learned = position != "rope"
        self.position_embedding = nn.Parameter(sincos_position_embedding(self.grid, dim)) if learned else None
        self.n_registers = registers if depth else 0
        self.registers = nn.Parameter(torch.empty(registers, dim)) if self.n_registers else None
        # Rotations and norms would make the keys' bias count, which EVA and Primus do not have.
        key_bias = position == "learned" and not qk_norm
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                mlp_ratio,
                drop_path * i / max(depth - 1, 1),
                mlp=mlp,
                layer_scale=layer_scale,
                key_bias=key_bias,
                qk_norm=qk_norm,
                inner_norm=inner_norm,
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head_width = dim // heads
        self.rotary: Tensor | None
        rotates = position != "learned" and depth > 0
        self.register_buffer("rotary", self._rotary_table(self.grid) if rotates else None, persistent=False)
        self.apply(initialise_linear)
        if initialisation == "depth_scaled":
            initialise_depth_scaled(self.blocks)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=0.02)
        self.film = Film(condition_on, dim) if condition_on else None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def detail_channels(self) -> list[int]:
        """Channels of the conv tokeniser's levels above the tokens', finest first."""
        return [] if self.tokeniser is None else self.tokeniser.channels[:-1]

    def forward(
        self,
        image: Tensor,
        keep: Tensor | None = None,
        return_depths: Sequence[int] = (),
        condition: Tensor | None = None,
    ) -> Encoded:
        """Encode an image.

        Args:
            image: `[B, C, X, Y, Z]`. Another crop than the one the encoder was made for is welcome as long as it is
                whole patches: the position embedding is resized.
            keep: `[B, K]` indices of the tokens to encode; all when None. What the others cover reaches none of them.
            return_depths: after which blocks to return features as well (1 = first block; 0 = embedded patches).
            condition: `[B, C]`, what the encoder is told beside the image.
        """
        grid = token_grid(image.shape[2:], self.patch_size)
        x, details = self._embed(image, keep)
        if self.film is not None:
            x = self.film(x, condition)
        if self.position_embedding is not None:
            position = resize_position_embedding(self.position_embedding, self.grid, grid)
            x = x + (position if keep is None else position[keep])
        if self.registers is not None:
            x = torch.cat([self.registers.expand(len(x), -1, -1), x], dim=1)
        recompute = self.activation_checkpointing and self.training
        x, features = run_blocks(
            self.blocks,
            x,
            recompute=recompute,
            depths=return_depths,
            last_from=self.n_registers,
            rotary=self._rotary_of(grid, keep),
        )
        return Encoded(self.norm(x), [f[:, -x.shape[1] :] for f in features], details)

    def _embed(self, image: Tensor, keep: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Tokens without a place, and the tokeniser's details."""
        if self.tokeniser is not None:
            return self.tokeniser(image, keep)
        assert self.patch_embedding is not None
        patches = patchify(image, self.patch_size)
        return self.patch_embedding(patches if keep is None else gather_tokens(patches, keep)), []

    def _rotary_table(self, grid: Sequence[int]) -> Tensor:
        """Rotations of the registers, which do not turn, and of the tokens, `[1, R + N, head width]`."""
        still = rotary_table((1, 1, 1), self.head_width).expand(self.n_registers, -1)
        return torch.cat([still, rotary_table(grid, self.head_width)])[None]

    def _rotary_of(self, grid: tuple[int, int, int], keep: Tensor | None) -> Tensor | None:
        """Rotations of the registers and of the tokens that are encoded, `[1 or B, R + K, head width]`."""
        if self.rotary is None:
            return None
        table = self.rotary if grid == self.grid else self._rotary_table(grid).to(self.rotary)
        if keep is None:
            return table
        r = self.n_registers
        kept = table[0, r:][keep]
        return torch.cat([table[:, :r].expand(len(keep), -1, -1), kept], dim=1) if r else kept
