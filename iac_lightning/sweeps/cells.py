"""The cells of a sweep: one run each, with its settings, its place and the pre-training it waits for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

from iac_lightning.cluster.slurm import ranks_of
from iac_lightning.config.keys import leaves, value_at
from iac_lightning.config.profiles import as_overrides
from iac_lightning.config.reading import ConfigError, load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_hash
from iac_lightning.config.values import plain
from iac_lightning.sweeps.keys import SEGMENTATION, SHARED, SPECIAL, slug
from iac_lightning.sweeps.spec import SweepSpec, as_override


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: unique in the sweep.
        kind: ``pretrain`` or ``finetune``.
        levels: axis to level; of a pre-training those that its users share.
        seed: of the run.
        fold: that it holds out; None: the development split.
        run: its folder below the sweep's.
        experiment: YAML file it starts from.
        overrides: `key=value` over that file: everything that makes this cell.
        needs: names of the cells that must be finished first.
        config_hash: of the settings that decide the result.
    """

    name: str
    kind: str
    levels: Mapping[str, str]
    seed: int
    run: str
    experiment: Path
    overrides: tuple[str, ...]
    needs: tuple[str, ...]
    config_hash: str
    fold: int | None = None

    @cached_property
    def config(self) -> ExperimentConfig:
        """The checked settings, read when they are first asked for."""
        return load_experiment(self.experiment, self.overrides)

    def to_dict(self) -> dict[str, Any]:
        """As `sweep.json` has it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "levels": dict(self.levels),
            "seed": self.seed,
            "run": self.run,
            "experiment": str(self.experiment),
            "overrides": list(self.overrides),
            "needs": list(self.needs),
            "config_hash": self.config_hash,
            **({} if self.fold is None else {"fold": self.fold}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """The inverse of `to_dict`.

        Raises:
            KeyError: when something is missing.
            ValueError: when a name would lead out of the sweep's folder.
        """
        cell = cls(
            name=data["name"],
            kind=data["kind"],
            levels=data["levels"],
            seed=data["seed"],
            run=data["run"],
            experiment=Path(data["experiment"]),
            overrides=tuple(data["overrides"]),
            needs=tuple(data["needs"]),
            config_hash=data["config_hash"],
            fold=data.get("fold"),
        )
        for name in (cell.name, cell.run):
            if not isinstance(name, str) or not re.fullmatch(r"\w[^/\\\x00-\x1f]*", name):
                raise ValueError(f"{name!r} is no name of a cell")
        return cell


_TASKS = {"pretrain": "pretrain", "finetune": "segment"}
"""Kind of a cell to the task of its settings."""


def cells(spec: SweepSpec) -> list[Cell]:
    """All cells, pre-trainings first, each checked.

    A fine-tuning cell is pre-trained where its level says so (`pretrain: true`, or the experiment of its own), or where
    no level says anything and the sweep names a pre-training. Cells whose pre-trainings have equal settings share one.

    Raises:
        ConfigError: naming every cell that cannot run, and why.
    """
    problems: dict[str, list[str]] = {}
    pretrainings: dict[str, Cell] = {}
    finetunings: list[Cell] = []
    for levels in spec.combinations():
        settings = _merged(spec, levels)
        tuned = cache(partial(_tuned, spec, settings))  # no seed and no fold changes it
        for first_seed, fold in product(spec.seeds, spec.held_out):
            seed = first_seed + settings.get("seed_offset", 0)
            name = _name([slug(level) for level in levels.values()], seed, fold)
            try:
                source = None
                if settings.get("pretrain", spec.pretrain is not None):
                    source = _pretraining(spec, levels, settings, tuned, seed, fold, pretrainings)
                finetunings.append(_finetuning(spec, name, levels, settings, seed, fold, source))
            except ConfigError as error:
                for line in str(error).splitlines()[1:] or [str(error)]:
                    problems.setdefault(line.strip(), []).append(name)
    if problems:
        rows = [
            f"{line}\n    in {len(names)} cells, such as {names[0]}" if len(names) > 1 else f"{line} (cell {names[0]})"
            for line, names in problems.items()
        ]
        raise ConfigError("\n  ".join([f"{spec.path}: not every cell can run:", *rows]))
    if not finetunings:
        raise ConfigError(f"{spec.path}: no cell is left; look at axes, points and exclude")
    return [*pretrainings.values(), *finetunings]


def _name(parts: Sequence[str], seed: int, fold: int | None) -> str:
    return "_".join([*parts, *([] if fold is None else [f"fold{fold}"]), f"seed{seed}"])


def _merged(spec: SweepSpec, levels: Mapping[str, str]) -> dict[str, Any]:
    """Settings of the sweep, then of the levels; later axes win."""
    merged = dict(spec.settings)
    for axis, level in levels.items():
        merged |= spec.axes[axis][level]
    return merged


def _finetuning(
    spec: SweepSpec,
    name: str,
    levels: Mapping[str, str],
    settings: Mapping[str, Any],
    seed: int,
    fold: int | None,
    source: Cell | None,
) -> Cell:
    own = {k: v for k, v in settings.items() if k not in SPECIAL and not k.startswith("pretrain.")}
    init = [f"init_from={spec.directory / source.name}"] if source else ["init_from=null"]
    overrides = (*(as_override(k, v) for k, v in own.items()), *_common(spec, name, seed, fold), *init, *spec.overrides)
    return _checked(
        spec,
        name=name,
        kind="finetune",
        levels=levels,
        seed=seed,
        fold=fold,
        experiment=Path(settings.get("base", spec.base)),
        overrides=overrides,
        needs=(source.name,) if source else (),
    )


def _pretraining(
    spec: SweepSpec,
    levels: Mapping[str, str],
    settings: Mapping[str, Any],
    tuned: Callable[[], ExperimentConfig],
    seed: int,
    fold: int | None,
    known: dict[str, Cell],
) -> Cell:
    """The pre-training that a cell needs, one for all cells with equal settings of it; it holds out the same fold.

    A CNN is pre-trained as a CNN of the same settings, and a whole segmenter with the cell's decoder.

    Raises:
        ConfigError: when no pre-training is named, or its settings cannot be used.
    """
    given = settings.get("pretrain")
    experiment = Path(given) if isinstance(given, str) else spec.pretrain
    if experiment is None:
        raise ConfigError("\npretrain: true, but the sweep names no pre-training experiment (key pretrain)")
    own = {k: v for k, v in spec.settings.items() if not k.startswith((*SEGMENTATION, *SPECIAL, "pretrain."))}
    own |= {k: v for k, v in settings.items() if k.startswith(SHARED)}
    own |= spec.pretrain_settings
    own |= {k.removeprefix("pretrain."): v for k, v in settings.items() if k.startswith("pretrain.")}
    seed = spec.seeds[0] + settings.get("seed_offset", 0) if spec.pretrain_seeds == "shared" else seed
    typed = [o for o in spec.overrides if not o.startswith(SEGMENTATION)]

    def cell(network: Mapping[str, Any], decides: Sequence[str]) -> Cell:
        shared = {
            axis: level
            for axis, level in levels.items()
            if any(
                k.startswith((*SHARED, "pretrain.", *decides)) or (k == "pretrain" and isinstance(v, str))
                for k, v in spec.axes[axis][level].items()
            )
        }
        name = _name(["pretrain", *(slug(level) for level in shared.values())], seed, fold)
        of_cell = (as_override(k, v) for k, v in {**own, **network}.items())
        return _checked(
            spec,
            name=name,
            kind="pretrain",
            levels=shared,
            seed=seed,
            fold=fold,
            experiment=experiment,
            overrides=(*of_cell, *_common(spec, name, seed, fold), *typed),
            needs=(),
        )

    wanted = tuned()
    if wanted.model.name == "cnn":
        made = cell({"model.name": "cnn", **_below(wanted, "model.cnn.")}, ("base", "model.name", "model.cnn."))
    else:
        made = cell({}, ())
        if made.config.model.mae.pretrain == "segmenter":
            made = cell(_below(wanted, "model.decoder."), ("base", "model.decoder."))
    return known.setdefault(made.config_hash, made)


def _tuned(spec: SweepSpec, settings: Mapping[str, Any]) -> ExperimentConfig:
    """The settings that a combination of levels is fine-tuned with, but for seed, fold and place."""
    own = [as_override(k, v) for k, v in settings.items() if k not in SPECIAL and not k.startswith("pretrain.")]
    base = Path(settings.get("base", spec.base))
    return load_experiment(base, [*own, "name=cell", *spec.overrides, *_place(spec)])


def _below(config: ExperimentConfig, prefix: str) -> dict[str, Any]:
    """The settings whose keys begin so."""
    return {key: plain(value_at(config, key)) for key in leaves(ExperimentConfig) if key.startswith(prefix)}


def _common(spec: SweepSpec, name: str, seed: int, fold: int | None) -> tuple[str, ...]:
    phantom = [f"data.cohort={Path(spec.phantom['folder']) / 'cohort.csv'}"] if spec.phantom else []
    ranks = ranks_of(spec.launcher) if spec.launcher.name == "slurm" else ()
    held_out = () if fold is None else (f"data.fold={fold}",)
    return (*phantom, *ranks, *held_out, f"seed={seed}", f"runs_dir={spec.runs_dir}", f"name={spec.name}/{name}")


def _place(spec: SweepSpec) -> tuple[str, str]:
    """Where a cell will run, which decides its profile."""
    return f"launcher.name={spec.launcher.name}", f"launcher.gpus_per_node={spec.launcher.gpus_per_node}"


def _checked(
    spec: SweepSpec,
    *,
    name: str,
    kind: str,
    levels: Mapping[str, str],
    seed: int,
    fold: int | None,
    experiment: Path,
    overrides: Sequence[str],
    needs: tuple[str, ...],
) -> Cell:
    """A cell whose settings have been read, with the profile that suits where it will run.

    Raises:
        ConfigError: when they cannot be used, or are of another task than the cell's kind.
    """
    config = load_experiment(experiment, [*overrides, *_place(spec)])
    overrides = [*overrides, *as_overrides(config)]
    task = _TASKS[kind]
    if config.task != task:
        raise ConfigError(f"\n{experiment}: task is {config.task}, expected {task}")
    cell = Cell(
        name=name,
        kind=kind,
        levels=dict(levels),
        seed=seed,
        fold=fold,
        run=name,
        experiment=experiment,
        overrides=tuple(overrides),
        needs=needs,
        config_hash=config_hash(config),
    )
    cell.__dict__["config"] = config  # where `cached_property` looks: a sweep of many cells reads none twice
    return cell
