"""What a row says of the region of interest."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.cohort.region_hints import age_years, center_lps_mm
from data_modules.cohort.table import Series, read_cohort
from data_modules.errors import UserError


def series(**extra: str) -> Series:
    return Series("p", "s", Path("i"), None, "dev", 1.0, extra=extra)


@pytest.mark.parametrize(
    ("cell", "age"),
    [("67", 67.0), (" 0.5", 0.5), ("", None), ("67Y", None), ("-3", None), ("400", None), ("nan", None)],
)
def test_age(cell: str, age: float | None) -> None:
    assert age_years(series(age=cell)) == age
    assert age_years(series()) is None


def test_centre() -> None:
    found = center_lps_mm(series(roi_center_lps_mm="-4.5  12 1e1"))
    assert found is not None
    assert found.tolist() == [-4.5, 12.0, 10.0]
    assert center_lps_mm(series()) is None
    assert center_lps_mm(series(roi_center_lps_mm="")) is None


@pytest.mark.parametrize("cell", ["1 2", "1 2 x", "1 2 3 4", "1;2;3", "nan 1 2"])
def test_a_centre_that_is_none_is_named_with_its_row(cell: str, tmp_path: Path) -> None:
    (tmp_path / "i.nii").touch()
    path = tmp_path / "cohort.csv"
    path.write_text(
        "patient_id,series_id,image,label,split,slice_thickness_mm,kernel,manufacturer,roi_center_lps_mm\n"
        f"p,s,i.nii,,dev,1,,,{cell}\n"
    )
    with pytest.raises(UserError, match=r"row 2, column 'roi_center_lps_mm': .*three numbers"):
        read_cohort(path)
