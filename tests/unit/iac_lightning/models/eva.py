"""timm's EVA, the independent implementation that blocks, rotations and exchanged checkpoints are held against."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


@cache
def load() -> SimpleNamespace:
    """`EvaBlock` and `RotaryEmbeddingCat`; skips where timm is not installed (`make setup-dev` does).

    timm imports torchvision and its own data sets, which blocks do not need: empty modules stand in their place while
    it is imported, and no longer.
    """
    found = importlib.util.find_spec("timm")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("timm is not installed")
    root = found.submodule_search_locations[0]
    before = {name: m for name, m in sys.modules.items() if name.partition(".")[0] in ("timm", "torchvision")}
    try:
        _stand_in("timm", [root], __version__="")
        _stand_in("timm.models", [f"{root}/models"])
        _stand_in("timm.data", **dict.fromkeys(_MEANS))
        for name in ("torchvision", "torchvision.ops"):
            _stand_in(name, [])
        _stand_in("torchvision.ops.misc", FrozenBatchNorm2d=torch.nn.Identity)
        from timm.layers import RotaryEmbeddingCat
        from timm.models.eva import EvaBlock
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        sys.modules.update(before)
    return SimpleNamespace(EvaBlock=EvaBlock, RotaryEmbeddingCat=RotaryEmbeddingCat)


_MEANS = ("IMAGENET_DEFAULT_MEAN", "IMAGENET_DEFAULT_STD", "OPENAI_CLIP_MEAN", "OPENAI_CLIP_STD")


def _stand_in(name: str, path: list[str] | None = None, **content: Any) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    if path is not None:
        module.__path__ = path
    sys.modules[name] = module


class _Part(torch.nn.Module):
    """A module with parts by name, so that their tensors have the names of Primus."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def primus(
    patch: tuple[int, ...],
    grid: tuple[int, ...],
    dim: int,
    depth: int,
    heads: int,
    registers: int = 0,
    sequence: tuple[int, ...] = (0, 1, 2),
    *,
    gated: bool = True,
    v3: bool = False,
) -> torch.nn.Module:
    """The encoder of Primus, put together from timm's parts and named as there, with random weights.

    `patch` and `grid` run along the axes of its arrays, `sequence` is the order in which they become tokens.
    """
    timm = load()
    blocks = torch.nn.ModuleList(
        timm.EvaBlock(
            dim=dim,
            num_heads=heads,
            qkv_fused=False,
            mlp_ratio=8 / 3,
            swiglu_mlp=gated,
            scale_mlp=gated,
            scale_attn_inner=v3,
            init_values=0.1 if v3 else None,
            num_prefix_tokens=registers,
            norm_layer=torch.nn.LayerNorm,
        )
        for _ in range(depth)
    )
    n = registers + grid[0] * grid[1] * grid[2]
    parts = _Part(pos_embed=torch.nn.Parameter(torch.empty(1, n, dim)), blocks=blocks, norm=torch.nn.LayerNorm(dim))
    network = _Primus(eva=parts, down_projection=_Part(proj=torch.nn.Conv3d(1, dim, patch, patch)))  # type: ignore[arg-type]
    network.register_tokens = torch.nn.Parameter(torch.empty(1, registers, dim)) if registers else None
    network.places = [grid[axis] for axis in sequence]
    network.sequence = sequence
    network.rope = timm.RotaryEmbeddingCat(dim // heads * 2 // 3, in_pixels=False).get_embed(network.places)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


class _Primus(_Part):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Tokens on the grid of x, y, z, of an image whose axes run z, y, x."""
        features: Any = self.down_projection.proj(image)  # type: ignore[union-attr]
        x = features.permute(0, *(2 + axis for axis in self.sequence), 1).flatten(1, 3)
        r = 0 if self.register_tokens is None else self.register_tokens.shape[1]
        if r:
            x = torch.cat([self.register_tokens.expand(len(x), -1, -1), x], dim=1)
        x = x + self.eva.pos_embed
        for block in self.eva.blocks:
            x = block(x, rope=self.rope)
        cells = self.eva.norm(x)[:, r:].reshape(len(x), *self.places, -1)
        back = [self.sequence.index(axis) for axis in (2, 1, 0)]
        return cells.permute(0, *(1 + axis for axis in back), 4)
