"""Experiment settings: from YAML files and overrides to a checked `ExperimentConfig`.

The order is: schema ← files named by `extends` ← the file ← `key=value` overrides, then missing keys,
interpolations, objects, ranges and checks across settings. Nothing here imports torch or touches data, and all
problems come in one message, each with its place, key, wrong value and remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_modules.errors import UserError
from data_modules.files import shown_path
from iac_lightning.config import checks, keys
from iac_lightning.config.addresses import without_secrets
from iac_lightning.config.interpolation import interpolation_problem, is_interpolation
from iac_lightning.config.keys import default_of, fields_of, leaves, nearest_keys, tree_of_defaults, value_at
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import (
    MOST_CHARACTERS,
    Loader,
    WrongValueError,
    coerce,
    plain,
    python_value,
    safe_show,
    show,
    type_words,
    unwrapped,
    yaml_problem,
)

COMMAND_LINE = "command line"


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
    reading = _Reading()
    if path is not None:
        reading.read_file(Path(path), ())
    for override in overrides:
        reading.read_override(override)
    return reading.finish()


def load_stored(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Settings that were stored with a run (`to_yaml`): complete, so that they name no other files and settings.

    Args:
        path: YAML file.
        overrides: as `load_experiment` takes them.

    Raises:
        ConfigError: with all problems.
    """
    reading = _Reading()
    reading.read_file(Path(path), (), stored=True)
    for override in overrides:
        reading.read_override(override)
    return reading.finish()


