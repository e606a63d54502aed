"""CT templates to register heads to: files of a user's, by age group where they say theirs, or the built-in model.

A template's age group stands in the JSON file beside it: `{"AgesYears": [60, 120]}`, both ends included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.reading import read_scan
from data_modules.scan.sidecar import read_sidecar, sidecar_path

BUILT_IN = "built-in head model"
"""Name of the template that serves where no other is given."""

MODEL_FILE = Path(__file__).with_name("head_model.npz")
_AGES = "AgesYears"

LEAST_SIMILARITY = 0.6
"""Correlation with a template below which a registration is not believed."""

_LEAST_WITH_MODEL = 0.5  # a simulated head is less like real ones than an average of these


@dataclass(frozen=True, eq=False)
class Template:
    """An average head.

    Attributes:
        name: of its file, without folders; or `BUILT_IN`.
        volume: `[X, Y, Z]` HU in MNI space.
        ages_years: youngest and oldest patient that it is meant for; None: any.
        least_similarity: of a registration to it that is believed.
    """

    name: str
    volume: Volume
    ages_years: tuple[float, float] | None = None
    least_similarity: float = LEAST_SIMILARITY

    @property
    def is_built_in(self) -> bool:
        """Whether it is simulated."""
        return self.name == BUILT_IN


def template_paths(setting: Path | str | Sequence[str] | None) -> tuple[Path, ...]:
    """The files that `data.grid.template` names: none, one or several."""
    if setting is None:
        return ()
    return (Path(setting),) if isinstance(setting, (str, Path)) else tuple(Path(name) for name in setting)


def open_templates(setting: Path | str | Sequence[str] | None) -> tuple[Template, ...]:
    """The templates of `data.grid.template`; the built-in model where there is none.

    Raises:
        UserError: when a file cannot be read, or its age group makes no sense.
    """
    paths = template_paths(setting)
    return tuple(_opened(path, _stamp(path), _stamp(sidecar_path(path))) for path in paths) or (built_in_model(),)


def fitting_templates(templates: Sequence[Template], age_years: float | None) -> tuple[Template, ...]:
    """Those whose age group holds an age; all where the age is not known, or no group holds it."""
    fitting = [t for t in templates if age_years is not None and t.ages_years and _holds(t.ages_years, age_years)]
    return tuple(fitting or templates)


def templates_digest(setting: str | Sequence[str]) -> str:
    """What decides where templates lead to: their content and age groups, not their names. One file: its SHA-256.

    Raises:
        UserError: when a file cannot be read, or its age group makes no sense.
    """
    digests = []
    for path in template_paths(setting):
        try:
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError as error:
            raise UserError(
                f"data.grid.template: {path} cannot be read ({error.strerror}); give the path of a NIfTI file "
                "in HU, or null where scans are centred on the region"
            ) from None
    if isinstance(setting, str):
        return digests[0]
    ages = [_ages_of(path) for path in template_paths(setting)]
    return hashlib.sha256(repr(list(zip(digests, ages, strict=True))).encode()).hexdigest()


@lru_cache(maxsize=1)
def built_in_model() -> Template:
    """The average of simulated heads, brought into MNI space (`data_modules.phantom.average_head` makes it)."""
    with np.load(MODEL_FILE, allow_pickle=False) as stored:
        low, high = stored["window_hu"]
        hu = low + stored["level"].astype(np.float32) * ((high - low) / stored["levels"])
        return Template(BUILT_IN, Volume(hu, Grid(hu.shape, stored["affine"])), least_similarity=_LEAST_WITH_MODEL)


@lru_cache(maxsize=8)
def _opened(path: Path, _image: Any, _sidecar: Any) -> Template:
    """A template, read again once its files are others."""
    return Template(path.name, read_scan(path).volume, _ages_of(path))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:  # which reading it will say
        return None
    return facts.st_size, facts.st_mtime_ns


def _holds(ages_years: tuple[float, float], age_years: float) -> bool:
    return ages_years[0] <= age_years <= ages_years[1]


def _ages_of(path: Path) -> tuple[float, float] | None:
    """The age group that a template's JSON file tells, None where it tells none.

    Raises:
        UserError: when it is no pair of ages.
    """
    given = read_sidecar(path).get(_AGES)
    if given is None:
        return None
    numbers = isinstance(given, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    if not numbers or len(given) != 2 or not 0 <= given[0] <= given[1]:
        raise UserError(f"{sidecar_path(path)}: {_AGES} is {given!r:.80}, expected [youngest, oldest] in years")
    return float(given[0]), float(given[1])
