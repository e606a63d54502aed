"""Pages of the documentation that follow from the code, written while MkDocs builds.

A page holds a comment such as `<!-- generated: settings -->`; what stands there in the end comes from the dataclasses
of the settings, the parser of the command line and the descriptions of columns. Nothing of it is kept in the
repository, so none of it can fall behind.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


# --- where each fact stands in the code: all imports of the project ---------------------------------------------------


def _from(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def settings_class() -> type:
    """The dataclass of a whole experiment; its fields lead to all others."""
    return typing.cast(type, _from("iac_lightning.config.schema", "ExperimentConfig"))


def allowed(field: dataclasses.Field[Any]) -> str:
    """What a setting may be, in words; empty where its type says it all."""
    choices = field.metadata.get(_from("data_modules.settings", "CHOICES"))
    if choices:
        return "one of " + ", ".join(f"`{choice}`" for choice in choices)
    rule = field.metadata.get(_from("data_modules.settings", "RANGE"))
    return "" if rule is None else str(rule.expected)


def parser() -> argparse.ArgumentParser:
    """The command line of `iac`."""
    return typing.cast(argparse.ArgumentParser, _from("iac_lightning.cli", "build_parser")())


TABLES: dict[str, tuple[str, str]] = {
    "cohort": ("data_modules.cohort.table", "COLUMNS"),
    "cohort-optional": ("data_modules.cohort.table", "OPTIONAL_COLUMNS"),
    "inventory": ("data_modules.intake.tables", "INVENTORY_COLUMNS"),
    "inventory-codes": ("data_modules.intake.codes", "CODES"),
    "evaluation": ("iac_lightning.evaluation.tables.series_table", "COLUMNS"),
    "evaluation-metrics": ("iac_lightning.evaluation.tables.series_table", "METRICS"),
    "stress": ("iac_lightning.evaluation.clinical.stress", "COLUMNS"),
    "models": ("iac_lightning.evaluation.tables.model_result", "MODEL_COLUMNS"),
    "comparisons": ("iac_lightning.evaluation.tables.comparison", "COLUMNS"),
    "cells": ("iac_lightning.report.sweep.files", "CELL_COLUMNS"),
    "controls": ("iac_lightning.evaluation.tables.controls", "COLUMNS"),
    "worth": ("iac_lightning.report.worth", "WORTH_COLUMNS"),
    "result": ("iac_lightning.workflows.predict", "RESULT"),
    "sweep-keys": ("iac_lightning.sweeps.keys", "KEYS"),
}
"""Name in a page to the dictionary of names and what they hold."""

RECORDS: dict[str, tuple[str, str]] = {
    "effects": ("iac_lightning.evaluation.ablation.effects", "Effect"),
    "claims": ("iac_lightning.evaluation.ablation.claims", "Claim"),
}
"""Name in a page to the dataclass whose attributes are the columns."""


# --- MkDocs -----------------------------------------------------------------------------------------------------------

_MARK = re.compile(r"^<!-- generated: ([\w-]+)(?: ([^>]+?))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' event: put what is generated into a page."""
    return _MARK.sub(lambda found: generate(found[1], (found[2] or "").split()), markdown)


def generate(name: str, arguments: Iterable[str] = ()) -> str:
    """The Markdown of one mark.

    Raises:
        KeyError: when nothing of that name is known.
    """
    if name in TABLES:
        return definitions(_from(*TABLES[name]), leave_out=arguments)
    if name in RECORDS:
        return definitions(attributes(_from(*RECORDS[name])))
    return PAGES[name](*arguments)


def definitions(meanings: Mapping[str, str], leave_out: Iterable[str] = ()) -> str:
    """A definition list; `leave_out` names tables whose entries stand elsewhere on the page."""
    hidden = {name for table in leave_out for name in _from(*TABLES[table])}
    return "\n".join(f"`{name}`\n:   {safe(text)}\n" for name, text in meanings.items() if name not in hidden)


def safe(text: str) -> str:
    """A description on one line, safe in Markdown and in HTML; code stands between backticks."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*").replace("|", "&#124;") for part in parts[::2]]
    return "`".join(parts)


def prose(text: str, words: Iterable[str] = ()) -> str:
    """A description as a sentence.

    Args:
        text: in plain words.
        words: that keep their small letter at the beginning, for they are what one writes.
    """
    joined = safe(text)
    first = joined.partition(" ")[0].rstrip(":,")
    joined = joined if first in words or "`" in first else joined[:1].upper() + joined[1:]
    return joined + ("" if joined.endswith((".", "…")) else ".")


# --- settings ---------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Every setting in the order of the schema: type, default, what is allowed, meaning."""
    return "\n".join(_section(settings_class(), "", 2))


def _section(cls: type, prefix: str, level: int) -> Iterable[str]:
    hints, meanings = typing.get_type_hints(cls), field_docstrings(cls)
    nested = []
    for field in dataclasses.fields(cls):
        key, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            nested.append((key, typing.cast(type, hint)))
            continue
        rule = allowed(field)
        optional = type(None) in typing.get_args(hint)
        may_be = rule + (", or null" if optional else "") if rule else _words(hint)
        yield f"#### `{key}` {{ #{key} }}\n"
        yield f"{may_be}; default {_default(field)}\n{{ .facts }}\n"
        yield f"{prose(meanings[field.name], re.findall(r'`([^`]+)`', rule))}\n"
    for key, section in nested:
        yield f"{'#' * min(level, 3)} {key} {{ #{key} }}\n"
        yield f"{prose((section.__doc__ or '').strip())}\n"
        yield from _section(section, f"{key}.", level + 1)