def from_dict(data: dict[str, Any], source: str = "stored settings", overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The inverse of `config_dict`, with the same checks.

    Args:
        data: nested plain types.
        source: names the dictionary in errors.
        overrides: as `load_experiment` takes them.

    Raises:
        ConfigError: with all problems.
    """
    reading = _Reading()
    try:
        text = yaml.safe_dump(plain(data), sort_keys=False)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{source}: not settings: they hold something else than plain values") from None
    reading.read_text(text, _Source(source, lines=False, stored=True))
    for override in overrides:
        reading.read_override(override)
    return reading.finish()


@dataclass(frozen=True)
class _Source:
    """Where settings come from, for messages; those that were stored are taken as they are written."""

    name: str
    lines: bool = True
    stored: bool = False

    def at(self, node: yaml.Node | None) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.lines and node is not None else self.name


@dataclass
class _Reading:
    """The state of one `load_experiment`: values so far, where each came from, and the problems met."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    deferred: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    done: set[Path] = field(default_factory=set)

    def problem(self, where: str, text: str) -> None:
        if (line := f"{where}: {text}") not in self.problems:
            self.problems.append(line)

    def read_file(
        self, path: Path, chain: tuple[Path, ...], wanted_at: str = COMMAND_LINE, stored: bool = False
    ) -> None:
        resolved = path.resolve()
        if resolved in chain:
            loop = " → ".join(shown_path(p, whole=True) for p in (*chain[chain.index(resolved) :], resolved))
            self.problem(wanted_at, f"extends goes round in a circle: {loop}; remove one of them")
            return
        if resolved in self.done:
            return
        self.done.add(resolved)
        source = _Source(shown_path(path, whole=True), stored=stored)
        if stored and path.is_symlink():
            self.problem(source.name, "is a link; the settings of a run are a file of its own: copy that file here")
            return
        try:
            with resolved.open(encoding="utf-8") as file:
                text = file.read(MOST_CHARACTERS + 1)
        except OSError as error:
            names = [p.name for p in resolved.parent.glob("*.yaml")] if resolved.parent.is_dir() else []
            near = difflib.get_close_matches(resolved.name, names, n=1)
            hint = f"; did you mean {shown_path(path.parent / near[0], whole=True)}?" if near else ""
            self.problem(wanted_at, f"cannot read settings file {source.name} ({error.strerror}){hint}")
            return
        except UnicodeDecodeError:
            self.problem(source.name, "not a text file in UTF-8; settings files are YAML")
            return
        self.read_text(text, source, None if stored else (path, (*chain, resolved)))

    def read_text(self, text: str, source: _Source, file: tuple[Path, tuple[Path, ...]] | None = None) -> None:
        node = self.compose(text, source)
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            self.problem(source.at(node), "expected settings as `key: value` lines")
            return
        if file is not None:
            for key, value in node.value:
                if key.value == "extends":
                    self.read_extends(value, source, *file)
            node.value = [(k, v) for k, v in node.value if k.value != "extends"]
        self.read_section(node, ExperimentConfig, "", source)
        if source.stored:
            for key, value in keys.BEFORE_STORED.items():
                self.values.setdefault(key, value)

    def read_extends(self, node: yaml.Node, source: _Source, path: Path, chain: tuple[Path, ...]) -> None:
        names = python_value(node)
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.problem(source.at(node), f"extends = {show(names)}: expected a file, or a list of files")
            return
        for name in names:
            self.read_file(Path(os.path.normpath(path.parent / name)), chain, source.at(node))

    def read_override(self, override: str) -> None:
        key, equals, text = override.partition("=")
        key, source = key.strip(), _Source(COMMAND_LINE, lines=False)
        if not equals or not key:
            self.problem(COMMAND_LINE, f"{override!r} is not key=value, such as seed=1")
            return
        before = len(self.problems)
        node = self.compose(text, source, f"{key} = {safe_show(key, text)}: ") or yaml.ScalarNode(
            "tag:yaml.org,2002:null", ""
        )
        if len(self.problems) > before:
            return
        cls: Any = ExperimentConfig
        *sections, last = key.split(".")
        for depth, part in enumerate(sections):
            prefix = ".".join(sections[:depth])
            hint = fields_of(cls).get(part)
            if hint is None:
                self.unknown(prefix, part, cls, COMMAND_LINE)
                return
            if not dataclasses.is_dataclass(hint):
                whole = ".".join(sections[: depth + 1])
                self.problem(COMMAND_LINE, f"{key}: {whole} holds {type_words(hint)}, without keys below it")
                return
            cls = hint
        self.read_entry(last, node, cls, "".join(f"{s}." for s in sections), source, node)

    def compose(self, text: str, source: _Source, what: str = "") -> yaml.Node | None:
        try:
            return Loader(text).get_single_node()
        except yaml.YAMLError as error:
            line, problem = yaml_problem(error)
            where = f"{source.name}:{line}" if line and source.lines else source.name
            self.problem(where, f"{what}not valid YAML: {problem}")
        return None

    def read_section(self, node: yaml.MappingNode, cls: type, prefix: str, source: _Source) -> None:
        first: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else show(python_value(key_node))
            if name in first:
                line = f" (first on line {first[name].start_mark.line + 1})" if source.lines else ""
                self.problem(source.at(key_node), f"{prefix}{name} is given twice{line}: keep one of them")
                self.bad.add(prefix + name)
            first.setdefault(name, key_node)
            self.read_entry(name, value, cls, prefix, source, key_node)

    def read_entry(
        self, name: str, node: yaml.Node, cls: type, prefix: str, source: _Source, key_node: yaml.Node
    ) -> None:
        hint, key, where = fields_of(cls).get(name), prefix + name, source.at(key_node)
        if hint is None:
            self.unknown(prefix.rstrip("."), name, cls, where)
        elif dataclasses.is_dataclass(hint):
            if isinstance(node, yaml.MappingNode):
                self.read_section(node, typing.cast(type, hint), key + ".", source)
            elif (short := getattr(hint, "SHORTHAND", None)) and isinstance(python_value(node), str):
                self.read_entry(short, node, typing.cast(type, hint), key + ".", source, key_node)
            elif python_value(node) is not None or source.name == COMMAND_LINE:  # an empty section in a file is fine
                names = ", ".join(fields_of(typing.cast(type, hint)))
                shown = safe_show(key, python_value(node))
                self.problem(where, f"{key} = {shown}: expected a section with keys among {names}")
        else:
            self.read_leaf(key, node, hint, where, source.stored)

    def read_leaf(self, key: str, node: yaml.Node, hint: Any, where: str, stored: bool) -> None:
        value = python_value(node)
        self.origins[key] = where
        self.deferred.discard(key)
        if is_interpolation(value):
            if problem := interpolation_problem(value, stored):
                self.wrong(key, where, f"{safe_show(key, value)}: {problem}")
            else:
                self.values[key] = value
                self.deferred.add(key)
            return
        if (
            unwrapped(hint)[0] is str
            and isinstance(node, yaml.ScalarNode)
            and not isinstance(value, (bool, type(None)))
        ):
            value = node.value  # the text as written: 007 is not 7, and a date stays text
        if value == "???":
            return
        try:
            self.values[key] = coerce(key, value, hint)
        except WrongValueError as wrong:
            self.wrong(key, where, f"{safe_show(key, value)}: {wrong}")

    def wrong(self, key: str, where: str, text: str) -> None:
        self.bad.add(key)
        self.problem(where, f"{key} = {text}")

    def unknown(self, section: str, name: str, cls: type, where: str) -> None:
        key = f"{section}.{name}" if section else name
        near = nearest_keys(name, cls, section)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        else:
            hint = f"{section or 'the top level'} has {', '.join(fields_of(cls))}"
            hint += ", and files may have extends" if not section and where != COMMAND_LINE else ""
        self.problem(where, f"{key}: unknown key; {hint}")

    def finish(self) -> ExperimentConfig:
        tree = tree_of_defaults()
        for key, value in self.values.items():
            OmegaConf.update(tree, key, tuple(value) if isinstance(value, list) else value)
        resolved = {key: self.resolve(tree, key) for key in sorted(self.deferred)}
        for key, value in resolved.items():
            OmegaConf.update(tree, key, value)
        for key in OmegaConf.missing_keys(tree):
            if key not in self.bad:
                self.bad.add(key)
                self.problem(
                    self.origins.get(key, "missing"), f"{key} is required: set {key}=<value> ({_purpose(key)})"
                )
            OmegaConf.update(tree, key, "missing")
        config = typing.cast(ExperimentConfig, OmegaConf.to_object(tree))
        unsound = set(self.bad)
        for key, text in checks.range_problems(config):
            if key not in self.bad:
                value = safe_show(key, value_at(config, key))
                self.problem(self.origins.get(key, "default"), f"{key} = {value}: {text}")
                OmegaConf.update(tree, key, default_of(key))  # so that the joint checks meet sound values
                unsound.add(key)
        config = typing.cast(ExperimentConfig, OmegaConf.to_object(tree))
        for concerned, text in checks.joint_problems(config):
            if not unsound.intersection(concerned):
                key = next((k for k in concerned if k in self.origins), concerned[0])
                where = self.origins.get(key, "default")
                self.problem(where, f"{key} = {safe_show(key, value_at(config, key))}: {text}")
        if self.problems:
            count = len(self.problems)
            head = "1 problem in the settings:" if count == 1 else f"{count} problems in the settings:"
            raise ConfigError("\n  ".join([head, *self.problems]))
        return config

    def resolve(self, tree: Any, key: str) -> Any:
        """The value of a setting written with `${…}`; the default, with a problem noted, where that fails."""
        try:
            value = OmegaConf.select(tree, key)
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            value = coerce(key, value, leaves(ExperimentConfig)[key])
            if is_interpolation(value):  # put together from pieces: OmegaConf would read it again
                raise WrongValueError("gives an interpolation again: write the value")
            return value
        except (OmegaConfBaseException, ValueError) as error:
            shown, problem = safe_show(key, self.values[key]), str(error).splitlines()[0]
            self.wrong(key, self.origins[key], f"{shown}: {problem}")
            return default_of(key)


def _purpose(key: str) -> str:
    return {"name": "the run's name; results go to <runs_dir>/<name>/"}.get(key, "it has no default")
