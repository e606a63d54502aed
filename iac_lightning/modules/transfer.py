"""A pre-trained encoder into a new network, reported tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from data_modules.errors import UserError
from iac_lightning.config.keys import value_at
from iac_lightning.config.schema import ExperimentConfig, resolved_vit
from iac_lightning.config.values import plain
from iac_lightning.models.vit import ViTEncoder, resize_position_embedding

POSITION = "encoder.position_embedding"


@dataclass(frozen=True)
class TransferRow:
    """What became of one tensor.

    Attributes:
        name: its name in the new network (or, where it was left behind, in the checkpoint).
        shape: its shape there.
        status: ``loaded``, ``resized`` (a position embedding that follows a new crop), ``new`` (starts at random) or
            ``left`` (in the checkpoint only).
    """

    name: str
    shape: tuple[int, ...]
    status: str


def transfer_encoder(
    model: nn.Module, source: Mapping[str, Tensor], source_grid: tuple[int, int, int], where: str
) -> list[TransferRow]:
    """Load every encoder tensor of a pre-trained network into `model.encoder`.

    Args:
        model: network with a `ViTEncoder` as its attribute ``encoder``; changed in place.
        source: state of the pre-trained network; the encoder's names start with ``encoder.``.
        source_grid: tokens along x, y, z that the source's position embedding was made for.
        where: the checkpoint's name, for messages.

    Returns:
        One row a tensor, of both sides.

    Raises:
        UserError: when an encoder tensor is missing in the checkpoint or has another shape: a half-loaded encoder
            would silently be compared as a pre-trained one.
    """
    encoder = model.encoder
    assert isinstance(encoder, ViTEncoder)
    state = model.state_dict()
    rows: list[TransferRow] = []
    broken: list[str] = []
    loaded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith("encoder."):
            rows.append(TransferRow(name, tuple(tensor.shape), "new"))
            continue
        if name not in source:
            broken.append(f"{name} {tuple(tensor.shape)} is not in the checkpoint")
            continue
        value, status = source[name], "loaded"
        if name == POSITION and tuple(source_grid) != tuple(encoder.grid):
            value, status = resize_position_embedding(value, source_grid, encoder.grid), "resized"
        if value.shape != tensor.shape:
            broken.append(f"{name} is {tuple(value.shape)} in the checkpoint and {tuple(tensor.shape)} here")
            continue
        loaded[name] = value
        rows.append(TransferRow(name, tuple(tensor.shape), status))
    if broken:
        raise UserError(
            f"the encoder of {where} does not fit this network whole ({len(broken)} of its tensors): "
            + "; ".join(broken[:5])
            + ". Give model.vit the preset, patch_size, dim, depth and mlp_ratio of the pre-training."
        )
    rows += [TransferRow(name, tuple(t.shape), "left") for name, t in source.items() if name not in loaded]
    model.load_state_dict(loaded, strict=False)
    return rows


CONVENTIONS = (
    "data.window_hu",
    "data.grid.spacing_mm",
    "data.grid.profile",
    "model.vit.patch_size",
    "model.vit.mlp_ratio",
)
"""Settings that decide, beside the encoder's width, depth and heads, what its weights mean: how HU become numbers, how
large a voxel is, and how voxels become tokens. Shapes do not tell most of them."""


def other_conventions(source: ExperimentConfig, config: ExperimentConfig) -> list[str]:
    """Where an encoder has learnt under other conventions than a network would use it with.

    Args:
        source: settings of the pre-training.
        config: settings of the new network.

    Returns:
        A phrase each, with both values; empty where the encoder may be taken over as it is.
    """
    pairs = [(key, plain(value_at(source, key)), plain(value_at(config, key))) for key in CONVENTIONS]
    names = ("model.vit.dim", "model.vit.depth", "model.vit.heads")
    pairs += zip(names, resolved_vit(source.model.vit), resolved_vit(config.model.vit), strict=True)
    return [f"{key} was {before} and is {now} here" for key, before, now in pairs if before != now]


def transfer_table(rows: list[TransferRow], others: Sequence[str] = ()) -> str:
    """The rows as text: a count of each status, other conventions if there are any, then a line a tensor.

    Args:
        rows: from `transfer_encoder`.
        others: from `other_conventions`.
    """
    counts = {s: sum(r.status == s for r in rows) for s in ("loaded", "resized", "new", "left")}
    head = ", ".join(f"{n} {s}" for s, n in counts.items())
    return "\n".join([head, *others, *(f"{r.status:8s} {r.name} {tuple(r.shape)}" for r in rows)]) + "\n"
