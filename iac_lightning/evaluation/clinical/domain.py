"""What a model has learnt from, in a few numbers, and whether a scan is like that.

Of the region of interest of each training scan a few values are taken (`region_features`): the share of its voxels in
each of some classes of HU, and the noise. A scan's distance from the training scans is the root mean square of the
deviations of their square roots from the medians, each in units of the spread among training scans (median absolute
deviation × 1.4826, at least `_LEAST_SPREAD`). Distances of the training scans themselves are measured from those of
other patients, ten parts of the patients in turn; the percentile of a scan is the share of them below its own. No
distribution is assumed. A scan like them is farther than all n of them once in n + 1 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CLASSES_HU = (-500, -100, 0, 40, 80, 130, 300, 700)
"""Where classes part: air, fat, water, brain, blood, partial volume and calcium, spongy and dense bone."""

_SOFT_TISSUE_HU = (0, 80)
_LEAST_SPREAD = 0.02
_PARTS = 10

LENGTHS = ("slice_thickness_mm", "in_plane_mm", "slice_spacing_mm")
SIMILARITY = "registration_similarity"
HU_CHECKED = ("hu_p50", "hu_p99")
"""Brain and bone: where these lie elsewhere, the scale of the scan is another one."""

_LENGTH_TOLERANCE = 0.1  # the share by which thicknesses may differ before a reader of a cohort is told, too
_HU_TOLERANCE_HU = 25.0
USUAL_SIMILARITY = 0.66
"""What whole heads reached at least (`data_modules.prepare.registration`), where no training scan was registered."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What a model has learnt from. Names nobody.

    Attributes:
        n_patients: that are known.
        n_series: of theirs.
        n_phantoms: simulated ones among the series.
        n_labelled: series that it learnt to segment from.
        n_labelled_phantoms: simulated ones among these.
        n_patients_unknown: of whom nothing is known but that it learnt from them.
        n_measured: series that ranges and distances were taken of.
        window_hu: what the network can tell apart.
        ranges: least and largest of `LENGTHS`, `SIMILARITY` and each of `region_features`, where known.
        center: median of the square root of each share and of the noise.
        scale: their spread.
        distances: of the training scans, rising.
        manufacturers: where the cohort table or the files know them.
        kernels: likewise.
    """

    n_patients: int
    n_series: int
    n_phantoms: int
    n_labelled: int
    n_labelled_phantoms: int
    n_patients_unknown: int
    n_measured: int
    window_hu: tuple[float, float]
    ranges: Mapping[str, tuple[float, float]]
    center: Mapping[str, float]
    scale: Mapping[str, float]
    distances: tuple[float, ...]
    manufacturers: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()

    @property
    def only_phantoms(self) -> bool:
        """Whether all labels that it learnt from are of simulated heads."""
        return self.n_labelled == self.n_labelled_phantoms

    @property
    def learnt_from(self) -> str:
        """`phantoms`, `patients` or `both`."""
        if self.n_phantoms == 0:
            return "patients"
        return "phantoms" if self.n_phantoms == self.n_series else "both"

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """From what `to_dict` gave.

        Raises:
            ValueError: where it is anything else.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or set(record) != names:
            raise ValueError("does not hold the values of a training domain")
        counts = [record[name] for name in names if name.startswith("n_")]
        pairs: list[Any] = [None]
        if isinstance(record["ranges"], Mapping):
            pairs = [*record["ranges"].values(), record["window_hu"]]
        by_name = [record[name] for name in ("center", "scale")]
        words = [record[name] for name in ("manufacturers", "kernels")]
        distances = record["distances"]
        if (
            not all(type(n) is int and n >= 0 for n in counts)
            or not all(_numbers(pair) and len(pair) == 2 and pair[0] <= pair[1] for pair in pairs)
            or not all(isinstance(known, Mapping) and _numbers(list(known.values())) for known in by_name)
            or set(record["center"]) != set(record["scale"])
            or not all(spread > 0 for spread in record["scale"].values())
            or not (_numbers(distances) and sorted(distances) == list(distances))
            or not all(isinstance(w, list | tuple) and all(isinstance(word, str) for word in w) for w in words)
        ):
            raise ValueError("holds values that no training domain has")
        texts = {name: tuple(record[name]) for name in ("manufacturers", "kernels", "window_hu", "distances")}
        return cls(**{**record, **texts, "ranges": {name: tuple(pair) for name, pair in record["ranges"].items()}})


