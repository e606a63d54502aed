"""The schema as a tree of dotted keys: types, rules, words and defaults of every setting."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import typing
from functools import cache
from typing import Any, ClassVar

from omegaconf import OmegaConf

from data_modules.settings import CHOICES, RANGE, TRUTH, Rule
from iac_lightning.config.schema import ExperimentConfig

BEFORE_STORED: dict[str, Any] = {
    "data.augmentation.pretraining": "all",
    "data.augmentation.profile_roundness": (0.0, 0.0),
    "data.augmentation.profile_widening": (1.0, 1.0),
    "data.augmentation.thickness_label": "occupancy",
    "evaluation.keep_lesions_from_mm3": 10.0,
    "evaluation.operating_point": "dice",
    "loss.restrict_on": "common",
    "model.condition_on": (),
    "model.decoder.convolutions": 2,
    "model.decoder.deep_supervision": False,
    "model.decoder.image": True,
    "model.decoder.normalise": False,
    "model.decoder.tokeniser_skips": False,
    "model.mae.masking": "random",
    "model.mae.pretrain": "encoder",
    "model.mae.target_floor_hu": 0.6,
    "model.vit.initialisation": "xavier",
    "model.vit.inner_norm": False,
    "model.vit.layer_scale": None,
    "model.vit.mlp": "gelu",
    "model.vit.position": "learned",
    "model.vit.qk_norm": False,
    "model.vit.registers": 0,
    "model.vit.tokeniser": "linear",
    "trainer.matmul_precision": "highest",
}
"""What runs did before they stored these settings, whatever the defaults are now."""

_PRESETS_BEFORE = {"tiny": (192, 6, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""What the presets of `model.vit.preset` stood for in runs that did not store `model.vit.tokeniser` yet."""


def complete_stored(values: dict[str, Any]) -> None:
    """Add to the stored settings of a run what runs did before they stored it.

    Args:
        values: dotted keys and values as they were stored; changed in place.
    """
    if "model.vit.tokeniser" not in values:
        sizes = _PRESETS_BEFORE.get(values.get("model.vit.preset", "tiny"), (None, None, None))
        for key, size in zip(("model.vit.dim", "model.vit.depth", "model.vit.heads"), sizes, strict=True):
            if values.get(key) is None:
                values[key] = size
    for key, value in BEFORE_STORED.items():
        values.setdefault(key, value)


@cache
def fields_of(cls: type) -> dict[str, Any]:
    """Field name → type of a dataclass."""
    return {name: hint for name, hint in typing.get_type_hints(cls).items() if typing.get_origin(hint) is not ClassVar}


@cache
def leaves(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key → type of every setting below a dataclass, in the order of the schema."""
    found: dict[str, Any] = {}
    for name, hint in fields_of(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= leaves(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = hint
    return found


@cache
def rules() -> dict[str, Rule]:
    """Dotted key → rule of every setting that has one: every number."""
    return _metadata(ExperimentConfig, RANGE)


@cache
def choices() -> dict[str, tuple[str, ...]]:
    """Dotted key → allowed words of every setting that takes one of some."""
    return _metadata(ExperimentConfig, CHOICES)


@cache
def truths() -> dict[str, tuple[str, str]]:
    """Dotted key → the words that false and true stand for, of the settings that take them."""
    return _metadata(ExperimentConfig, TRUTH)


def _metadata(cls: type, name: str, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        hint = fields_of(cls)[field.name]
        if dataclasses.is_dataclass(hint):
            found |= _metadata(typing.cast(type, hint), name, f"{prefix}{field.name}.")
        elif name in field.metadata:
            found[f"{prefix}{field.name}"] = field.metadata[name]
    return found


def tree_of_defaults() -> Any:
    """The schema and its defaults as OmegaConf's tree, a copy each: to build it anew takes longer than all reading."""
    return copy.deepcopy(_built_tree())


@cache
def _built_tree() -> Any:
    return OmegaConf.structured(ExperimentConfig)


@cache
def all_keys(cls: type, prefix: str = "") -> tuple[str, ...]:
    """Every dotted key, sections included."""
    keys: list[str] = []
    for name, hint in fields_of(cls).items():
        keys.append(prefix + name)
        if dataclasses.is_dataclass(hint):
            keys += all_keys(typing.cast(type, hint), f"{prefix}{name}.")
    return tuple(keys)


def nearest_keys(name: str, cls: type, section: str) -> list[str]:
    """Valid keys that a misspelt one may mean: alike beside it, then the same name elsewhere, then alike elsewhere."""
    prefix = f"{section}." if section else ""
    wanted = name.lower()
    beside = [prefix + near for near in difflib.get_close_matches(wanted, fields_of(cls), n=1, cutoff=0.7)]
    by_name: dict[str, list[str]] = {}
    for key in all_keys(ExperimentConfig):
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    same = [key for key in by_name.get(wanted, []) if key not in beside]
    if beside or same:
        return (same + beside if same and not beside else beside + same)[:3]
    return [key for near in difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.7) for key in by_name[near]][:3]


def value_at(config: Any, key: str) -> Any:
    """The value at a dotted key of nested dataclasses."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def default_of(key: str) -> Any:
    """The schema's default, a stand-in for a required setting."""
    default = value_at(ExperimentConfig(), key)
    return "missing" if default == "???" else default
