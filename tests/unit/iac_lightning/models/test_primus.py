"""Encoders of Primus in this project's names: computed by timm's EVA and by ours, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iac_lightning.models.primus import PrimusLayout, from_primus, to_primus
from iac_lightning.models.vit import ViTEncoder
from tests.unit.iac_lightning.models import eva

PATCH, GRID = (4, 2, 3), (2, 3, 4)  # x, y, z
CROP = tuple(p * g for p, g in zip(PATCH, GRID, strict=True))
V1: dict[str, Any] = {}
V3: dict[str, Any] = {"layer_scale": 0.1, "inner_norm": True}


def encoder(registers: int = 0, **options: Any) -> ViTEncoder:
    settings: dict[str, Any] = {"dim": 36, "depth": 2, "heads": 2, "mlp": "swiglu", "mlp_ratio": 8 / 3}
    return ViTEncoder(crop=CROP, patch_size=PATCH, position="both", registers=registers, **(settings | options)).eval()


@pytest.mark.parametrize("options", [V1, V3, {"mlp": "gelu"}])
@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("sequence", [(0, 1, 2), (1, 0, 2)])
def test_ours_computes_what_theirs_does(
    options: dict[str, Any], registers: int, sequence: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    peer = eva.primus(
        PATCH[::-1], GRID[::-1], 36, 2, 2, registers, sequence, gated="mlp" not in options, v3=options is V3
    )
    ours = encoder(registers, **options)
    layout = PrimusLayout(2, GRID[::-1], sequence=sequence)
    ours.load_state_dict({n.removeprefix("encoder."): t for n, t in from_primus(peer.state_dict(), layout).items()})
    image = torch.randn(2, 1, *CROP)
    theirs = peer(image.permute(0, 1, 4, 3, 2))  # arrays of nnU-Net run z, y, x
    torch.testing.assert_close(ours(image).tokens.reshape(2, *GRID, 36), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("options", [V1, V3, {"mlp": "gelu", "position": "rope"}])
def test_there_and_back_is_the_same(options: dict[str, Any], axes: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    state = (
        {f"encoder.{name}": torch.randn_like(t) for name, t in encoder(2, **options).state_dict().items()}
        if ("position" not in options)
        else {f"encoder.{name}": torch.randn_like(t) for name, t in rope_encoder(options).state_dict().items()}
    )
    grid = tuple(GRID[axis] for axis in axes)
    layout = PrimusLayout(2, grid, axes, (1, 0, 2))
    back = from_primus(to_primus(state | {"decoder.head.bias": torch.zeros(1)}, layout, PATCH), layout)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def rope_encoder(options: dict[str, Any]) -> ViTEncoder:
    return ViTEncoder(crop=CROP, patch_size=PATCH, dim=36, depth=2, heads=2, mlp=options["mlp"], position="rope")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"eva.blocks.1.attn.q_norm.weight": torch.ones(18)}, "eva.blocks.1.attn.q_norm.weight has no place"),
        ({"down_projection.stem.conv.weight": torch.ones(1)}, "down_projection.stem.conv.weight has no place"),
        ({"eva.blocks.0.attn.q_proj.bias": None}, "attn.q_proj.bias is missing"),
        ({"down_projection.proj.weight": None}, "down_projection.proj.weight is missing"),
    ],
)
def test_a_tensor_too_many_or_too_few_is_named(change: dict[str, torch.Tensor | None], told: str) -> None:
    layout = PrimusLayout(2, GRID[::-1])
    state = {f"encoder.{name}": t for name, t in encoder().state_dict().items()}
    theirs = {n: t for n, t in (to_primus(state, layout, PATCH) | change).items() if t is not None}
    with pytest.raises(ValueError, match=told):
        from_primus(theirs, layout)
