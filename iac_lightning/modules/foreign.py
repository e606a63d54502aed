"""Pre-trained encoders of other projects: checkpoints of nnssl, and of Primus in nnU-Net."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data_modules.cohort.leakage import is_seen_patients
from data_modules.errors import UserError
from data_modules.files import sha256
from iac_lightning.config.model_schema import ViTConfig, resolved_mlp_ratio, resolved_vit
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.primus import PrimusLayout, from_primus
from iac_lightning.modules.checkpoint import check_finite, load_checkpoint

PRESETS = {"PrimusS": (396, 12, 6), "PrimusB": (792, 12, 12), "PrimusM": (864, 16, 12), "PrimusL": (1056, 24, 16)}
"""Width, depth and heads of the architectures that nnssl knows by name."""
FILE = Path("logs", "foreign_encoder.json")
"""Within a run that started from such an encoder: what its model card says of it."""
OWN = "iac_lightning"
"""Entry of a checkpoint of nnssl that this project has written: what that format has no word for."""


@dataclass(frozen=True)
class ForeignEncoder:
    """An encoder of another project under this project's names.

    Attributes:
        state: its tensors (``encoder.…``), and under their own names those that are not of the encoder.
        grid: tokens along x, y, z that its position embedding was made for.
        others: a phrase for each convention that it learnt under and that differs here.
        trained_on: whom it has seen, where it says so.
        record: what a model card says of it.
    """

    state: dict[str, Tensor]
    grid: tuple[int, int, int]
    others: list[str]
    trained_on: list[dict[str, Any]]
    record: dict[str, Any]


def read_foreign(path: Path, config: ExperimentConfig) -> ForeignEncoder | None:
    """The encoder of a checkpoint of nnssl or nnU-Net; None where the file is no such checkpoint.

    Args:
        path: a checkpoint file; it is read as data, and nothing in it is executed.
        config: of the network that takes the encoder over.

    Raises:
        UserError: when the file cannot be read, a tensor is missing, not finite or without a place here, the settings
            describe another encoder, or its licence is not stated.
    """
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.get("network_weights"), Mapping):
        return None
    if config.model.name != "vit":
        raise UserError(
            f"init_from: {path} holds a ViT's encoder, and model.name is {config.model.name}: set it to vit."
        )
    state = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): t for name, t in checkpoint["network_weights"].items()}
    check_finite(state, path)
    _check_architecture(state, path)
    plan = checkpoint.get("nnssl_adaptation_plan") or {}
    pretraining = plan.get("pretrain_plan") or {}
    configuration: Mapping[str, Any] = next(iter((pretraining.get("configurations") or {}).values()), {})
    architecture = (plan.get("architecture_plans") or {}).get("arch_class_name")
    dim, depth, heads = resolved_vit(config.model.vit)
    _check_settings(state, config.model.vit, PRESETS.get(str(architecture), (dim, depth, heads))[2], path)
    if config.init_from_licence is None:
        raise UserError(
            f"init_from: {path} is of another project: say under which licence its weights were given and on what they "
            "were trained, as their page does, in init_from_licence (such as 'CC-BY-SA 4.0; OpenMind, 114,000 MRI; "
            "<address>'). It goes into the model card."
        )
    z, y, x = pretraining.get("transpose_forward") or (0, 1, 2)
    axes = (2 - z, 2 - y, 2 - x)  # arrays run z, y, x before nnU-Net transposes them
    kernel = state["down_projection.proj.weight"].shape[2:]
    sequence = (1, 0, 2) if any(name.startswith("decoder.blocks.") for name in state) else (0, 1, 2)
    grid = _grid(state, configuration.get("patch_size"), kernel, path)
    layout = PrimusLayout(heads, grid, axes, sequence)
    try:
        encoder = from_primus(state, layout)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"init_from: {path} is no encoder of Primus as this project knows it: {error}.") from error
    own = checkpoint.get(OWN) or {}
    seen: list[dict[str, Any]] | None = own.get("trained_on")
    gx, gy, gz = (grid[axis] for axis in layout.of_axis)
    return ForeignEncoder(
        state=encoder | {name: t for name, t in state.items() if not name.startswith(("eva.", "down_projection."))},
        grid=(gx, gy, gz),
        others=_others(own, configuration, axes, config),
        trained_on=seen if seen and is_seen_patients(seen) else [],
        record={
            "file": path.name,
            "sha256": sha256(path),
            "trainer": checkpoint.get("trainer_name"),
            "architecture": architecture,
            "data": pretraining.get("dataset_name"),
            "licence": config.init_from_licence,
            "patients": "known" if is_seen_patients(seen) else "unknown",
        },
    )


def _check_architecture(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what is no Primus, or has a tokeniser that this project has none like.

    Raises:
        UserError: naming what it is.
    """
    if any(name.startswith("down_projection.stem") for name in state):
        raise UserError(
            f"init_from: {path} has the convolutional tokeniser of PrimusV2 or V3, whose norms go over the whole crop; "
            "the one of this project must not look beyond a voxel while tokens are hidden. Give a checkpoint of Primus "
            "with a linear one (nnssl's MAE and SimMIM)."
        )
    if "down_projection.proj.weight" not in state or "eva.norm.weight" not in state:
        raise UserError(
            f"init_from: {path} holds no encoder of Primus (tensors eva.… and down_projection.…). Give a checkpoint of "
            "nnssl's trainers for Primus, or a run of this project."
        )


