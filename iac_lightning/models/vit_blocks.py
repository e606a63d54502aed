"""Transformer blocks, with the options that came after the first vision transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iac_lightning.models.vit_positions import rotate


class Attention(nn.Module):
    """Multi-head self-attention on `scaled_dot_product_attention`.

    `[B, N, D]` → `[B, N − first, D]`: all tokens are looked at, those from `first` on are computed.

    Args:
        dim: width of a token.
        heads: attention heads.
        key_bias: let keys have a bias. Without rotations and norms of the keys the softmax does not see it; EVA
            (Fang et al. 2023) has none.
        qk_norm: normalise queries and keys of each head (Dehghani et al. 2023).
        inner_norm: normalise what the heads give before it is projected (NormFormer, Shleifer et al. 2021; EVA-02).

    Attributes:
        silenced: each token's own value is projected, and none is mixed with others': what is left of a network
            without attention.
    """

    def __init__(
        self, dim: int, heads: int, *, key_bias: bool = True, qk_norm: bool = False, inner_norm: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} attention heads do not divide a width of {dim}")
        self.heads = heads
        self.silenced = False
        self.qkv = nn.Linear(dim, 3 * dim, bias=key_bias)
        self.query_bias = None if key_bias else nn.Parameter(torch.zeros(dim))
        self.value_bias = None if key_bias else nn.Parameter(torch.zeros(dim))
        self.query_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.norm = nn.LayerNorm(dim) if inner_norm else nn.Identity()
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor, first: int = 0, rotary: Tensor | None = None) -> Tensor:
        """Attend from the tokens from `first` on to all.

        Args:
            x: `[B, N, D]`.
            first: of the tokens to compute.
            rotary: `[1 or B, N, D / heads]`, as `vit_positions.rotate` takes it.
        """
        b, n, d = x.shape
        q, k, v = self._linear(x).view(b, n, 3, self.heads, d // self.heads).unbind(2)
        if self.silenced:
            mixed = v[:, first:]
        else:
            q, k = self.query_norm(q[:, first:]), self.key_norm(k)
            if rotary is not None:
                q, k = rotate(q, rotary[:, first:]), rotate(k, rotary)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.projection(self.norm(mixed.reshape(b, n - first, d)))

    def _linear(self, x: Tensor) -> Tensor:
        """Queries, keys and values, `[B, N, 3 · D]`."""
        if self.query_bias is None or self.value_bias is None:
            whole: Tensor = self.qkv(x)
            return whole
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        return F.linear(x, self.qkv.weight, bias)


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020) with a norm inside, as EVA-02 (Fang et al. 2023): ``W(norm(silu(G x) · V x))``.

    `[B, N, D]` → `[B, N, D]`. Gate and value are one matrix, the gate first.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_and_value = nn.Linear(dim, 2 * hidden)
        self.norm = nn.LayerNorm(hidden)
        self.projection = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """The branch, without the residual."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        branch: Tensor = self.projection(self.norm(F.silu(gate) * value))
        return branch


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth, `[B, N, D]` → `[B, N − first, D]`.

    Args:
        dim: width of a token.
        heads: attention heads.
        mlp_ratio: width of the MLP over `dim`.
        drop_path: probability that a sample skips a branch in training (Huang et al. 2016); draws from torch's global
            generator.
        mlp: ``gelu`` or ``swiglu``.
        layer_scale: start of a learned factor of each channel of each branch (LayerScale, Touvron et al. 2021); None:
            no factor.
        key_bias: as `Attention`.
        qk_norm: as `Attention`.
        inner_norm: as `Attention`.

    Raises:
        ValueError: for an unknown MLP, or heads that do not divide the width.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        *,
        mlp: str = "gelu",
        layer_scale: float | None = None,
        key_bias: bool = True,
        qk_norm: bool = False,
        inner_norm: bool = False,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        hidden = round(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, key_bias=key_bias, qk_norm=qk_norm, inner_norm=inner_norm)
        self.norm2 = nn.LayerNorm(dim)
        if mlp not in ("gelu", "swiglu"):
            raise ValueError(f"{mlp!r} is none of the MLPs gelu, swiglu")
        self.mlp: nn.Module = (
            SwiGLU(dim, hidden)
            if mlp == "swiglu"
            else nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        )
        self.scale1 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.scale2 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor, first: int = 0, rotary: Tensor | None = None) -> Tensor:
        """Tokens from `first` on, after attention to all and the MLP."""
        x = x[:, first:] + self._branch(self.attention(self.norm1(x), first, rotary), self.scale1)
        return x + self._branch(self.mlp(self.norm2(x)), self.scale2)

    def _branch(self, branch: Tensor, scale: Tensor | None) -> Tensor:
        if scale is not None:
            branch = branch * scale
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


def initialise_depth_scaled(blocks: nn.ModuleList) -> None:
    """BEiT's start of blocks (Bao et al. 2022), which EVA-02 and Primus keep.

    Weights are normal with a deviation of 0.02 (BEiT cuts them at ±2: never), biases zero. The last layer of both
    branches of block k = 1, 2, … is divided by √(2k): what the blocks add up to does not grow with their number.
    """
    for number, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        for module in block.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        mlp = block.mlp.projection if isinstance(block.mlp, SwiGLU) else block.mlp[2]  # type: ignore[index]
        for last in (block.attention.projection, mlp):
            last.weight.data.div_(math.sqrt(2 * number))


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    *,
    recompute: bool,
    depths: Sequence[int] = (),
    last_from: int = 0,
    rotary: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run blocks one after another, and collect what comes out at some depths (1 = after the first block).

    With `recompute`, activations inside each block are computed again in the backward pass instead of stored. The last
    block computes only the tokens from `last_from` on. `rotary` is as `Attention` takes it.
    """
    features: dict[int, Tensor] = {0: x}
    for depth, block in enumerate(blocks, start=1):
        first = last_from if depth == len(blocks) else 0
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, first, rotary, use_reentrant=False)
        else:
            x = block(x, first, rotary)
        if depth in depths:
            features[depth] = x
    return x, [features[d] for d in depths]
