"""What is kept beside a model for the sake of one scan: what it learnt from, and how far off it was on development.

Of the development scans volumes and slice thickness are kept, with a number in place of each patient: from them follow
the interval of a volume and the risk groups that it touches, as in every report (`conformal`, `risk`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Self

import pandas as pd

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.conformal import fit_conformal, volume_intervals
from iac_lightning.evaluation.clinical.domain import Domain
from iac_lightning.evaluation.clinical.risk import GROUPS, RiskCutoffs, cutoffs_from_development, risk_groups
from iac_lightning.evaluation.statistics.plain import defined
from iac_lightning.evaluation.statistics.strata import strata_from_edges

_COLUMNS = ("patient", "slice_thickness_mm", "volume_mm3", "label_volume_mm3")


@dataclass(frozen=True, kw_only=True)
class Development:
    """Development scans at the operating point, and the settings that intervals and risk groups follow from.

    Attributes:
        patient: a number for each patient.
        slice_thickness_mm: of each scan.
        volume_mm3: predicted.
        label_volume_mm3: labelled.
        coverage: that an interval shall have.
        thickness_edges_mm: of the strata.
        risk_cutoffs_mm3: largest volumes of none, low and medium where they were fixed; None: from these scans.
    """

    patient: tuple[int, ...]
    slice_thickness_mm: tuple[float, ...]
    volume_mm3: tuple[float, ...]
    label_volume_mm3: tuple[float, ...]
    coverage: float
    thickness_edges_mm: tuple[float, ...]
    risk_cutoffs_mm3: tuple[float, float, float] | None = None

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """From plain types.

        Raises:
            ValueError: where they are anything else.
        """
        if not isinstance(record, Mapping) or set(record) != {field.name for field in fields(cls)}:
            raise ValueError("does not hold the development scans")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        columns = [values[name] for name in (*_COLUMNS, "thickness_edges_mm")]
        if (
            not all(_not_negative(column) for column in columns)
            or len({len(column) for column in columns[:-1]}) != 1
            or not columns[0]
            or not (values["risk_cutoffs_mm3"] is None or _not_negative(values["risk_cutoffs_mm3"]))
            or not (isinstance(values["coverage"], float) and 0 < values["coverage"] < 1)
        ):
            raise ValueError("holds values that no development scans have")
        strata_from_edges(values["thickness_edges_mm"])
        return cls(**values)

    def table(self) -> pd.DataFrame:
        """As `fit_conformal` takes it."""
        table = pd.DataFrame({name: getattr(self, name) for name in _COLUMNS[1:]}, dtype=float)
        return table.assign(patient_id=[str(number) for number in self.patient])

    def cutoffs(self) -> RiskCutoffs:
        """Of the risk groups.

        Raises:
            UserError: when these scans make none.
        """
        if self.risk_cutoffs_mm3 is None:
            return cutoffs_from_development(self.table())
        none, low, medium = self.risk_cutoffs_mm3
        return RiskCutoffs(none_mm3=none, low_mm3=low, medium_mm3=medium, source="fixed in the settings")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is kept beside a model.

    Attributes:
        domain: what it has learnt from; None where that is not known.
        development: its development scans; None where they are not known.
    """

    domain: Domain | None = None
    development: Development | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """From what `to_dict` gave.

        Raises:
            ValueError: where it is anything else.
        """
        if not isinstance(record, Mapping):
            raise ValueError("is no object")
        domain, development = record.get("domain"), record.get("development")
        return cls(
            domain=None if domain is None else Domain.from_dict(domain),
            development=None if development is None else Development.from_dict(development),
        )


NOT_KNOWN = (
    "the volumes of its development scans are not kept beside this model, so interval and risk group are not known: "
    "iac calibrate RUN, and export it again"
)


def volume_and_risk(development: Development | None, volume_mm3: float, slice_thickness_mm: float) -> dict[str, Any]:
    """Interval of a scan's volume and its risk group, by the development scans of the model.

    Args:
        development: None where it is not known.
        volume_mm3: of the scan, at the operating point.
        slice_thickness_mm: of its region of interest.

    Returns:
        `volume_interval`: `low_mm3`, `high_mm3` (None: no upper end), `coverage`, `n_patients`, `stratum`, `remarks`.
        `risk`: `group`, `set` (the groups that the interval touches), `cutoffs_mm3`, `source`. What is not known is
        None, and `unknown` says why.
    """
    no_group = {"group": None, "set": None}
    if development is None:
        no_interval = {"low_mm3": None, "high_mm3": None, "unknown": NOT_KNOWN}
        return {"volume_interval": no_interval, "risk": {**no_group, "unknown": NOT_KNOWN}}
    reasons = ""
    try:
        cutoffs = development.cutoffs()
    except UserError as error:
        reasons = str(error)
        cutoffs = RiskCutoffs(low_mm3=1.0, medium_mm3=2.0, source="")  # of no account: the interval needs none
    fit = fit_conformal(development.table(), development.coverage, strata_from_edges(development.thickness_edges_mm))
    scan = pd.DataFrame({"volume_mm3": [volume_mm3], "slice_thickness_mm": [slice_thickness_mm]})
    row = volume_intervals(fit, scan.assign(series_id="scan", patient_id="scan"), cutoffs).iloc[0]
    interval: dict[str, Any] = {
        "low_mm3": float(row["low_mm3"]),
        "high_mm3": defined(float(row["high_mm3"])),
        "coverage": development.coverage,
        "n_patients": len(set(development.patient)),
        "stratum": str(row["stratum"]),
        "remarks": list(fit.remarks),
    }
    if reasons:
        return {"volume_interval": interval, "risk": {**no_group, "unknown": reasons}}
    risk: dict[str, Any] = {
        "group": GROUPS[int(risk_groups(volume_mm3, cutoffs))],
        "set": str(row["groups"]).split("|"),
        "cutoffs_mm3": list(cutoffs.limits_mm3),
        "source": cutoffs.source,
    }
    return {"volume_interval": interval, "risk": risk}


def interval_words(interval: Mapping[str, Any]) -> str:
    """Such as "90 % interval 60 to 310 mm³"."""
    if "unknown" in interval:
        return "interval not known"
    share = f"{100 * interval['coverage']:g} % interval"
    if interval["high_mm3"] is None:
        return f"{share} from {interval['low_mm3']:.0f} mm³ up, without an upper end"
    return f"{share} {interval['low_mm3']:.0f} to {interval['high_mm3']:.0f} mm³"


def risk_words(risk: Mapping[str, Any]) -> str:
    """Such as "risk group medium (the interval touches low, medium)"."""
    if "unknown" in risk:
        return "risk group not known"
    return f"risk group {risk['group']} (the interval touches {', '.join(risk['set'])})"


def _not_negative(values: Any) -> bool:
    return isinstance(values, Sequence) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) and v >= 0 for v in values
    )