def _check_settings(state: Mapping[str, Tensor], vit: ViTConfig, heads: int, path: Path) -> None:
    """Compare the settings with what the tensors show.

    Raises:
        UserError: with every setting to change, and its value.
    """
    weight = state["down_projection.proj.weight"]
    dim, depth = len(weight), len({m[0] for name in state if (m := re.match(r"eva\.blocks\.\d+\.", name))})
    patch = tuple(reversed(weight.shape[2:]))
    gated = "eva.blocks.0.mlp.fc1_g.weight" in state
    first = state.get("eva.blocks.0.mlp.fc1_g.weight" if gated else "eva.blocks.0.mlp.fc1.weight")
    hidden = dim if first is None else len(first)
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    position = "both" if "eva.pos_embed" in state else "rope"
    scaled, inner = "eva.blocks.0.gamma_1" in state, "eva.blocks.0.attn.norm.weight" in state
    mlp = "swiglu" if gated else "gelu"
    resolved = resolved_vit(vit)
    wanted: list[tuple[str, Any, bool]] = [
        ("tokeniser", "linear", vit.tokeniser == "linear"),
        ("patch_size", list(patch), tuple(vit.patch_size) == patch),
        ("dim", dim, resolved[0] == dim),
        ("depth", depth, resolved[1] == depth),
        ("heads", heads, resolved[2] == heads),
        ("position", position, vit.position == position),
        ("mlp", mlp, vit.mlp == mlp),
        ("mlp_ratio", f"{hidden / dim:.6g}", round(resolved_mlp_ratio(vit) * dim) == hidden),
        ("layer_scale", 0.1 if scaled else "null", (vit.layer_scale is not None) == scaled),
        ("inner_norm", str(inner).lower(), vit.inner_norm == inner),
        ("registers", registers, vit.registers == registers),
        ("qk_norm", "false", not vit.qk_norm),
    ]
    changes = [f"model.vit.{key}={value}" for key, value, same in wanted if not same]
    if changes:
        raise UserError(f"init_from: {path} holds another encoder than the settings: set {' '.join(changes)}.")


def _grid(
    state: Mapping[str, Tensor], crop: Sequence[float] | None, kernel: Sequence[int], path: Path
) -> tuple[int, int, int]:
    """Tokens along the axes of its arrays, from the plan's crop; a cube's edge where that does not fit."""
    place, registers = state.get("eva.pos_embed"), state.get("register_tokens")
    if place is None:
        return 1, 1, 1
    n = place.shape[1] - (0 if registers is None else registers.shape[1])
    if crop is not None and math.prod(int(c) // k for c, k in zip(crop, kernel, strict=True)) == n:
        a, b, c = (int(length) // k for length, k in zip(crop, kernel, strict=True))
        return a, b, c
    edge = round(n ** (1 / 3))
    if edge**3 != n:
        raise UserError(
            f"init_from: {path} has a position embedding of {n} tokens, which is no cube, and names no crop that gives "
            "as many (patch_size of its pretrain_plan). Add that to its nnssl_adaptation_plan."
        )
    return edge, edge, edge


def _others(
    own: Mapping[str, Any], configuration: Mapping[str, Any], axes: Sequence[int], config: ExperimentConfig
) -> list[str]:
    """A phrase for each convention that differs: how numbers became intensities, and how large voxels were."""
    window, schemes = list(config.data.window_hu), configuration.get("normalization_schemes")
    if own.get("window_hu") == window:
        phrases = []
    else:
        before = own.get("window_hu") or ", ".join(map(str, schemes or [])) or "unknown"
        phrases = [f"intensities were {before} and are HU of {window} scaled to -1…1 here"]
    spacing = configuration.get("spacing")
    there = [round(float(spacing[list(axes).index(axis)]), 6) for axis in range(3)] if spacing is not None else None
    if there != list(config.data.grid.spacing_mm):
        phrases.append(f"voxels were {there or 'of unknown size'} and are {list(config.data.grid.spacing_mm)} mm here")
    return phrases


def licence_words(record: Mapping[str, Any]) -> str:
    """What a model card says of an encoder of another project."""
    known = [f"{key} {record[key]}" for key in ("trainer", "architecture", "data") if record.get(key)]
    whom = "" if record.get("patients") == "known" else " Whom it has seen is not known to the leakage guard."
    return (
        f"Its encoder comes from another project: `{record['file']}` (SHA-256 `{record['sha256'][:16]}`; "
        f"{'; '.join(known) or 'it does not say how it was trained'}). Licence and data, as stated by who trained this "
        f"model: {record['licence']}.{whom}"
    )
