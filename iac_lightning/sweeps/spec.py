"""A sweep's file: axes, seeds and base experiments, read and checked before anything runs."""

from __future__ import annotations

import difflib
import itertools
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_modules.errors import UserError
from iac_lightning.config.dotted import flat
from iac_lightning.config.reading import ConfigError, load_experiment
from iac_lightning.config.schema import LauncherConfig
from iac_lightning.config.values import MOST_CHARACTERS, read_yaml, yaml_problem

log = logging.getLogger(__name__)

KEYS = {
    "name": "name of the sweep; results go to <runs_dir>/<name>/",
    "question": "what is asked, in one sentence",
    "caveat": "what the numbers cannot say, shown beside the answer",
    "extends": "another sweep's file, whose settings this one changes",
    "base": "experiment of the fine-tuning cells, relative to this file",
    "pretrain": "experiment of the pre-training cells; null where there are none",
    "settings": "settings of every cell",
    "pretrain_settings": "further settings of the pre-training cells",
    "axes": "axis: level: settings; the cells are the grid of all levels",
    "points": "a list of level combinations to use instead of the whole grid",
    "exclude": "a list of level combinations to leave out; axes that are not named match every level",
    "seeds": "a list of whole numbers; every combination is trained with each",
    "pretrain_seeds": "shared: one pre-training, with the first seed, serves all seeds; each: one a seed",
    "split": "test or dev: which split the cells are compared on",
    "phantom": "folder, patients, max_series, seed, fractions of the splits: a digital cohort, made where missing",
    "report": "how the report reads the axes: baseline, numeric, variants",
}
"""Keys of a sweep's file, and what they hold."""

SPECIAL = ("base", "pretrain")
"""Keys of a level that are no settings: another base experiment, and whether the encoder is pre-trained."""

PHANTOM = frozenset({"folder", "patients", "max_series", "seed", "fractions"})
"""What a sweep says of its phantom cohort."""

SHARED = ("model.vit.", "data.cohort", "data.prepared_dir", "data.grid.", "data.window_hu", "data.sampling.crop")
"""Settings of a level that its pre-training follows, since they decide the encoder or what it sees. What concerns the
pre-training alone is written with the prefix `pretrain.`."""

SEGMENTATION = ("model.decoder.", "model.cnn.", "model.name", "loss.", "data.labelled_fraction", "evaluation.")
"""Settings of the whole sweep that mean nothing to a pre-training."""

OF_THE_SWEEP = {
    "name": "give the sweep a name: cells take theirs from it and from their levels",
    "runs_dir": "give runs_dir=… on the command line: all cells go there",
    "seed": "give the sweep seeds: [0, 1]: every combination is trained with each",
    "init_from": "give the sweep pretrain, and levels pretrain: true or false",
}
"""Settings that the sweep itself gives to its cells, and where they are said instead."""

MOST_COMBINATIONS = 10_000
"""Of levels of all axes; each is at least one training, and all are planned before the first."""

CUTOFFS = "evaluation.risk_cutoffs_mm3"
"""Setting of the cells that fixes the cut-offs of the risk groups, for the report of the sweep too."""


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
    pretrain_seeds: str
    split: str
    phantom: dict[str, Any] | None
    report: dict[str, Any]
    overrides: tuple[str, ...] = ()
    runs_dir: Path = Path("runs")
    launcher: LauncherConfig = field(default_factory=LauncherConfig)

    @property
    def directory(self) -> Path:
        """Where the sweep lives."""
        return self.runs_dir / self.name

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
        overrides: `name=`, `seeds=`, `split=`, `runs_dir=` and `launcher…=` concern the sweep; all others are settings
            of every cell.

    Raises:
        ConfigError: with all problems of the file. Settings of the cells are checked by `cells`.
    """
    own: dict[str, Any] = {}
    launcher, rest = [], []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in ("name", "seeds", "split"):
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
    problems += [*_problems(raw), *_command_line_problems(rest)]
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
        pretrain_seeds=raw.get("pretrain_seeds") or "shared",
        split=raw.get("split") or "test",
        phantom=raw.get("phantom"),
        report=report,
        overrides=tuple(rest),
        runs_dir=Path(carrier.runs_dir),
        launcher=carrier.launcher,
    )


def old_cutoffs(limits: Any) -> tuple[float, float, float]:
    """Risk cut-offs [none, low, medium] from how sweeps gave them before: ``{none: 0, low: …, medium: …}``.

    Raises:
        UserError: when they are something else.
    """
    try:
        return float(limits.get("none", 0)), float(limits["low"]), float(limits["medium"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"report.risk_cutoffs_mm3 is {limits!r}; write instead settings: {{{CUTOFFS}: [none, low, medium]}}, the "
            "largest volume of each group"
        ) from None


def as_override(key: str, value: Any) -> str:
    """A setting as `key=value`, in YAML's words."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def slug(text: str) -> str:
    """A level as part of a folder's name."""
    plain = text.replace("×", "x").replace("³", "").replace("²", "").replace("%", "pc")
    return re.sub(r"[^A-Za-z0-9.]+", "-", plain).strip("-.").lower() or "level"


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
            if isinstance(settings.get("base"), str):
                settings["base"] = os.path.normpath(path.parent / settings["base"])
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


