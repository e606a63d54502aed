"""The encoder of Primus (Wald et al. 2025), as nnssl and nnU-Net store it, in this project's names and back.

Both compute the same: patches, a position embedding, blocks of EVA-02 with axial rotary embeddings, a norm. They differ
in names, in the order of axes (arrays there run z, y, x) and in the channels that a rotation pairs (neighbours there,
half a head apart here), so that tensors are permuted and none is changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = re.compile(r"blocks\.\d+\.")
_LAYERS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.norm": "attn.norm",
    "attention.projection": "attn.proj",
    "mlp.norm": "mlp.norm",
}
_GATED, _PLAIN = {"mlp.projection": "mlp.fc2"}, {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
"""Layers of a block here and there, of all blocks and of those with either MLP."""
_SCALES = {"scale1": "gamma_1", "scale2": "gamma_2"}
_PATCHES, _PLACE, _REGISTERS = "down_projection.proj", "eva.pos_embed", "register_tokens"


@dataclass(frozen=True)
class PrimusLayout:
    """How the tensors of a Primus lie.

    Attributes:
        heads: attention heads.
        grid: tokens along the axes of its arrays.
        axes: which of x, y, z (0, 1, 2) each axis of its arrays is; z, y, x as nnU-Net reads scans.
        sequence: in which order its axes make a sequence of tokens and turn channels: the first, the second, the third
            in Primus; nnssl's `EvaMAE` flattens the second before the first (``b c w h d -> b (h w d) c``).
    """

    heads: int
    grid: tuple[int, int, int]
    axes: tuple[int, int, int] = (2, 1, 0)
    sequence: tuple[int, int, int] = (0, 1, 2)

    @property
    def of_axis(self) -> list[int]:
        """The axis of its arrays that x, y and z are."""
        return [self.axes.index(axis) for axis in range(3)]

    @property
    def of_place(self) -> list[int]:
        """The place that x, y and z have in a sequence."""
        return [self.sequence.index(axis) for axis in self.of_axis]

    def channels(self, width: int) -> Tensor:
        """Where each channel of queries and keys, all heads, comes from: `[D]`, `width` is a head's."""
        n = width // 6
        pairs = torch.cat([torch.arange(n) + place * n for place in self.of_place])
        head = torch.cat([2 * pairs, 2 * pairs + 1])
        return torch.cat([head + width * h for h in range(self.heads)])


