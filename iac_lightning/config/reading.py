"""Experiment settings: from YAML files and overrides to a checked `ExperimentConfig`.

The order is: schema ← files named by `extends` ← the file ← `key=value` overrides, then missing keys,
interpolations, objects, ranges and checks across settings. Nothing here imports torch or touches data, and all
problems come in one message, each with its place, key, wrong value and remedy.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_modules.errors import UserError
from iac_lightning.config import checks
from iac_lightning.config.checks import resolved_vit, value_at
from iac_lightning.config.schema import ExperimentConfig

__all__ = [
    "ConfigError",
    "config_dict",
    "config_hash",
    "diff",
    "from_dict",
    "load_experiment",
    "read_yaml",
    "resolved_vit",
    "to_yaml",
    "value_at",
]

UNDECISIVE = (
    "runs_dir",
    "data.prepared_dir",
    "data.prepare_workers",
    "data.num_workers",
    "trainer.threads",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "tracking",
    "inference",
    "launcher",
    "evaluation",
)
"""Settings (or sections) that say how a run is carried out and do not decide its result."""

COMMAND_LINE = "command line"


class ConfigError(UserError):
    """Settings that cannot be used; the message lists every problem."""


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


def from_dict(data: dict[str, Any], source: str = "stored settings") -> ExperimentConfig:
    """The inverse of `config_dict`, with the same checks; `source` names the dictionary in errors."""
    reading = _Reading()
    reading.read_text(yaml.safe_dump(_plain(data), sort_keys=False), _Source(source, lines=False))
    return reading.finish()


def config_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Plain nested dictionary with lists for tuples: safe in checkpoints, JSON and YAML."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def to_yaml(config: ExperimentConfig) -> str:
    """The complete settings as YAML that `load_experiment` reads back."""
    return yaml.dump(config_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def diff(a: ExperimentConfig, b: ExperimentConfig) -> list[str]:
    """Dotted keys whose values differ, in the order of the schema."""
    return [key for key in _leaves(ExperimentConfig) if value_at(a, key) != value_at(b, key)]


def is_decisive(key: str) -> bool:
    """Whether a setting can change the result of a run."""
    return not any(key == other or key.startswith(other + ".") for other in UNDECISIVE)


def config_hash(config: ExperimentConfig, *also: str) -> str:
    """12 hexadecimal digits over the settings that decide the result, the name excepted.

    Args:
        config: the experiment.
        also: sections that count too, such as "inference" where it is an evaluation's result.
    """
    keys = [k for k in _leaves(ExperimentConfig) if is_decisive(k) or k.partition(".")[0] in also]
    decisive = {k: _plain(value_at(config, k)) for k in keys if k != "name"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


# --- the schema, seen as a tree of keys -------------------------------------------------------------------------


@cache
def _fields(cls: type) -> dict[str, Any]:
    """Field name → type of a dataclass."""
    return {name: hint for name, hint in typing.get_type_hints(cls).items() if typing.get_origin(hint) is not ClassVar}


@cache
def _leaves(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key → type of every setting below a dataclass."""
    leaves: dict[str, Any] = {}
    for name, hint in _fields(cls).items():
        if dataclasses.is_dataclass(hint):
            leaves |= _leaves(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = hint
    return leaves


@cache
def _choices(cls: type, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Dotted key → allowed words, from the fields' metadata."""
    choices: dict[str, tuple[str, ...]] = dict(checks.WORDS) if not prefix else {}
    for f in dataclasses.fields(cls):
        hint = _fields(cls)[f.name]
        if dataclasses.is_dataclass(hint):
            choices |= _choices(typing.cast(type, hint), f"{prefix}{f.name}.")
        elif "choices" in f.metadata:
            choices[f"{prefix}{f.name}"] = f.metadata["choices"]
    return choices


# --- reading ----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number (PyYAML reads it as text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Lists on one line, sections in blocks."""


_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))


def read_yaml(text: str) -> Any:
    """Plain types of a YAML text, numbers read as in settings files.

    Raises:
        yaml.YAMLError: when it is not YAML.
    """
    return yaml.load(text, _Loader)


