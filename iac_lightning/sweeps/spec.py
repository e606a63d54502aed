"""A sweep's file: axes, seeds and base experiments, read and checked before anything runs."""

from __future__ import annotations

import difflib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from iac_lightning.config.dotted import flat
from iac_lightning.config.reading import ConfigError, load_experiment
from iac_lightning.config.schema import LauncherConfig
from iac_lightning.config.values import MOST_CHARACTERS, read_yaml, yaml_problem
from iac_lightning.sweeps.file_checks import command_line_problems, file_problems
from iac_lightning.sweeps.keys import CUTOFFS, KEYS, old_cutoffs

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """What a sweep's file says; see `KEYS`.

    Attributes:
        path: the file.
        axes: axis to level to settings (dotted keys, and those of `SPECIAL`).
        overrides: `key=value` of the command line, for every cell.
    """

    path: Path
    name: str
    question: str
    caveat: str
    base: Path
    pretrain: Path | None
    settings: dict[str, Any]
    pretrain_settings: dict[str, Any]
    axes: dict[str, dict[str, dict[str, Any]]]
    points: list[dict[str, str]] | None
    exclude: list[dict[str, str]]
    seeds: list[int]
    folds: int | None
    pretrain_seeds: str
    split: str
    stress: list[float]
    phantom: dict[str, Any] | None
    report: dict[str, Any]
    overrides: tuple[str, ...] = ()
    runs_dir: Path = Path("runs")
    launcher: LauncherConfig = field(default_factory=LauncherConfig)

    @property
    def directory(self) -> Path:
        """Where the sweep lives."""
        return self.runs_dir / self.name

    @property
    def held_out(self) -> Sequence[int | None]:
        """The fold of each training of a combination and seed; None: the development split."""
        return [None] if self.folds is None else range(self.folds)

    def combinations(self) -> Iterator[dict[str, str]]:
        """Axis to level, of each combination that is trained."""
        grid = (dict(zip(self.axes, levels, strict=True)) for levels in itertools.product(*self.axes.values()))
        for levels in self.points if self.points is not None else grid:
            if not any(all(levels[axis] == level for axis, level in rule.items()) for rule in self.exclude):
                yield levels


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read and check a sweep's file.

    Args:
        path: YAML.
        overrides: `name=`, `seeds=`, `folds=`, `split=`, `runs_dir=` and `launcher…=` concern the sweep; all others are
            settings of every cell.

    Raises:
        ConfigError: with all problems of the file. Settings of the cells are checked by `cells`.
    """
    own: dict[str, Any] = {}
    launcher, rest = [], []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in ("name", "seeds", "folds", "split"):
            try:
                own[key] = read_yaml(value)
            except yaml.YAMLError as error:
                raise ConfigError(f"command line: {key}=…: not valid YAML: {yaml_problem(error)[1]}") from None
        elif key.split(".")[0] == "launcher" or key == "runs_dir":
            launcher.append(text)
        else:
            rest.append(text)
    raw, problems = _read(Path(path), ())
    raw |= own
    problems += [*file_problems(raw), *command_line_problems(rest)]
    carrier = load_experiment(None, ["name=sweep", *launcher])  # checks the launcher's settings
    if problems:
        raise ConfigError("\n  ".join([f"{path}: {len(problems)} problem{'s'[: len(problems) > 1]}:", *problems]))
    settings, report = flat(raw.get("settings") or {}), dict(raw.get("report") or {})
    if limits := report.pop("risk_cutoffs_mm3", None):
        settings.setdefault(CUTOFFS, list(old_cutoffs(limits)))
        log.warning("%s: write report.risk_cutoffs_mm3 as settings: {%s: %s}", path, CUTOFFS, settings[CUTOFFS])
    return SweepSpec(
        path=Path(path),
        name=raw["name"],
        question=raw.get("question") or "",
        caveat=raw.get("caveat") or "",
        base=Path(raw["base"]),
        pretrain=Path(raw["pretrain"]) if raw.get("pretrain") else None,
        settings=settings,
        pretrain_settings=flat(raw.get("pretrain_settings") or {}),
        axes={
            axis: {str(level): flat(settings or {}) for level, settings in levels.items()}
            for axis, levels in (raw.get("axes") or {}).items()
        },
        points=[{a: str(v) for a, v in p.items()} for p in raw["points"]] if raw.get("points") else None,
        exclude=[{a: str(v) for a, v in p.items()} for p in raw.get("exclude") or []],
        seeds=list(raw.get("seeds") or [0]),
        folds=raw.get("folds"),
        pretrain_seeds=raw.get("pretrain_seeds") or "shared",
        split=raw.get("split") or ("dev" if raw.get("folds") else "test"),
        stress=[float(mm) for mm in raw.get("stress") or []],
        phantom=raw.get("phantom"),
        report=report,
        overrides=tuple(rest),
        runs_dir=Path(carrier.runs_dir),
        launcher=carrier.launcher,
    )


def as_override(key: str, value: Any) -> str:
    """A setting as `key=value`, in YAML's words."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _read(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], list[str]]:
    """The file over the ones it extends; paths of experiments become relative to the working folder."""
    if path.resolve() in chain:
        return {}, [f"{path}: extends itself"]
    try:
        with path.open(encoding="utf-8") as file:
            raw = read_yaml(file.read(MOST_CHARACTERS + 1))
    except (OSError, UnicodeDecodeError) as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        raise ConfigError(
            f"{path}: cannot read the sweep ({error})" + (f"; did you mean {path.parent / near[0]}?" if near else "")
        ) from None
    except yaml.YAMLError as error:
        line, problem = yaml_problem(error)
        raise ConfigError(f"{path}{f':{line}' if line else ''}: not valid YAML: {problem}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected `key: value` lines with keys among {', '.join(KEYS)}")
    for key in ("base", "pretrain"):
        if isinstance(raw.get(key), str):
            raw[key] = os.path.normpath(path.parent / raw[key])
    for levels in _mappings(raw.get("axes")):
        for settings in _mappings(levels):
            for key in ("base", "pretrain"):
                if isinstance(settings.get(key), str):
                    settings[key] = os.path.normpath(path.parent / settings[key])
    problems = [
        f"{path}: {key}: unknown key"
        + (f"; did you mean {near[0]}?" if (near := difflib.get_close_matches(str(key), KEYS, n=1)) else "")
        + f"; keys are {', '.join(KEYS)}"
        for key in raw
        if key not in KEYS
    ]
    parent = raw.pop("extends", None)
    if parent is None:
        return raw, problems
    below, more = _read(Path(os.path.normpath(path.parent / str(parent))), (*chain, path.resolve()))
    for key in ("settings", "pretrain_settings"):
        raw[key] = flat(below.get(key) or {}) | flat(raw.get(key) or {})
    return below | raw, [*more, *problems]


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [v for v in value.values() if isinstance(v, dict)] if isinstance(value, dict) else []
