"""What a row of the cohort table says of the region of interest: where it lies, and how old the patient is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_modules.cohort.table import Series
from data_modules.csv_files import number_in, numbers_in

CENTER, AGE = "roi_center_lps_mm", "age"


def center_lps_mm(series: Series) -> NDArray[np.float64] | None:
    """Centre `[3]` of the region of interest in DICOM's coordinates; None where the table leaves it to registration."""
    cell = series.extra.get(CENTER, "")
    return np.array(numbers_in(cell, 3)) if cell else None


def age_years(series: Series) -> float | None:
    """Age of the patient; None where the table does not tell it as a number."""
    age = number_in(series.extra.get(AGE, ""))
    return age if 0 <= age <= 130 else None  # False for NaN