@dataclass(frozen=True)
class _Source:
    """Where settings come from, for messages."""

    name: str
    lines: bool = True

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

    def read_file(self, path: Path, chain: tuple[Path, ...], wanted_at: str = COMMAND_LINE) -> None:
        resolved = path.resolve()
        if resolved in chain:
            loop = " → ".join(_shown_path(p) for p in (*chain[chain.index(resolved) :], resolved))
            self.problem(wanted_at, f"extends goes round in a circle: {loop}; remove one of them")
            return
        if resolved in self.done:
            return
        self.done.add(resolved)
        source = _Source(_shown_path(path))
        try:
            text = resolved.read_text(encoding="utf-8")
        except OSError as error:
            names = [p.name for p in resolved.parent.glob("*.yaml")] if resolved.parent.is_dir() else []
            near = difflib.get_close_matches(resolved.name, names, n=1)
            hint = f"; did you mean {_shown_path(path.parent / near[0])}?" if near else ""
            self.problem(wanted_at, f"cannot read settings file {source.name} ({error.strerror}){hint}")
            return
        except UnicodeDecodeError:
            self.problem(source.name, "not a text file in UTF-8; settings files are YAML")
            return
        self.read_text(text, source, (path, (*chain, resolved)))

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

    def read_extends(self, node: yaml.Node, source: _Source, path: Path, chain: tuple[Path, ...]) -> None:
        names = _python(node)
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.problem(source.at(node), f"extends = {_show(names)}: expected a file, or a list of files")
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
        node = self.compose(text, source, f"{key} = {text!r}: ") or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        if len(self.problems) > before:
            return
        cls: Any = ExperimentConfig
        *sections, last = key.split(".")
        for depth, part in enumerate(sections):
            prefix = ".".join(sections[:depth])
            hint = _fields(cls).get(part)
            if hint is None:
                self.unknown(prefix, part, cls, COMMAND_LINE)
                return
            if not dataclasses.is_dataclass(hint):
                whole = ".".join(sections[: depth + 1])
                self.problem(COMMAND_LINE, f"{key}: {whole} holds {_words(hint)}, without keys below it")
                return
            cls = hint
        self.read_entry(last, node, cls, "".join(f"{s}." for s in sections), source, node)

    def compose(self, text: str, source: _Source, what: str = "") -> yaml.Node | None:
        try:
            return _Loader(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f"{source.name}:{mark.line + 1}" if mark and source.lines else source.name
            self.problem(where, f"{what}not valid YAML: {error.problem or error.context}")
        except yaml.YAMLError as error:
            self.problem(source.name, f"{what}not valid YAML: {str(error).splitlines()[0]}")
        return None

    def read_section(self, node: yaml.MappingNode, cls: type, prefix: str, source: _Source) -> None:
        first: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else _show(_python(key_node))
            if name in first:
                line = f" (first on line {first[name].start_mark.line + 1})" if source.lines else ""
                self.problem(source.at(key_node), f"{prefix}{name} is given twice{line}: keep one of them")
                self.bad.add(prefix + name)
            first.setdefault(name, key_node)
            self.read_entry(name, value, cls, prefix, source, key_node)

    def read_entry(
        self, name: str, node: yaml.Node, cls: type, prefix: str, source: _Source, key_node: yaml.Node
    ) -> None:
        hint, key, where = _fields(cls).get(name), prefix + name, source.at(key_node)
        if hint is None:
            self.unknown(prefix.rstrip("."), name, cls, where)
        elif dataclasses.is_dataclass(hint):
            if isinstance(node, yaml.MappingNode):
                self.read_section(node, typing.cast(type, hint), key + ".", source)
            elif (short := getattr(hint, "SHORTHAND", None)) and isinstance(_python(node), str):
                self.read_entry(short, node, typing.cast(type, hint), key + ".", source, key_node)
            elif _python(node) is not None or source.name == COMMAND_LINE:  # an empty section in a file is fine
                names = ", ".join(_fields(typing.cast(type, hint)))
                self.problem(where, f"{key} = {_show(_python(node))}: expected a section with keys among {names}")
        else:
            self.read_leaf(key, node, hint, where)

    def read_leaf(self, key: str, node: yaml.Node, hint: Any, where: str) -> None:
        value = _python(node)
        self.origins[key] = where
        self.deferred.discard(key)
        if any(isinstance(v, str) and "${" in v for v in (value if isinstance(value, list) else [value])):
            self.values[key] = value
            self.deferred.add(key)
            return
        if _unwrap(hint)[0] is str and isinstance(node, yaml.ScalarNode) and not isinstance(value, (bool, type(None))):
            value = node.value  # the text as written: 007 is not 7, and a date stays text
        if value == "???":
            return
        try:
            self.values[key] = _coerce(key, value, hint)
        except _WrongValueError as wrong:
            self.bad.add(key)
            self.problem(where, f"{key} = {_show(value)}: {wrong}")

    def unknown(self, section: str, name: str, cls: type, where: str) -> None:
        key = f"{section}.{name}" if section else name
        near = _nearest_keys(name, cls, section)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        else:
            hint = f"{section or 'the top level'} has {', '.join(_fields(cls))}"
            hint += ", and files may have extends" if not section and where != COMMAND_LINE else ""
        self.problem(where, f"{key}: unknown key; {hint}")

    def finish(self) -> ExperimentConfig:
        tree = OmegaConf.structured(ExperimentConfig)
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
                value = _safe_show(key, value_at(config, key))
                self.problem(self.origins.get(key, "default"), f"{key} = {value}: {text}")
                OmegaConf.update(tree, key, _default(key))  # so that the joint checks meet sound values
                unsound.add(key)
        config = typing.cast(ExperimentConfig, OmegaConf.to_object(tree))
        for keys, text in checks.joint_problems(config):
            if not unsound.intersection(keys):
                key = next((k for k in keys if k in self.origins), keys[0])
                where = self.origins.get(key, "default")
                self.problem(where, f"{key} = {_show(value_at(config, key))}: {text}")
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
            return _coerce(key, value, _leaves(ExperimentConfig)[key])
        except (OmegaConfBaseException, ValueError) as error:
            self.bad.add(key)
            self.problem(self.origins[key], f"{key} = {_show(self.values[key])}: {str(error).splitlines()[0]}")
            return _default(key)


def _python(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError):
        return node.value if isinstance(node, yaml.ScalarNode) else None


# --- values -----------------------------------------------------------------------------------------------------


class _WrongValueError(ValueError):
    """A value of the wrong type or an unknown word; the text says what was expected."""


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """The value as the setting's type, or `_WrongValueError` with the remedy in words."""
    inner, optional = _unwrap(hint)
    if value is None and optional:
        return None
    if typing.get_origin(inner) is tuple:
        kinds = typing.get_args(inner)
        if kinds[-1] is ...:
            kinds = (kinds[0],) * (len(value) if isinstance(value, (list, tuple)) else 0)
        fits = isinstance(value, (list, tuple)) and len(value) == len(kinds)
        scalars = [_scalar(v, kind) for v, kind in zip(value, kinds, strict=True)] if fits else [None]
        if None in scalars:
            default = value_at(ExperimentConfig(), key)
            example = "" if default is None else f", such as {_show(default)}"
            raise _WrongValueError(f"expected {_words(hint)}{example}")
        return tuple(scalars)
    scalar = _scalar(value, inner)
    if scalar is None:
        remedy = ""
        if inner is str and isinstance(value, bool):
            remedy = "; YAML reads yes, no, on, off, true and false as truth values: put the word in quotes"
        elif isinstance(value, str) and _scalar(yaml.load(value, _Loader), inner) is not None:
            remedy = ", without quotes"
        raise _WrongValueError(f"expected {_words(hint)}{remedy}")
    choices = _choices(ExperimentConfig).get(key)
    if choices and scalar not in choices:
        near = difflib.get_close_matches(str(scalar).lower(), choices, n=1)
        hint_text = f"did you mean {near[0]}? " if near else ""
        raise _WrongValueError(f"unknown choice; {hint_text}choices: {', '.join(choices)}")
    return scalar


def _scalar(value: Any, kind: type) -> Any:
    """The value as `kind`, None where it is something else. Truth values are not numbers, text is neither."""
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is str:
        return value if isinstance(value, str) and value else None
    if not isinstance(value, (int, float)) or value != value or abs(value) == float("inf"):
        return None
    if kind is int:
        return int(value) if int(value) == value else None
    return float(value)


def _unwrap(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was allowed."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0], True
    return hint, False


def _words(hint: Any) -> str:
    """A type in words: "three whole numbers", "a number or null"."""
    inner, optional = _unwrap(hint)
    one = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    many = {int: "whole numbers", float: "numbers"}
    if typing.get_origin(inner) is tuple:
        kinds = typing.get_args(inner)
        count = "a list of" if kinds[-1] is ... else {2: "two", 3: "three"}[len(kinds)]
        words = f"{count} {many[kinds[0]]}"
    else:
        words = one[inner]
    return f"{words} or null" if optional else words


def _nearest_keys(name: str, cls: type, section: str) -> list[str]:
    """Valid keys that a misspelt one may mean: alike beside it, then the same name elsewhere, then alike elsewhere."""
    prefix = f"{section}." if section else ""
    wanted = name.lower()
    beside = [prefix + near for near in difflib.get_close_matches(wanted, _fields(cls), n=1, cutoff=0.7)]
    by_name: dict[str, list[str]] = {}
    for key in _all_keys(ExperimentConfig):
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    same = [key for key in by_name.get(wanted, []) if key not in beside]
    if beside or same:
        return (same + beside if same and not beside else beside + same)[:3]
    return [key for near in difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.7) for key in by_name[near]][:3]


@cache
def _all_keys(cls: type, prefix: str = "") -> tuple[str, ...]:
    """Every dotted key, sections included."""
    keys: list[str] = []
    for name, hint in _fields(cls).items():
        keys.append(prefix + name)
        if dataclasses.is_dataclass(hint):
            keys += _all_keys(typing.cast(type, hint), f"{prefix}{name}.")
    return tuple(keys)


def _default(key: str) -> Any:
    """The schema's default, a stand-in for a required setting."""
    default = value_at(ExperimentConfig(), key)
    return "missing" if default == "???" else default


def _purpose(key: str) -> str:
    return {"name": "the run's name; results go to <runs_dir>/<name>/"}.get(key, "it has no default")


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _show(value: Any) -> str:
    """A value as one would write it in YAML."""
    if isinstance(value, str):
        return repr(value)
    try:
        return json.dumps(_plain(value), ensure_ascii=False)
    except TypeError:
        return str(value)


def _safe_show(key: str, value: Any) -> str:
    """As `_show`, with the password of a server left out."""
    return re.sub(r"//[^/@]*@", "//…@", _show(value)) if key == "tracking.uri" else _show(value)


def _shown_path(path: Path) -> str:
    """Relative to the working directory where the file is below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