def from_primus(state: Mapping[str, Tensor], layout: PrimusLayout) -> dict[str, Tensor]:
    """An encoder's tensors under this project's names (``encoder.…``).

    Args:
        state: of a Primus; what is neither of its patches, its registers nor its encoder is not taken.
        layout: how its tensors lie.

    Raises:
        ValueError: naming a tensor of the encoder that is missing, or has no place here.
    """
    left = {name: t for name, t in state.items() if name.startswith(("down_projection.", "eva.", _REGISTERS))}
    try:
        ours = _outside_blocks(left, layout)
        order = layout.channels(len(ours["norm.weight"]) // layout.heads)
        blocks: dict[str, dict[str, Tensor]] = {}
        for name in [name for name in left if _BLOCK.match(name.removeprefix("eva."))]:
            prefix = _BLOCK.match(name.removeprefix("eva."))[0]  # type: ignore[index]
            blocks.setdefault(prefix, {})[name.removeprefix(f"eva.{prefix}")] = left.pop(name)
        for prefix, block in blocks.items():
            ours |= {prefix + name: tensor for name, tensor in _block_from(block, order).items()}
            left |= {f"eva.{prefix}{name}": tensor for name, tensor in block.items()}
    except KeyError as missing:
        raise ValueError(f"{missing.args[0]} is missing") from None
    if left:
        raise ValueError(f"{next(iter(left))} has no place in this encoder")
    return {f"encoder.{name}": tensor.contiguous() for name, tensor in ours.items()}


def _outside_blocks(left: dict[str, Tensor], layout: PrimusLayout) -> dict[str, Tensor]:
    """Patches, places, registers and the last norm; taken out of `left`."""
    weight, registers = left.pop(f"{_PATCHES}.weight"), left.pop(_REGISTERS, None)
    ours = {
        "patch_embedding.weight": weight.permute(0, 1, *(2 + axis for axis in layout.of_axis)).flatten(1),
        "patch_embedding.bias": left.pop(f"{_PATCHES}.bias"),
        "norm.weight": left.pop("eva.norm.weight"),
        "norm.bias": left.pop("eva.norm.bias"),
    }
    if (place := left.pop(_PLACE, None)) is not None:
        n = 0 if registers is None else registers.shape[1]
        cells = place[0, n:].reshape(*(layout.grid[axis] for axis in layout.sequence), len(weight))
        ours["position_embedding"] = cells.permute(*layout.of_place, 3).flatten(0, 2)
        registers = None if registers is None else registers + place[:, :n]
    if registers is not None:
        ours["registers"] = registers[0]
    return ours


def _block_from(block: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """One block's tensors; taken out of `block`."""
    query, key, value = (block.pop(f"attn.{name}_proj.weight") for name in "qkv")
    ours = {
        "attention.qkv.weight": torch.cat([query[order], key[order], value]),
        "attention.query_bias": block.pop("attn.q_proj.bias")[order],
        "attention.value_bias": block.pop("attn.v_proj.bias"),
    }
    gated = "mlp.fc1_g.weight" in block
    ours |= {here: block.pop(there) for here, there in _SCALES.items() if there in block}
    for kind in ("weight", "bias"):
        if gated:
            ours[f"mlp.gate_and_value.{kind}"] = torch.cat([block.pop(f"mlp.fc1_{part}.{kind}") for part in "gx"])
        for here, there in (_LAYERS | (_GATED if gated else _PLAIN)).items():
            if f"{there}.{kind}" in block:
                ours[f"{here}.{kind}"] = block.pop(f"{there}.{kind}")
    return ours


def to_primus(state: Mapping[str, Tensor], layout: PrimusLayout, patch_size: Sequence[int]) -> dict[str, Tensor]:
    """The inverse of `from_primus`: names and layout of Primus.

    Args:
        state: an encoder's, with linear patches, rotations and no norms of queries and keys; names start with
            ``encoder.``, and others are not taken.
        layout: how the tensors are to lie.
        patch_size: voxels of a token along x, y, z.
    """
    ours = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    weight, registers = ours["patch_embedding.weight"], ours.get("registers")
    dim = len(weight)
    kernel = weight.reshape(dim, -1, *patch_size).permute(0, 1, *(2 + axis for axis in layout.axes))
    theirs = {f"{_PATCHES}.weight": kernel, f"{_PATCHES}.bias": ours["patch_embedding.bias"]}
    theirs |= {f"eva.norm.{kind}": ours[f"norm.{kind}"] for kind in ("weight", "bias")}
    if (place := ours.get("position_embedding")) is not None:
        grid = [layout.grid[axis] for axis in layout.of_axis]
        cells = place.reshape(*grid, dim).permute(*(layout.axes[axis] for axis in layout.sequence), 3).flatten(0, 2)
        theirs[_PLACE] = torch.cat([cells.new_zeros(0 if registers is None else len(registers), dim), cells])[None]
    if registers is not None:
        theirs[_REGISTERS] = registers[None]
    order = layout.channels(dim // layout.heads).argsort()
    for prefix in dict.fromkeys(m[0] for name in ours if (m := _BLOCK.match(name))):
        block = {name.removeprefix(prefix): t for name, t in ours.items() if name.startswith(prefix)}
        theirs |= {f"eva.{prefix}{name}": tensor for name, tensor in _block_to(block, order).items()}
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _block_to(block: Mapping[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    query, key, value = block["attention.qkv.weight"].chunk(3)
    theirs = {
        "attn.q_proj.weight": query[order],
        "attn.k_proj.weight": key[order],
        "attn.v_proj.weight": value,
        "attn.q_proj.bias": block["attention.query_bias"][order],
        "attn.v_proj.bias": block["attention.value_bias"],
    }
    theirs |= {there: block[here] for here, there in _SCALES.items() if here in block}
    for kind in ("weight", "bias"):
        if (both := block.get(f"mlp.gate_and_value.{kind}")) is not None:
            theirs[f"mlp.fc1_g.{kind}"], theirs[f"mlp.fc1_x.{kind}"] = both.chunk(2)
        for here, there in (_LAYERS | _GATED | _PLAIN).items():
            if f"{here}.{kind}" in block:
                theirs[f"{there}.{kind}"] = block[f"{here}.{kind}"]
    return theirs
