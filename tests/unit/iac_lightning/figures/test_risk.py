from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from iac_lightning.evaluation.clinical.conformal import fit_conformal, measured_coverage, volume_intervals
from iac_lightning.evaluation.clinical.risk import RiskCutoffs
from iac_lightning.evaluation.statistics.classification import roc
from iac_lightning.evaluation.statistics.thickness import slope_ci
from iac_lightning.figures.risk import (
    confusion_figure,
    coverage_figure,
    intervals_figure,
    roc_figure,
    slope_figure,
)
from iac_lightning.figures.style import png

CUTOFFS = RiskCutoffs(low_mm3=10, medium_mm3=100, source="fixed in the settings")
SOURCE = "60 scans of 30 patients, test split, seed 7"


def _table(n: int, prefix: str) -> pd.DataFrame:
    rng = np.random.default_rng(n)
    label = rng.lognormal(3, 1, n) * (rng.random(n) > 0.3)
    thickness = rng.choice([0.7, 3.0, 5.0], n)
    return pd.DataFrame(
        {
            "series_id": [f"{prefix}s{i}" for i in range(n)],
            "patient_id": [f"{prefix}{i // 2}" for i in range(n)],
            "slice_thickness_mm": thickness,
            "has_lesion": label > 0,
            "label_volume_mm3": label,
            "volume_mm3": label * rng.lognormal(0, 0.4, n),
            "dice": 0.8 - 0.05 * thickness + rng.normal(0, 0.05, n),
        }
    )


TEST, DEV = _table(60, "t"), _table(80, "d")


def _text(figure: Figure) -> str:
    parts = [figure.get_suptitle(), *(t.get_text() for legend in figure.legends for t in legend.get_texts())]
    for axes in figure.axes:
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts]
        legend = axes.get_legend()
        labels += legend.get_texts() if legend else []
        parts += [axes.get_title(), axes.get_title(loc="left"), axes.get_xlabel(), *(t.get_text() for t in labels)]
    return "\n".join(parts)


def test_confusion_shows_counts_limits_and_source():
    counts = [[7, 0, 0, 0], [2, 11, 1, 0], [0, 0, 0, 0], [0, 0, 3, 13]]
    figure = confusion_figure({"ViT": counts, "CNN": np.eye(4, dtype=int)}, CUTOFFS, SOURCE)
    text = _text(figure)
    for expected in ("6 of 37 scans misclassified", "0 of 4 scans", "low ≤ 10 < medium ≤ 100", SOURCE, CUTOFFS.source):
        assert expected in text
    assert figure.axes[0].images[0].get_array()[3].tolist() == pytest.approx([0, 0, 3 / 16, 13 / 16])
    assert png(figure)[:4] == b"\x89PNG"


def test_intervals_are_drawn_in_the_order_of_predicted_volume():
    scans = volume_intervals(fit_conformal(DEV), TEST, CUTOFFS)
    figure = intervals_figure(scans, CUTOFFS, 0.9, SOURCE)
    volumes = next(line for line in figure.axes[0].lines if line.get_marker() == "_").get_ydata()
    assert np.all(np.diff(volumes) >= 0)
    np.testing.assert_allclose(np.square(volumes), np.sort(TEST["volume_mm3"]), atol=1e-9)
    text = _text(figure)
    assert f"{int((~scans['covered']).sum())} of 60 labels" in text
    assert SOURCE in text
    png(figure)


def test_many_intervals_are_thinned_and_say_so(monkeypatch):
    monkeypatch.setattr("iac_lightning.figures.risk.MOST_SCANS", 25)
    scans = volume_intervals(fit_conformal(DEV[:8]), TEST, CUTOFFS)  # without upper ends
    figure = intervals_figure(scans, CUTOFFS, 0.9, SOURCE)
    assert "every 3rd of 60 shown" in _text(figure)
    assert "0 of 20 labels" in _text(figure)
    png(figure)


def test_coverage_by_stratum_against_the_promise():
    fit = fit_conformal(DEV, min_patients=10)
    rows = measured_coverage(fit, volume_intervals(fit, TEST, CUTOFFS))
    unbounded = fit_conformal(DEV[:6])
    without = measured_coverage(unbounded, volume_intervals(unbounded, TEST, CUTOFFS))
    figure = coverage_figure({"ViT": rows, "CNN": without}, 0.9, SOURCE)
    text = _text(figure)
    for expected in ("all\n60 scans, 30 pat.", "2–4 mm", "60 of 60 without upper end", "promised, 90%", SOURCE):
        assert expected in text
    assert [line.get_xdata()[0] for line in figure.axes[0].lines[: len(rows)]] == [row.coverage for row in rows]
    png(figure)
    merged = coverage_figure({"CNN": without}, 0.9, SOURCE)
    assert "2–4 mm\nmerged; " in _text(merged)
    png(merged)


def test_fitted_lines_have_the_stated_slope():
    lesions = TEST[TEST["has_lesion"]]
    slope = slope_ci(lesions["dice"], lesions["slice_thickness_mm"], lesions["patient_id"])
    figure = slope_figure({"ViT": TEST}, {"ViT": slope}, SOURCE)
    x, y = figure.axes[0].lines[0].get_data()
    assert np.diff(y) / np.diff(x) == pytest.approx(slope.estimate)
    assert f"ViT: −{abs(slope.estimate):.3f} per mm [" in _text(figure)
    band = figure.axes[0].collections[-1].get_paths()[0].vertices[:, 1]
    assert band.min() < y.min() < y.max() < band.max()
    png(figure)


def test_one_thickness_draws_no_line():
    same = TEST.assign(slice_thickness_mm=5.0)
    slope = slope_ci(same["dice"], same["slice_thickness_mm"], same["patient_id"])
    figure = slope_figure({"ViT": same}, {"ViT": slope}, SOURCE)
    assert not figure.axes[0].lines
    assert "ViT: –" in _text(figure)


def test_roc_states_area_and_sample():
    found = roc([0.0, 1.0, 2.0, 3.0], [False, True, False, True])
    none = roc([1.0, 2.0], [True, True])
    figure = roc_figure({"ViT": found, "one": none}, SOURCE)
    text = _text(figure)
    for expected in (
        "ViT: area 0.750 (2 patients of one kind: too few for an interval)",
        "one: area one class only",
        "2 of 4 patients with calcification",
        SOURCE,
    ):
        assert expected in text
    assert figure.axes[0].lines[1].get_ydata().tolist() == [0, 0.5, 0.5, 1, 1]
    png(figure)
