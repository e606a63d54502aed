"""The encoder of a run as a checkpoint of nnssl, in the names and layout of Primus."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from data_modules.errors import UserError
from data_modules.files import replacing_folder, write_json_atomic
from iac_lightning.config.model_schema import resolved_mlp_ratio, resolved_vit
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.primus import PrimusLayout, to_primus
from iac_lightning.modules.checkpoint import load_model
from iac_lightning.modules.foreign import OWN, PRESETS
from iac_lightning.runs.directory import Run

CHECKPOINT, PLAN = "checkpoint_final.pth", "adaptation_plan.json"
FILES = {CHECKPOINT, PLAN}


@dataclass(frozen=True)
class NnsslExport:
    """What `export_nnssl` wrote.

    Attributes:
        directory: with `FILES`.
        architecture: nnssl's name of a Primus of these sizes, or ``Primus``.
        tensors: their number.
    """

    directory: Path
    architecture: str
    tensors: int


def export_nnssl(run: Run, out: Path) -> NnsslExport:
    """Write the encoder of a run as nnssl stores one.

    `out` gets `checkpoint_final.pth` (tensors and plain types alone) and `adaptation_plan.json`. The entry
    ``iac_lightning`` of the checkpoint holds what nnssl has no word for: the HU window and whom the encoder has seen,
    as salted hashes. Of a pre-training the last checkpoint is taken, of a segmentation the best.

    Args:
        run: of a ViT.
        out: folder; an earlier export there is replaced.

    Raises:
        UserError: when the run has no checkpoint, its encoder has parts that Primus has none of, or `out` is something
            else.
    """
    config, out = run.config, Path(out)
    _check(config)
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - FILES):
        raise UserError(f"{out}: exists and is no export of nnssl alone. Give another folder, or move it.")
    path = run.last_checkpoint if config.task == "pretrain" else run.best_checkpoint
    if path is None:
        raise UserError(f"{run.directory}: has no checkpoint yet. Train it first.")
    saved = load_model(path)
    dim, depth, heads = resolved_vit(config.model.vit)
    x, y, z = (c // p for c, p in zip(config.data.sampling.crop, config.model.vit.patch_size, strict=True))
    state = to_primus(saved.state, PrimusLayout(heads, (z, y, x)), config.model.vit.patch_size)
    architecture = next((name for name, sizes in PRESETS.items() if sizes == (dim, depth, heads)), "Primus")
    plan = adaptation_plan(config, architecture)
    checkpoint = {
        "network_weights": state,
        "trainer_name": f"iac_lightning {metadata.version('iac-lightning')} ({config.task})",
        "init_args": {},
        "nnssl_adaptation_plan": plan,
        OWN: {
            "window_hu": list(config.data.window_hu),
            "scaled_to": [-1.0, 1.0],
            "slice_profile": config.data.grid.profile,
            "trained_on": saved.trained_on,
        },
    }
    with replacing_folder(out) as folder:
        torch.save(checkpoint, folder / CHECKPOINT)
        write_json_atomic(folder / PLAN, plan)
    return NnsslExport(out, architecture, len(state))


def _check(config: ExperimentConfig) -> None:
    """Refuse an encoder that Primus cannot compute.

    Raises:
        UserError: naming the settings.
    """
    vit = config.model.vit
    if config.model.name != "vit":
        raise UserError(f"{config.name}: is a {config.model.name}, and nnssl's Primus is a ViT.")
    wrong = [
        f"model.{key} {value}"
        for key, value, right in (
            ("vit.tokeniser", vit.tokeniser, vit.tokeniser == "linear"),
            ("vit.position", vit.position, vit.position != "learned"),
            ("vit.qk_norm", vit.qk_norm, not vit.qk_norm),
            ("vit.depth", 0, resolved_vit(vit)[1] > 0),
            ("condition_on", list(config.model.condition_on), not config.model.condition_on),
        )
        if not right
    ]
    if wrong:
        raise UserError(
            f"{config.name}: Primus has no counterpart of {', '.join(wrong)}. Train with model.vit.tokeniser=linear, "
            "model.vit.position=both, without qk_norm and condition_on, to hand the encoder on."
        )


def adaptation_plan(config: ExperimentConfig, architecture: str) -> dict[str, Any]:
    """What nnssl keeps beside weights, for whoever goes on from them; axes run z, y, x."""
    vit, data = config.model.vit, config.data
    dim, depth, heads = resolved_vit(vit)
    crop, spacing, patch = (list(v)[::-1] for v in (data.sampling.crop, data.grid.spacing_mm, vit.patch_size))
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    named = architecture in PRESETS
    return {
        "architecture_plans": {
            "arch_class_name": architecture,
            "arch_kwargs": None
            if named
            else {
                "embed_dim": dim,
                "patch_embed_size": patch,
                "eva_depth": depth,
                "eva_numheads": heads,
                "input_shape": crop,
                "num_register_tokens": vit.registers,
                "use_abs_pos_embed": vit.position == "both",
                "mlp_ratio": resolved_mlp_ratio(vit),
                "init_values": vit.layer_scale,
                "scale_attn_inner": vit.inner_norm,
            },
            "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {
            "dataset_name": config.name,
            "plans_name": "iac_lightning",
            "original_median_spacing_after_transp": spacing,
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "experiment_planner_used": "iac_lightning",
            "configurations": {
                "fixed": {
                    "data_identifier": "iac_lightning_fixed",
                    "preprocessor_name": "iac_lightning",
                    "spacing_style": "fixed",
                    "normalization_schemes": ["NoNormalization"],
                    "use_mask_for_norm": [False],
                    "resampling_fn_data": "resample_data_or_seg_to_shape",
                    "resampling_fn_data_kwargs": resampling,
                    "resampling_fn_mask": "resample_data_or_seg_to_shape",
                    "resampling_fn_mask_kwargs": resampling | {"order": 1},
                    "spacing": spacing,
                    "patch_size": crop,
                }
            },
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": crop,
        "key_to_encoder": "eva",
        "key_to_stem": "down_projection",
        "keys_to_in_proj": ["down_projection.proj"],
        "key_to_lpe": "eva.pos_embed",
    }
