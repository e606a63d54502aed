"""Files and functions that are too long to be understood at once; `make lint` runs it.

Limits and exceptions stand in `lengths.toml` beside this file. An exception has a reason and a length of its own, and
fails once it is no longer needed. Lines are counted as an editor does; a function's are its `def` to its last line,
docstring included.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def problems(root: Path, rules: dict[str, Any]) -> list[str]:
    """What is too long, and which exceptions say nothing or are no longer needed, one line each.

    Args:
        root: folder that all paths start from.
        rules: `limits` (a list of `folders`, and the most lines of a `file` and of a `function` in them) and
            `exceptions` (`path.py` or `path.py::function`: `lines`, the most that this one may have, and a `reason`).
    """
    exceptions = rules.get("exceptions", {})
    found = [f"{name}: an exception needs a reason" for name, rule in exceptions.items() if not rule.get("reason")]
    needed = set()
    for limits in rules["limits"]:
        for folder in limits["folders"]:
            for name, kind, lines in measured(root, folder):
                if lines <= limits[kind]:
                    continue
                needed.add(name)
                allowed = exceptions[name]["lines"] if name in exceptions else limits[kind]
                if lines > allowed:
                    found.append(
                        f"{name}: {lines} lines, a {kind} has {allowed} at most here; split it by what it does"
                    )
    unneeded = [
        f"{name}: nothing here is over the limit; take the exception out" for name in exceptions.keys() - needed
    ]
    return found + sorted(unneeded)


def measured(root: Path, folder: str) -> Iterator[tuple[str, str, int]]:
    """Name (as an exception names it), kind (`file` or `function`) and lines of everything in a folder.

    Raises:
        FileNotFoundError: when no Python file is there; a check of nothing would always pass.
    """
    paths = sorted((root / folder).rglob("*.py"))
    if not paths:
        raise FileNotFoundError(f"{root / folder} holds no Python file; mend `folders` in tools/lengths.toml")
    for path in paths:
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        yield name, "file", len(text.splitlines())
        for function, lines in _functions(ast.parse(text)):
            yield f"{name}::{function}", "function", lines


def _functions(node: ast.AST, inside: str = "") -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        name = inside
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{child.name}" if inside else child.name
            if not isinstance(child, ast.ClassDef):
                yield name, (child.end_lineno or child.lineno) - child.lineno + 1
        yield from _functions(child, name)


def main() -> int:
    """Print every problem of this repository; 1 when there is one."""
    found = problems(ROOT, tomllib.loads((ROOT / "tools" / "lengths.toml").read_text(encoding="utf-8")))
    print("\n".join(found) if found else "lengths: all within their limits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
