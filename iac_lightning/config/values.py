"""Values of settings: YAML as the project reads it, values as the schema's types, and both in words for messages."""

from __future__ import annotations

import difflib
import json
import re
import sys
import types
import typing
from typing import Any

import yaml

from iac_lightning.config.addresses import shown_address, without_secrets
from iac_lightning.config.keys import choices, truths, value_at
from iac_lightning.config.schema import ExperimentConfig

MOST_CHARACTERS = 2**18
MOST_VALUES = 20_000
MOST_LEVELS = 40
"""Far more than any settings need; what is beyond is a mistake, or made to exhaust memory."""

_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "timestamp", "str", "seq", "map")}
_TAGS |= {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}


class Loader(yaml.SafeLoader):
    """YAML of plain values and of a bounded size, in which 1e-3 is a number (PyYAML reads it as text).

    Raises:
        yaml.YAMLError: also for tags of a program's objects, for more than `MOST_CHARACTERS`, and for more than
            `MOST_VALUES` values or `MOST_LEVELS` levels, those behind an alias counted each time.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise yaml.YAMLError(f"{len(text):,} characters or more; settings take at most {MOST_CHARACTERS:,}")
        super().__init__(text)
        self._level = 0
        self._extent: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """PyYAML's step from events to nodes, with the bounds."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._level += 1
        if self._level > MOST_LEVELS:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_LEVELS} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is None:
            return node
        if is_alias:
            if id(node) not in self._extent:
                raise yaml.MarkedYAMLError(problem="an alias inside what it stands for", problem_mark=mark)
            return node
        if node.tag not in _TAGS:
            raise yaml.MarkedYAMLError(problem=f"{node.tag!r} is not a plain value", problem_mark=mark)
        children: list[Any] = []
        if isinstance(node, yaml.CollectionNode):
            pairs = isinstance(node, yaml.MappingNode)
            children = [child for pair in node.value for child in pair] if pairs else node.value
        extents = [self._extent[id(child)] for child in children]
        values, levels = 1 + sum(n for n, _ in extents), 1 + max((n for _, n in extents), default=0)
        if values > MOST_VALUES or levels > MOST_LEVELS:
            problem = f"more than {MOST_VALUES:,} values or {MOST_LEVELS} levels, with those behind aliases"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self._extent[id(node)] = values, levels
        return node


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read_yaml(text: str) -> Any:
    """Plain types of a YAML text, numbers read as in settings files.

    Raises:
        yaml.YAMLError: when it is not YAML, or not of the kind that `Loader` takes.
    """
    try:
        return yaml.load(text, Loader)
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        raise yaml.YAMLError(str(error)) from None


def yaml_problem(error: yaml.YAMLError) -> tuple[int | None, str]:
    """The line, counted from 1, and what is wrong there, without the text itself, which may be secret."""
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else None
        return line, str(error.problem or error.context)
    return None, str(error).splitlines()[0]


def python_value(node: yaml.Node) -> Any:
    """The plain value of a YAML node; the text as written where there is none."""
    try:
        return Loader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError):
        return node.value if isinstance(node, yaml.ScalarNode) else None


_LARGEST = sys.float_info.max
"""What is beyond is no number that a computer reckons with."""


class WrongValueError(ValueError):
    """A value of the wrong type or an unknown word; the text says what was expected."""


def coerce(key: str, value: Any, hint: Any) -> Any:
    """The value as the setting's type.

    Raises:
        WrongValueError: with the remedy in words.
    """
    inner, optional = unwrapped(hint)
    if value is None and optional:
        return None
    if isinstance(value, (list, tuple)):
        inner = next((kind for kind in typing.get_args(hint) if typing.get_origin(kind) is tuple), inner)
    if typing.get_origin(inner) is tuple:
        kinds = typing.get_args(inner)
        if kinds[-1] is ...:
            kinds = (kinds[0],) * (len(value) if isinstance(value, (list, tuple)) else 0)
        fits = isinstance(value, (list, tuple)) and len(value) == len(kinds)
        scalars = [_scalar(v, kind) for v, kind in zip(value, kinds, strict=True)] if fits else [None]
        if None in scalars:
            default = value_at(ExperimentConfig(), key)
            example = "" if default is None else f", such as {show(default)}"
            raise WrongValueError(f"expected {type_words(hint)}{example}")
        return tuple(scalars)
    if isinstance(value, bool) and key in truths():
        value = truths()[key][value]
    scalar = _scalar(value, inner)
    if scalar is None:
        remedy = ""
        if inner is str and isinstance(value, bool):
            remedy = "; YAML reads yes, no, on, off, true and false as truth values: put the word in quotes"
        elif isinstance(value, str) and _scalar(_unquoted(value), inner) is not None:
            remedy = ", without quotes"
        raise WrongValueError(f"expected {type_words(hint)}{remedy}")
    words = choices().get(key)
    if words and scalar not in words:
        near = difflib.get_close_matches(str(scalar).lower(), words, n=1)
        hint_text = f"did you mean {near[0]}? " if near else ""
        raise WrongValueError(f"unknown choice; {hint_text}choices: {', '.join(words)}")
    return scalar


def _unquoted(text: str) -> Any:
    """What a text would be without its quotes; None where that is no YAML."""
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return None


def _scalar(value: Any, kind: type) -> Any:
    """The value as `kind`, None where it is something else. Truth values are not numbers, text is neither."""
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is str:
        return value if isinstance(value, str) and value else None
    if not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:  # NaN is not either
        return None
    if kind is int:
        return int(value) if int(value) == value else None
    return float(value)


def unwrapped(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was allowed."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0], True
    return hint, False


def type_words(hint: Any) -> str:
    """A type in words: "three whole numbers", "a number or null"."""
    inner, optional = unwrapped(hint)
    one = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    many = {int: "whole numbers", float: "numbers", str: "texts"}
    if typing.get_origin(inner) is tuple:
        kinds = typing.get_args(inner)
        count = "a list of" if kinds[-1] is ... else {2: "two", 3: "three"}[len(kinds)]
        words = f"{count} {many[kinds[0]]}"
    else:
        words = one[inner]
    if optional and len(typing.get_args(hint)) == 3:
        words += " or a list of them"
    return f"{words} or null" if optional else words


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def show(value: Any) -> str:
    """A value as one would write it in YAML."""
    if isinstance(value, str):
        return repr(value)
    try:
        return json.dumps(plain(value), ensure_ascii=False)
    except TypeError:
        return str(value)


def safe_show(key: str, value: Any) -> str:
    """As `show`, with addresses that may hold a credential left out."""
    if key.startswith("tracking"):
        return repr(shown_address(value)) if isinstance(value, str) else without_secrets(shown_address(show(value)))
    return without_secrets(show(value))
