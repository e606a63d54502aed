"""What was pre-trained into a new network, reported tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from data_modules.errors import UserError
from iac_lightning.config.cnn_plan import Triple, topology
from iac_lightning.config.keys import value_at
from iac_lightning.config.model_schema import resolved_mlp_ratio, resolved_vit
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import plain
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_positions import resize_position_embedding

POSITION = "encoder.position_embedding"
TAKEN = {"encoder": ("encoder.",), "segmenter": ("encoder.", "decoder."), "cnn": ("",)}
"""What a pre-training was of, and how the names of the tensors begin that it hands on."""
LAST = ("decoder.head.", "decoder.coarse_heads.", "heads.")
"""The layers that give logits: they are learnt anew, for they have restored HU."""


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


def pretrained_part(config: ExperimentConfig) -> str:
    """What a pre-training with these settings is of: a key of `TAKEN`."""
    return "cnn" if config.model.name == "cnn" else config.model.mae.pretrain


def transfer_encoder(
    model: nn.Module, source: Mapping[str, Tensor], source_grid: Sequence[int], where: str, part: str = "encoder"
) -> list[TransferRow]:
    """Load every tensor that a pre-training hands on.

    Args:
        model: network with a `ViTEncoder` as its attribute ``encoder``, or a `PlannedUNet`; changed in place.
        source: state of the pre-trained network; names are those of `model`, a CNN's behind ``network.``.
        source_grid: tokens along x, y, z that the source's position embedding was made for.
        where: the checkpoint's name, for messages.
        part: what the pre-training was of: the encoder, the whole segmenter or a CNN (both but for the last layers).

    Returns:
        One row a tensor, of both sides.

    Raises:
        UserError: when a tensor is missing in the checkpoint or has another shape: a half-loaded network would
            silently be compared as a pre-trained one. Only what tells a network more than the image may be new.
    """
    source = {name.removeprefix("network."): tensor for name, tensor in source.items()}
    told_before = any(map(_tells, source))
    rows: list[TransferRow] = []
    broken: list[str] = []
    loaded: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        taken = name.startswith(TAKEN[part]) and not name.startswith(LAST)
        if not taken or (_tells(name) and not told_before):
            rows.append(TransferRow(name, tuple(tensor.shape), "new"))
            continue
        if name not in source:
            broken.append(f"{name} {tuple(tensor.shape)} is not in the checkpoint")
            continue
        value, status = source[name], "loaded"
        if name == POSITION:
            encoder = model.encoder
            assert isinstance(encoder, ViTEncoder)
            if tuple(source_grid) != tuple(encoder.grid):
                value, status = resize_position_embedding(value, source_grid, encoder.grid), "resized"
        if value.shape != tensor.shape:
            broken.append(f"{name} is {tuple(value.shape)} in the checkpoint and {tuple(tensor.shape)} here")
            continue
        loaded[name] = value
        rows.append(TransferRow(name, tuple(tensor.shape), status))
    if broken:
        words = {"encoder": ("encoder", "model.vit"), "segmenter": ("network", "model.vit and model.decoder")}
        whole, sections = words.get(part, ("network", "model.cnn and data.sampling.crop"))
        raise UserError(
            f"the {whole} of {where} does not fit this network whole ({len(broken)} of its tensors): "
            + "; ".join(broken[:5])
            + f". Give {sections} the values of the pre-training."
        )
    rows += [TransferRow(name, tuple(t.shape), "left") for name, t in source.items() if name not in loaded]
    model.load_state_dict(loaded, strict=False)
    return rows


def _tells(name: str) -> bool:
    """Whether a tensor is of a `Film`, by which a network is told more; it starts as if it were not there."""
    return any("film" in part for part in name.split("."))


CONVENTIONS = ("data.window_hu", "data.grid.spacing_mm", "data.grid.profile")
"""Settings that decide what weights mean: how HU become numbers and how large a voxel is. Shapes do not tell them."""
OF_TOKENS = ("model.vit.patch_size", "model.vit.position")
"""The same of an encoder, beside its width, depth and heads: how voxels become tokens."""


def other_conventions(source: ExperimentConfig, config: ExperimentConfig) -> list[str]:
    """Where an encoder has learnt under other conventions than a network would use it with.

    Args:
        source: settings of the pre-training.
        config: settings of the new network.

    Returns:
        A phrase each, with both values; empty where the encoder may be taken over as it is.
    """
    tokens = config.model.name == "vit"
    keys = (*CONVENTIONS, *(OF_TOKENS if tokens else ("model.cnn.encoder",)))
    pairs = [(key, plain(value_at(source, key)), plain(value_at(config, key))) for key in keys]
    if tokens:
        names = ("model.vit.dim", "model.vit.depth", "model.vit.heads")
        pairs += zip(names, resolved_vit(source.model.vit), resolved_vit(config.model.vit), strict=True)
        before, now = (f"{resolved_mlp_ratio(c.model.vit):.4g}" for c in (source, config))
        pairs.append(("model.vit.mlp_ratio", before, now))
    else:  # strides follow from the crop
        pairs.append(("the plan of strides", *(plain(_strides(c)) for c in (source, config))))
    if told := source.model.condition_on:  # an encoder that was told nothing may be told something from now on
        pairs.append(("model.condition_on", plain(told), plain(config.model.condition_on)))
    return [f"{key} was {before} and is {now} here" for key, before, now in pairs if before != now]


def _strides(config: ExperimentConfig) -> tuple[Triple, ...]:
    strides, _ = topology(config.data.sampling.crop, config.data.grid.spacing_mm, config.model.cnn.max_stages)
    return strides


def transfer_table(rows: list[TransferRow], others: Sequence[str] = ()) -> str:
    """The rows as text: a count of each status, other conventions if there are any, then a line a tensor.

    Args:
        rows: from `transfer_encoder`.
        others: from `other_conventions`.
    """
    counts = {s: sum(r.status == s for r in rows) for s in ("loaded", "resized", "new", "left")}
    head = ", ".join(f"{n} {s}" for s, n in counts.items())
    return "\n".join([head, *others, *(f"{r.status:8s} {r.name} {tuple(r.shape)}" for r in rows)]) + "\n"
