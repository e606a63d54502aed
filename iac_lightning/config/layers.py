"""Settings one over the other: files, those they extend, their profiles, the command line; and where each came from.

Nothing is checked here beyond the type of each value: that is `reading`'s, when all have been read.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_modules.files import shown_path
from iac_lightning.config import keys
from iac_lightning.config.interpolation import interpolation_problem, is_interpolation
from iac_lightning.config.keys import choices, fields_of, nearest_keys
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import (
    MOST_CHARACTERS,
    Loader,
    WrongValueError,
    coerce,
    python_value,
    safe_show,
    show,
    type_words,
    unwrapped,
    yaml_problem,
)

COMMAND_LINE = "command line"
OF_FILES = ("extends", "profiles")
"""Keys of a settings file that are no settings."""


@dataclass(frozen=True)
class Source:
    """Where settings come from, for messages; those that were stored are taken as they are written."""

    name: str
    lines: bool = True
    stored: bool = False

    def at(self, node: yaml.Node | None) -> str:
        """The place of a node, for messages."""
        return f"{self.name}:{node.start_mark.line + 1}" if self.lines and node is not None else self.name


@dataclass
class Layers:
    """Values so far, where each came from, and the problems met.

    Attributes:
        profile: whose section of `profiles` is laid over each file that has one.
        profiles: that the files have sections for.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    deferred: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    done: set[Path] = field(default_factory=set)
    profile: str | None = None
    profiles: set[str] = field(default_factory=set)

    def problem(self, where: str, text: str) -> None:
        """Note what is wrong, once."""
        if (line := f"{where}: {text}") not in self.problems:
            self.problems.append(line)

    def read_file(
        self, path: Path, chain: tuple[Path, ...], wanted_at: str = COMMAND_LINE, stored: bool = False
    ) -> None:
        """Lay a file over what was read so far, after those that it extends.

        Args:
            path: of the file.
            chain: the files that led to it.
            wanted_at: where it is named.
            stored: complete settings of a run, taken as they are written.
        """
        resolved = path.resolve()
        if resolved in chain:
            loop = " → ".join(shown_path(p, whole=True) for p in (*chain[chain.index(resolved) :], resolved))
            self.problem(wanted_at, f"extends goes round in a circle: {loop}; remove one of them")
            return
        if resolved in self.done:
            return
        self.done.add(resolved)
        source = Source(shown_path(path, whole=True), stored=stored)
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

    def read_text(self, text: str, source: Source, file: tuple[Path, tuple[Path, ...]] | None = None) -> None:
        """Lay settings over what was read so far; `file`: its path and how it was reached, if it may extend others."""
        node = self._compose(text, source)
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            self.problem(source.at(node), "expected settings as `key: value` lines")
            return
        if file is not None:
            for key, value in node.value:
                if key.value == "extends":
                    self._read_extends(value, source, *file)
        own = [(k, v) for k, v in node.value if file is None or k.value not in OF_FILES]
        profiles = [v for k, v in node.value if file is not None and k.value == "profiles"]
        node.value = own
        self._read_section(node, ExperimentConfig, "", source)
        for value in profiles:
            self._read_profiles(value, source)
        if source.stored:
            keys.complete_stored(self.values)

    def _read_extends(self, node: yaml.Node, source: Source, path: Path, chain: tuple[Path, ...]) -> None:
        names = python_value(node)
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.problem(source.at(node), f"extends = {show(names)}: expected a file, or a list of files")
            return
        for name in names:
            self.read_file(Path(os.path.normpath(path.parent / name)), chain, source.at(node))

    def _read_profiles(self, node: yaml.Node, source: Source) -> None:
        """Lay the section of the profile over what its file says; files that extend this one come later and win."""
        known = [word for word in choices()["profile"] if word != "auto"]
        if not isinstance(node, yaml.MappingNode):
            self.problem(source.at(node), f"profiles: expected sections among {', '.join(known)}, with settings below")
            return
        for key, value in node.value:
            if key.value not in known:
                self.problem(source.at(key), f"profiles.{key.value}: unknown profile; there are {', '.join(known)}")
            elif not isinstance(value, yaml.MappingNode):
                self.problem(source.at(key), f"profiles.{key.value}: expected settings as `key: value` lines")
            else:
                self.profiles.add(key.value)
                if key.value == self.profile:
                    self._read_section(value, ExperimentConfig, "", source)

    def read_override(self, override: str) -> None:
        """Lay `key=value` over what was read so far."""
        key, equals, text = override.partition("=")
        key, source = key.strip(), Source(COMMAND_LINE, lines=False)
        if not equals or not key:
            self.problem(COMMAND_LINE, f"{override!r} is not key=value, such as seed=1")
            return
        before = len(self.problems)
        node = self._compose(text, source, f"{key} = {safe_show(key, text)}: ") or yaml.ScalarNode(
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
                self._unknown(prefix, part, cls, COMMAND_LINE)
                return
            if not dataclasses.is_dataclass(hint):
                whole = ".".join(sections[: depth + 1])
                self.problem(COMMAND_LINE, f"{key}: {whole} holds {type_words(hint)}, without keys below it")
                return
            cls = hint
        self._read_entry(last, node, cls, "".join(f"{s}." for s in sections), source, node)

    def _compose(self, text: str, source: Source, what: str = "") -> yaml.Node | None:
        try:
            return Loader(text).get_single_node()
        except yaml.YAMLError as error:
            line, problem = yaml_problem(error)
            where = f"{source.name}:{line}" if line and source.lines else source.name
            self.problem(where, f"{what}not valid YAML: {problem}")
        return None

    def _read_section(self, node: yaml.MappingNode, cls: type, prefix: str, source: Source) -> None:
        first: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else show(python_value(key_node))
            if name in first:
                line = f" (first on line {first[name].start_mark.line + 1})" if source.lines else ""
                self.problem(source.at(key_node), f"{prefix}{name} is given twice{line}: keep one of them")
                self.bad.add(prefix + name)
            first.setdefault(name, key_node)
            self._read_entry(name, value, cls, prefix, source, key_node)

    def _read_entry(
        self, name: str, node: yaml.Node, cls: type, prefix: str, source: Source, key_node: yaml.Node
    ) -> None:
        hint, key, where = fields_of(cls).get(name), prefix + name, source.at(key_node)
        if hint is None:
            self._unknown(prefix.rstrip("."), name, cls, where)
        elif dataclasses.is_dataclass(hint):
            if isinstance(node, yaml.MappingNode):
                self._read_section(node, typing.cast(type, hint), key + ".", source)
            elif (short := getattr(hint, "SHORTHAND", None)) and isinstance(python_value(node), str):
                self._read_entry(short, node, typing.cast(type, hint), key + ".", source, key_node)
            elif python_value(node) is not None or source.name == COMMAND_LINE:  # an empty section in a file is fine
                names = ", ".join(fields_of(typing.cast(type, hint)))
                shown = safe_show(key, python_value(node))
                self.problem(where, f"{key} = {shown}: expected a section with keys among {names}")
        else:
            self._read_leaf(key, node, hint, where, source.stored)

    def _read_leaf(self, key: str, node: yaml.Node, hint: Any, where: str, stored: bool) -> None:
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
        """Note a value that cannot be used."""
        self.bad.add(key)
        self.problem(where, f"{key} = {text}")

    def _unknown(self, section: str, name: str, cls: type, where: str) -> None:
        key = f"{section}.{name}" if section else name
        near = nearest_keys(name, cls, section)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        else:
            hint = f"{section or 'the top level'} has {', '.join(fields_of(cls))}"
            hint += f", and files may have {' and '.join(OF_FILES)}" if not section and where != COMMAND_LINE else ""
        self.problem(where, f"{key}: unknown key; {hint}")
