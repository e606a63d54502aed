"""Experiment settings: from YAML files and overrides to a checked `ExperimentConfig`.

The order is: schema ← files named by `extends` ← the file ← its section of the profile ← `key=value` overrides, then
missing keys, interpolations, objects, ranges and checks across settings. Nothing here touches data, and all problems
come in one message, each with its place, key, wrong value and remedy.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_modules.errors import UserError
from iac_lightning.config import checks
from iac_lightning.config.addresses import without_secrets
from iac_lightning.config.interpolation import is_interpolation
from iac_lightning.config.keys import default_of, leaves, tree_of_defaults, value_at
from iac_lightning.config.layers import COMMAND_LINE, Layers, Source
from iac_lightning.config.profiles import choose_profile
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import (
    WrongValueError,
    coerce,
    plain,
    safe_show,
)


class ConfigError(UserError):
    """Settings that cannot be used; the message lists every problem, and no credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


def load_experiment(path: Path | None, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read, merge and check an experiment.

    Args:
        path: YAML file, which may name others to start from: `extends: ../base.yaml`, or a list; paths are relative
            to the file. Later ones win; each is read once, before the first that needs it. None: schema and
            overrides only.
        overrides: `key=value` with dotted keys and YAML values, such as `data.sampling.crop=[64,64,32]`.

    Raises:
        ConfigError: with all problems.
    """
    layers = _read(path, overrides)
    if not layers.profiles:
        return _finished(layers)
    # All are read, so that a mistake in one is found wherever the file is read; one is checked and taken.
    profiles = {name: _read(path, overrides, name) for name in sorted(layers.profiles)}
    problems = list(dict.fromkeys(p for other in (layers, *profiles.values()) for p in other.problems))
    if problems:
        layers.problems = problems
        return _finished(layers)  # says all of them
    chosen = choose_profile(layers.values)
    taken = profiles.get(chosen, layers)
    taken.values["profile"] = chosen
    return _finished(taken)


def _read(path: Path | None, overrides: Sequence[str], profile: str | None = None) -> Layers:
    layers = Layers(profile=profile)
    if path is not None:
        layers.read_file(Path(path), ())
    stated = layers.values.get("profile")
    for override in overrides:
        layers.read_override(override)
    asked = layers.values.get("profile", "auto")
    if asked == "cpu" != stated and asked not in layers.profiles:
        layers.problem(COMMAND_LINE, f"profile = {asked}: these settings have no section profiles: {asked}")
    return layers


def load_stored(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Settings that were stored with a run (`to_yaml`): complete, so that they name no other files and settings.

    Args:
        path: YAML file.
        overrides: as `load_experiment` takes them.

    Raises:
        ConfigError: with all problems.
    """
    layers = Layers()
    layers.read_file(Path(path), (), stored=True)
    for override in overrides:
        layers.read_override(override)
    return _finished(layers)


def from_dict(data: dict[str, Any], source: str = "stored settings", overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The inverse of `config_dict`, with the same checks.

    Args:
        data: nested plain types.
        source: names the dictionary in errors.
        overrides: as `load_experiment` takes them.

    Raises:
        ConfigError: with all problems.
    """
    layers = Layers()
    try:
        text = yaml.safe_dump(plain(data), sort_keys=False)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{source}: not settings: they hold something else than plain values") from None
    layers.read_text(text, Source(source, lines=False, stored=True))
    for override in overrides:
        layers.read_override(override)
    return _finished(layers)


def _finished(layers: Layers) -> ExperimentConfig:
    """Resolve, complete and check what has been read.

    Raises:
        ConfigError: with all problems.
    """
    tree = tree_of_defaults()
    for key, value in layers.values.items():
        OmegaConf.update(tree, key, tuple(value) if isinstance(value, list) else value)
    resolved = {key: _resolved(layers, tree, key) for key in sorted(layers.deferred)}
    for key, value in resolved.items():
        OmegaConf.update(tree, key, value)
    for key in OmegaConf.missing_keys(tree):
        if key not in layers.bad:
            layers.bad.add(key)
            layers.problem(
                layers.origins.get(key, "missing"), f"{key} is required: set {key}=<value> ({_purpose(key)})"
            )
        OmegaConf.update(tree, key, "missing")
    config = typing.cast(ExperimentConfig, OmegaConf.to_object(tree))
    unsound = set(layers.bad)
    for key, text in checks.range_problems(config):
        if key not in layers.bad:
            value = safe_show(key, value_at(config, key))
            layers.problem(layers.origins.get(key, "default"), f"{key} = {value}: {text}")
            OmegaConf.update(tree, key, default_of(key))  # so that the joint checks meet sound values
            unsound.add(key)
    config = typing.cast(ExperimentConfig, OmegaConf.to_object(tree))
    for concerned, text in checks.joint_problems(config):
        if not unsound.intersection(concerned):
            key = next((k for k in concerned if k in layers.origins), concerned[0])
            where = layers.origins.get(key, "default")
            layers.problem(where, f"{key} = {safe_show(key, value_at(config, key))}: {text}")
    if layers.problems:
        count = len(layers.problems)
        head = "1 problem in the settings:" if count == 1 else f"{count} problems in the settings:"
        raise ConfigError("\n  ".join([head, *layers.problems]))
    return config


def _resolved(layers: Layers, tree: Any, key: str) -> Any:
    """The value of a setting written with `${…}`; the default, with a problem noted, where that fails."""
    try:
        value = OmegaConf.select(tree, key)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        value = coerce(key, value, leaves(ExperimentConfig)[key])
        if is_interpolation(value):  # put together from pieces: OmegaConf would read it again
            raise WrongValueError("gives an interpolation again: write the value")
        return value
    except (OmegaConfBaseException, ValueError) as error:
        shown, problem = safe_show(key, layers.values[key]), str(error).splitlines()[0]
        layers.wrong(key, layers.origins[key], f"{shown}: {problem}")
        return default_of(key)


def _purpose(key: str) -> str:
    return {"name": "the run's name; results go to <runs_dir>/<name>/"}.get(key, "it has no default")
