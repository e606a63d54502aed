"""Values of settings: YAML as the project reads it, values as the schema's types, and both in words for messages."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from typing import Any

import yaml

from iac_lightning.config.keys import choices, value_at
from iac_lightning.config.schema import ExperimentConfig


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number (PyYAML reads it as text)."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read_yaml(text: str) -> Any:
    """Plain types of a YAML text, numbers read as in settings files.

    Raises:
        yaml.YAMLError: when it is not YAML.
    """
    return yaml.load(text, Loader)


def python_value(node: yaml.Node) -> Any:
    """The plain value of a YAML node; the text as written where there is none."""
    loader = Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError):
        return node.value if isinstance(node, yaml.ScalarNode) else None


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
    scalar = _scalar(value, inner)
    if scalar is None:
        remedy = ""
        if inner is str and isinstance(value, bool):
            remedy = "; YAML reads yes, no, on, off, true and false as truth values: put the word in quotes"
        elif isinstance(value, str) and _scalar(yaml.load(value, Loader), inner) is not None:
            remedy = ", without quotes"
        raise WrongValueError(f"expected {type_words(hint)}{remedy}")
    words = choices().get(key)
    if words and scalar not in words:
        near = difflib.get_close_matches(str(scalar).lower(), words, n=1)
        hint_text = f"did you mean {near[0]}? " if near else ""
        raise WrongValueError(f"unknown choice; {hint_text}choices: {', '.join(words)}")
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
    many = {int: "whole numbers", float: "numbers"}
    if typing.get_origin(inner) is tuple:
        kinds = typing.get_args(inner)
        count = "a list of" if kinds[-1] is ... else {2: "two", 3: "three"}[len(kinds)]
        words = f"{count} {many[kinds[0]]}"
    else:
        words = one[inner]
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
    """As `show`, with the password of a server left out."""
    return re.sub(r"//[^/@]*@", "//…@", show(value)) if key == "tracking.uri" else show(value)