@dataclass(frozen=True, kw_only=True)
class ScanFacts:
    """What is compared of a scan.

    Attributes:
        features: of its region of interest.
        slice_thickness_mm: thinnest and thickest of its slices.
        spacing_mm: in plane and across slices, of its own voxels.
        similarity: of its registration; None where it was not registered.
        manufacturer: empty where unknown.
        kernel: likewise.
    """

    features: Mapping[str, float]
    slice_thickness_mm: tuple[float, float]
    spacing_mm: tuple[float, float]
    similarity: float | None = None
    manufacturer: str = ""
    kernel: str = ""

    def values(self) -> dict[str, tuple[float, float]]:
        """Least and largest of all that has a range, by its name."""
        known = dict(zip(LENGTHS, (self.slice_thickness_mm, *((s, s) for s in self.spacing_mm)), strict=True))
        known |= {name: (value, value) for name, value in self.features.items()}
        return known | ({} if self.similarity is None else {SIMILARITY: (self.similarity, self.similarity)})


def region_features(hu: NDArray[Any]) -> dict[str, float]:
    """Values of a region of interest that tell kinds of scans apart.

    Args:
        hu: `[X, Y, Z]` HU of its own voxels.

    Returns:
        `hu_p50` and `hu_p99`, quantiles of HU; `noise_hu`, the standard deviation that the median difference of
        neighbours along the first axis stands for, within soft tissue; `share_0` …, of voxels in each of the classes.
    """
    low, high = _SOFT_TISSUE_HU
    soft = (hu >= low) & (hu <= high)
    steps = np.abs(np.diff(hu.astype(np.float32), axis=0))[soft[1:] & soft[:-1]]
    median, bone = np.percentile(hu, (50, 99))
    counts = np.bincount(np.searchsorted(CLASSES_HU, hu.ravel(), side="right"), minlength=len(CLASSES_HU) + 1)
    return {
        "hu_p50": float(median),
        "hu_p99": float(bone),
        "noise_hu": float(np.median(steps) / 0.6745 / np.sqrt(2)) if steps.size else 0.0,
        **{f"share_{k}": float(count / hu.size) for k, count in enumerate(counts)},
    }


def _rooted(features: Mapping[str, float]) -> dict[str, float]:
    """What distances are taken of: square roots, for shares and noise vary the more the larger they are."""
    return {name: float(np.sqrt(value)) for name, value in features.items() if not name.startswith("hu_")}


def training_domain(scans: Sequence[ScanFacts], patients: Sequence[str], **known: Any) -> Domain:
    """The domain of a model from its training scans.

    Args:
        scans: of the training; one at least.
        patients: whose each is.
        known: the counts and the window of `Domain`.
    """
    rooted = [_rooted(scan.features) for scan in scans]
    table = np.array([list(features.values()) for features in rooted])
    center, scale = _middle(table)
    values = [scan.values() for scan in scans]
    ranges = {
        name: (min(v[name][0] for v in values if name in v), max(v[name][1] for v in values if name in v))
        for name in sorted({name for v in values for name in v})
    }
    return Domain(
        n_measured=len(scans),
        ranges=ranges,
        center=dict(zip(rooted[0], center.tolist(), strict=True)),
        scale=dict(zip(rooted[0], scale.tolist(), strict=True)),
        distances=tuple(sorted(_distances_from_others(table, patients))),
        manufacturers=tuple(sorted({scan.manufacturer for scan in scans} - {""})),
        kernels=tuple(sorted({scan.kernel for scan in scans} - {""})),
        **known,
    )


