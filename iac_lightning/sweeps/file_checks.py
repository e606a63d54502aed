"""What can be wrong with a sweep's file itself; settings of its cells are checked by `sweeps.cells`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_modules.errors import UserError
from iac_lightning.config.dotted import flat
from iac_lightning.sweeps.keys import KEYS, MOST_COMBINATIONS, MOST_FOLDS, OF_THE_SWEEP, PHANTOM, old_cutoffs, slug


def file_problems(raw: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with the file itself."""
    for key in ("name", "base"):
        if not isinstance(raw.get(key), str):
            yield f"{key} is required: {KEYS[key]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(raw.get("name", "x"))):
        yield f"name = {raw['name']!r}: not a safe folder name: use letters, digits and . _ -"
    yield from _repetition_problems(raw)
    if raw.get("pretrain_seeds", "shared") not in ("shared", "each"):
        yield f"pretrain_seeds = {raw['pretrain_seeds']!r}: {KEYS['pretrain_seeds']}"
    if raw.get("split", "test") not in ("test", "dev"):
        yield f"split = {raw['split']!r}: {KEYS['split']}"
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
            offset = (settings or {}).get("seed_offset", 0)
            if type(offset) is not int or offset < 0:
                yield f"axes: {axis}: {level}: seed_offset = {offset!r}: expected a whole number of at least 0"
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


def _repetition_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """Seeds and folds, with which each combination is trained again, and slices, with which it is measured again."""
    seeds, folds, stress = raw.get("seeds", [0]), raw.get("folds"), raw.get("stress") or []
    if not (isinstance(stress, list) and all(type(mm) in (int, float) and mm > 0 for mm in stress)):
        yield f"stress = {stress!r}: expected a list of {KEYS['stress']}"
    if not (isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)):
        yield f"seeds = {seeds!r}: expected {KEYS['seeds']}"
    elif len(set(seeds)) < len(seeds):
        yield f"seeds = {seeds!r}: each seed once"
    if folds is not None and not (type(folds) is int and 2 <= folds <= MOST_FOLDS):
        yield f"folds = {folds!r}: expected a whole number from 2 to {MOST_FOLDS}: {KEYS['folds']}"
    elif folds is not None and raw.get("split") == "test":
        yield (
            "split = test: folds are compared on dev, each patient by the run that has not seen it; leave split out, "
            "and judge on test with an ensemble of the folds' runs (iac ensemble)"
        )


def _setting_problems(where: str, settings: Mapping[str, Any] | None, own: Mapping[str, str]) -> Iterator[str]:
    """Settings of the cells that the sweep would replace by its `own` without a word."""
    for key in flat(settings or {}):
        if remedy := own.get(key.removeprefix("pretrain.")):
            yield f"{where}: {key}: is no setting of single cells; {remedy}"


def command_line_problems(overrides: Sequence[str]) -> Iterator[str]:
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