def field_docstrings(cls: type) -> dict[str, str]:
    """Field to the text that stands below it in the source."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = typing.cast(ast.ClassDef, node).body
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return found


def _words(hint: Any) -> str:
    """A type in words, as in the messages of `iac`."""
    parts = typing.get_args(hint)
    optional = type(None) in parts
    inner = next(part for part in parts if part is not type(None)) if optional else hint
    one = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    kinds = typing.get_args(inner)
    if typing.get_origin(inner) is tuple:
        count = "list of" if kinds[-1] is ... else {2: "two", 3: "three"}[len(kinds)]
        words = f"{count} {one[kinds[0]]}s"
    else:
        words = one[inner]
    if len(parts) == 3 and optional:
        words += " or a list of them"
    return f"{words}, or null" if optional else words


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value == "???":
        return "none: it must be given"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(f'{v:g}' for v in value)}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command: what it does, how it is called, its arguments."""
    return "\n".join(part for name, command, does in walk(parser()) for part in _command(name, command, does))


def walk(of: argparse.ArgumentParser, prefix: str = "iac") -> Iterable[tuple[str, argparse.ArgumentParser, str]]:
    """(name, parser, what it does) of each command; those with commands of their own lead to these."""
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            does = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                inner = list(walk(command, f"{prefix} {name}"))
                yield from inner or [(f"{prefix} {name}", command, does.get(name, ""))]


def _command(name: str, command: argparse.ArgumentParser, does: str) -> Iterable[str]:
    yield f"## {name} {{ #{name.replace(' ', '-')} }}\n"
    yield f"{prose(does)}\n" if does else ""
    yield f"```text\n{_usage(name, command)}\n```\n"
    for group in command._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS and a.dest != "help"]
        if actions and group.title not in ("positional arguments", "options"):
            yield f"**{prose(group.title or '').rstrip('.')}**\n"
        yield from (_argument(action) for action in actions)


def _usage(name: str, command: argparse.ArgumentParser) -> str:
    """The usage that `--help` shows, with a new line where it grows longer than a page is wide."""
    text = " ".join(command.format_usage().removeprefix("usage:").split()).replace("[-h] ", "").replace(" [-h]", "")
    lines = [name]
    for part in re.findall(r"\[(?:[^\[\]]|\[[^\]]*\])*\]|\([^)]*\)|\S+", text.removeprefix(name)):
        if len(lines[-1]) + len(part) > 76:
            lines.append("   ")
        lines[-1] += f" {part}"
    return "\n".join(lines).replace(" ] ", "] ")


def _argument(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if action.option_strings:
        shown = (metavar or action.dest.upper()) if action.nargs != 0 else ""
        shown = "{" + ",".join(map(str, action.choices)) + "}" if action.choices and shown else shown
        title = f"{', '.join(action.option_strings)} {shown}".strip()
    else:
        title = metavar or action.dest
    title += " …" if action.nargs in ("+", "*") else ""
    text = (action.help or "").replace("%(default)s", _shown_default(action.default))
    facts = [prose(text)] if text else []
    if action.required and action.option_strings:
        facts.append("Required.")
    has_default = action.option_strings and action.nargs != 0 and action.default not in (None, "")
    if has_default and "default" not in text:
        facts.append(f"Default: `{_shown_default(action.default)}`.")
    return f"`{title}`\n:   {' '.join(facts)}\n"


def _shown_default(value: Any) -> str:
    return " ".join(
        f"{v:g}" if isinstance(v, float) else str(v) for v in (value if isinstance(value, list) else [value])
    )


# --- records and the API ----------------------------------------------------------------------------------------------


def attributes(cls: type) -> dict[str, str]:
    """Attribute to description, from the section `Attributes:` of a class's docstring."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for line in section.splitlines():
        head = re.match(r"    (\w+): (.*)", line)
        if head:
            found[head[1]] = head[2]
        elif line.startswith("        ") and found:
            found[list(found)[-1]] += " " + line.strip()
        elif line.strip() and not line.startswith(" "):
            break
    return found


API: dict[str, tuple[str, ...]] = {
    "data": ("data_modules",),
    "networks": ("iac_lightning.models", "iac_lightning.modules", "iac_lightning.inference"),
    "evaluation": ("iac_lightning.evaluation",),
    "pages": ("iac_lightning.figures", "iac_lightning.report"),
    "workflows": ("iac_lightning.workflows", "iac_lightning.sweeps"),
}
"""Page to packages and modules; every other module of the project stands on the page `rest`."""


def modules() -> list[str]:
    """Dotted names of all public modules, packages before what they hold."""
    found = []
    for package in ("data_modules", "iac_lightning"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(name for name in found if not any(part.startswith("_") for part in name.split(".")))


def api(page: str) -> str:
    """The modules of one page for mkdocstrings."""

    def on(name: str, roots: Iterable[str]) -> bool:
        return any(name == root or name.startswith(f"{root}.") for root in roots)

    taken = [root for roots in API.values() for root in roots]
    chosen = [m for m in modules() if (on(m, API[page]) if page in API else not on(m, taken))]
    return "\n\n".join(f"::: {name}" for name in chosen if _defines(name))


def _defines(name: str) -> bool:
    """Whether a module has anything of its own to show."""
    path = ROOT.joinpath(*name.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    return any(isinstance(node, kinds) for node in ast.parse(source).body)


def include(path: str) -> str:
    """A file of the project's root as part of a page."""
    return (ROOT / path).read_text(encoding="utf-8")


PAGES: dict[str, Callable[..., str]] = {"settings": settings, "commands": commands, "api": api, "include": include}
"""Name in a page to what makes it."""