def compare_with(domain: Domain, scan: ScanFacts) -> dict[str, Any]:
    """Whether a scan is like those that a model has learnt from.

    Returns:
        `out_of_range`, a list of `what`, `value` (least and largest), `training` (least and largest, or words) and
        `words`; `distance` and `percentile` of its features among the training scans' (None where they are not known)
        and `largest_training_distance`.
    """
    found = [entry for name, value in scan.values().items() if (entry := _outside(domain, name, value))]
    for what, own, known in (
        ("manufacturer", scan.manufacturer, domain.manufacturers),
        ("kernel", scan.kernel, domain.kernels),
    ):
        if own and known and not any(_same(own, word) for word in known):
            words = f"{what} {own} is none of the training scans' ({', '.join(known[:6])}{' …' if known[6:] else ''})"
            found.append({"what": what, "value": own, "training": list(known), "words": words})
    distance = percentile = largest = None
    if domain.distances:
        rooted = _rooted(scan.features)
        deviations = [(rooted[name] - domain.center[name]) / domain.scale[name] for name in domain.center]
        distance = float(np.sqrt(np.mean(np.square(deviations))))
        percentile = 100 * float(np.searchsorted(domain.distances, distance)) / len(domain.distances)
        largest = domain.distances[-1]
        if distance > largest:
            words = (
                f"its region looks unlike those of all {len(domain.distances)} training scans that were measured: "
                f"distance {distance:.2f}, the farthest of them {largest:.2f}"
            )
            found.append({"what": "features", "value": distance, "training": largest, "words": words})
    return {
        "out_of_range": found,
        "distance": distance,
        "percentile": percentile,
        "largest_training_distance": largest,
    }


_WORDS = {
    "slice_thickness_mm": "slices of {} mm",
    "in_plane_mm": "pixels of {} mm",
    "slice_spacing_mm": "slices every {} mm",
    "hu_p50": "median of the region {} HU",
    "hu_p99": "99 % quantile of the region {} HU",
    SIMILARITY: "similarity {} to the template",
}


def _outside(domain: Domain, name: str, value: tuple[float, float]) -> dict[str, Any] | None:
    """What to say where a value lies outside the training scans'; None where it does not, or is not looked at."""
    if name not in _WORDS:
        return None
    usual = (USUAL_SIMILARITY, 1.0) if name == SIMILARITY else None
    known = domain.ranges.get(name, usual)
    if known is None:
        return None
    low, high = known
    if name in LENGTHS:
        low, high = low / (1 + _LENGTH_TOLERANCE), high * (1 + _LENGTH_TOLERANCE)
    elif name in HU_CHECKED:
        low, high = low - _HU_TOLERANCE_HU, high + _HU_TOLERANCE_HU
    else:
        high = float("inf")  # no registration is too good
    if low <= value[0] and value[1] <= high:
        return None
    where = "training scans" if name in domain.ranges else "usual"
    words = f"{_WORDS[name].format(span(*value))} ({where}: {span(*known)})"
    return {"what": name, "value": list(value), "training": list(known), "words": words}


def span(low: float, high: float) -> str:
    """Such as "1 to 5", or "5" where both round to the same."""
    words = [f"{v:.3g}" if abs(v) < 999.5 else f"{v:.0f}" for v in (low, high)]
    words = [word.replace("-", "−") for word in words]
    return words[0] if words[0] == words[1] else " to ".join(words)


def _middle(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and spread of each column of `[n, n_features]`."""
    center = np.median(table, axis=0)
    return center, np.maximum(1.4826 * np.median(np.abs(table - center), axis=0), _LEAST_SPREAD)


def _distances_from_others(table: NDArray[np.float64], patients: Sequence[str]) -> list[float]:
    """Distance of each training scan `[n, n_features]` from those of others; none where there is one patient."""
    _, codes = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    distances: list[float] = []
    for part in range(_PARTS):
        inside = codes % _PARTS == part
        if inside.any() and not inside.all():
            center, scale = _middle(table[~inside])
            distances += np.sqrt(np.mean(((table[inside] - center) / scale) ** 2, axis=1)).tolist()
    return distances


def _same(one: str, other: str) -> bool:
    """Whether two names are one, or a shorter and a longer form of it, such as "GE" and "GE MEDICAL SYSTEMS"."""
    a, b = one.casefold().split(), other.casefold().split()
    return a[: len(b)] == b or b[: len(a)] == a


def _numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in values
    )
