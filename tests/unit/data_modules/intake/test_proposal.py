"""Which series of an examination is proposed, and why."""

from __future__ import annotations

import pytest

from data_modules.intake.exams import FoundSeries
from data_modules.intake.proposal import propose, softness


def series(
    name: str, thickness: float, kernel: str = "H31s", coverage: float = 150.0, contrast: str = "no", number: int = 1
) -> FoundSeries:
    facts = {"slice_thickness_mm": f"{thickness:g}", "kernel": kernel, "coverage_mm": f"{coverage:g}"}
    return FoundSeries(
        series_id=name,
        patient_id="P",
        exam_id="E",
        days="0",
        code="ok",
        order=(number, name),
        facts=facts | {"contrast": contrast},
    )


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([], "the only accepted series of the examination"),
        ([series("b", 0.5, contrast="yes")], "without contrast"),
        ([series("b", 0.5, coverage=50)], "covers the region, where others show less of the head"),
        ([series("b", 5.0, "H20s")], "the thinnest (1 mm)"),
        ([series("b", 1.0, "H60s")], "the softest kernel (H31s) of equally thin ones"),
        ([series("b", 1.0, coverage=140)], "the longest (150 mm) of equally thin ones"),
        ([series("b", 1.0, number=2)], "the first of equals"),
    ],
)
def test_the_first_difference_that_counts_is_the_reason(others: list[FoundSeries], reason: str) -> None:
    best, why = propose([*others, series("a", 1.0)])
    assert best.series_id == "a"
    assert why.startswith(reason)


def test_soft_kernels_of_every_maker_come_first() -> None:
    for soft, sharp in (
        ("H31s", "H60s"),
        ("Hr40", "Hr68h"),
        ("STANDARD", "BONEPLUS"),
        ("UB", "D"),
        ("FC21", "FC30"),
        ("J40s/3", "J70h/3"),
    ):
        assert softness(soft) < softness("odd") < softness(sharp), (soft, sharp)
