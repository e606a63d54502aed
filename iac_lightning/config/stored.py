"""Settings as they are stored with a run, and whether two runs have the same ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import yaml

from iac_lightning.config.keys import leaves, value_at
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import plain

UNDECISIVE = (
    "profile",
    "runs_dir",
    "init_from_licence",
    "init_from_other",
    "data.prepared_dir",
    "data.prepare_workers",
    "data.num_workers",
    "data.residency",
    "data.residency_share",
    "trainer.threads",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "tracking",
    "inference",
    "launcher",
    "evaluation",
)
"""Settings (or sections) that say how a run is carried out and do not decide its result."""
NO_VALUES = ("evaluation.workers", "evaluation.controls")
"""Settings of such a section that decide no value of a model, also where the section counts."""
OF_CALIBRATION = {
    "evaluation.operating_point": "aim",
    "evaluation.false_components_per_scan": "most_false_components_per_scan",
    "evaluation.keep_lesions_from_mm3": "keep_lesions_from_mm3",
}
"""Settings that a calibration has used: what is made of its masks afterwards cannot change them. Each with its name
under `operating_point` of `calibration.json`."""


class _Dumper(yaml.SafeDumper):
    """Lists on one line, sections in blocks."""


_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))


def config_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Plain nested dictionary with lists for tuples: safe in checkpoints, JSON and YAML."""
    settings: dict[str, Any] = plain(dataclasses.asdict(config))
    return settings


def to_yaml(config: ExperimentConfig) -> str:
    """The complete settings as YAML that `load_experiment` reads back."""
    return yaml.dump(config_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def diff(a: ExperimentConfig, b: ExperimentConfig) -> list[str]:
    """Dotted keys whose values differ, in the order of the schema."""
    return [key for key in leaves(ExperimentConfig) if value_at(a, key) != value_at(b, key)]


def is_decisive(key: str) -> bool:
    """Whether a setting can change the result of a run."""
    return not any(key == other or key.startswith(other + ".") for other in UNDECISIVE)


def decisive_settings(config: ExperimentConfig, *also: str) -> dict[str, Any]:
    """Dotted keys and plain values of the settings that decide the result, and of the sections `also`."""
    keys = [
        k for k in leaves(ExperimentConfig) if is_decisive(k) or (k.partition(".")[0] in also and k not in NO_VALUES)
    ]
    return {k: plain(value_at(config, k)) for k in keys}


def config_hash(config: ExperimentConfig, *also: str) -> str:
    """12 hexadecimal digits over the settings that decide the result, the name excepted.

    Args:
        config: the experiment.
        also: sections that count too, such as "inference" where it is an evaluation's result.
    """
    decisive = {k: v for k, v in decisive_settings(config, *also).items() if k != "name"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