def _problems(raw: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with the file itself."""
    for key in ("name", "base"):
        if not isinstance(raw.get(key), str):
            yield f"{key} is required: {KEYS[key]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(raw.get("name", "x"))):
        yield f"name = {raw['name']!r}: not a safe folder name: use letters, digits and . _ -"
    if raw.get("pretrain_seeds", "shared") not in ("shared", "each"):
        yield f"pretrain_seeds = {raw['pretrain_seeds']!r}: {KEYS['pretrain_seeds']}"
    if raw.get("split", "test") not in ("test", "dev"):
        yield f"split = {raw['split']!r}: {KEYS['split']}"
    seeds = raw.get("seeds", [0])
    if not (isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)):
        yield f"seeds = {seeds!r}: expected {KEYS['seeds']}"
    elif len(set(seeds)) < len(seeds):
        yield f"seeds = {seeds!r}: each seed once"
    for key in ("settings", "pretrain_settings", "axes", "phantom", "report"):
        if raw.get(key) is not None and not isinstance(raw[key], dict):
            yield f"{key}: expected `key: value` lines: {KEYS[key]}"
            return
    own = OF_THE_SWEEP | ({"data.cohort": "the cohort is that of phantom"} if raw.get("phantom") else {})
    for key in ("settings", "pretrain_settings"):
        yield from _setting_problems(key, raw.get(key), own)
    phantom = raw.get("phantom")
    if phantom is not None and ("folder" not in phantom or set(phantom) - PHANTOM):
        yield f"phantom: {KEYS['phantom']}; folder is required"
    elif phantom is not None and not isinstance(phantom.get("fractions") or {}, dict):
        yield f"phantom: fractions = {phantom['fractions']!r}: expected shares of the patients, such as {{dev: 0.2, …}}"
    axes = raw.get("axes") or {}
    for axis, levels in axes.items():
        if not isinstance(levels, dict) or not levels or not all(isinstance(v, dict | None) for v in levels.values()):
            yield f"axes: {axis}: expected `level: {{setting: value}}` lines"
            return
        for level, settings in levels.items():
            yield from _setting_problems(f"axes: {axis}: {level}", settings, own)
        short = [slug(str(level)) for level in levels]
        if len(set(short)) < len(short):
            yield f"axes: {axis}: levels {', '.join(map(str, levels))} make the same folder name; name them apart"
    combinations = math.prod(len(levels) for levels in axes.values())
    if raw.get("points") is None and combinations > MOST_COMBINATIONS:
        yield (
            f"axes: their levels make {combinations:,} combinations, at most {MOST_COMBINATIONS:,} can be trained: "
            "leave out levels, or list the combinations under points"
        )
    for key in ("points", "exclude"):
        rules = raw.get(key) or []
        if not isinstance(rules, list):
            yield f"{key} = {rules!r}: expected {KEYS[key]}"
            continue
        for rule in rules:
            yield from _rule_problems(key, rule, axes)
    report = raw.get("report") or {}
    if report.get("risk_cutoffs_mm3"):
        try:
            old_cutoffs(report["risk_cutoffs_mm3"])
        except UserError as error:
            yield str(error)
    baseline = report.get("baseline") or {}
    yield from _rule_problems("report.baseline", baseline, axes)


def _setting_problems(where: str, settings: Mapping[str, Any] | None, own: Mapping[str, str]) -> Iterator[str]:
    """Settings of the cells that the sweep would replace by its `own` without a word."""
    for key in flat(settings or {}):
        if remedy := own.get(key.removeprefix("pretrain.")):
            yield f"{where}: {key}: is no setting of single cells; {remedy}"


def _command_line_problems(overrides: Sequence[str]) -> Iterator[str]:
    """Settings that would take the place of what tells the cells apart."""
    for key in (text.partition("=")[0] for text in overrides):
        if remedy := OF_THE_SWEEP.get(key):
            yield f"command line: {key}=…: is no setting of single cells; {remedy}"


def _rule_problems(key: str, rule: Any, axes: Mapping[str, Mapping[Any, Any]]) -> Iterator[str]:
    if not isinstance(rule, dict):
        yield f"{key}: {rule!r}: expected {{axis: level}}"
        return
    for axis, level in rule.items():
        if axis not in axes:
            yield f"{key}: there is no axis {axis!r}; axes are {', '.join(axes)}"
        elif str(level) not in map(str, axes[axis]):
            yield f"{key}: {axis} has no level {level!r}; levels are {', '.join(map(str, axes[axis]))}"
    if key == "points" and set(rule) != set(axes):
        yield f"points: {rule}: a point names a level of every axis ({', '.join(axes)})"
