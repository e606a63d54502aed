from __future__ import annotations

import numpy as np
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.statistics.intervals import Interval
from iac_lightning.evaluation.statistics.paired import PairedDifference, holm, paired_difference
from iac_lightning.evaluation.tables.comparison import Comparison, compare
from iac_lightning.evaluation.tables.model_result import ModelResult


def test_comparisons_use_scans_with_lesions_and_holm(model_results):
    found = compare(model_results, "dice")
    assert [(c.first, c.second) for c in found] == [("VIT", "SCRATCH"), ("VIT", "CNN"), ("SCRATCH", "CNN")]
    a, b = (model_results[n].table[model_results[n].table["has_lesion"]] for n in ("vit", "scratch"))
    expected = paired_difference(a["dice"], b["dice"], a["patient_id"].to_numpy(dtype=str))
    assert found[0].paired == expected
    assert [c.adjusted_p for c in found] == pytest.approx(holm([c.paired.wilcoxon_p for c in found]))
    assert len(found[0].patients) == a["patient_id"].nunique()


def test_comparisons_pair_by_series_not_by_row(model_results):
    shuffled = model_results["scratch"].table.sample(frac=1, random_state=0)
    other = {**model_results, "scratch": ModelResult(**{**vars(model_results["scratch"]), "table": shuffled})}
    plain, mixed = (compare(m, "dice")[0].paired.difference for m in (model_results, other))
    assert (mixed.estimate, mixed.low, mixed.high) == pytest.approx((plain.estimate, plain.low, plain.high))


def test_reference_is_compared_with_every_other(model_results):
    found = compare(model_results, "dice", reference="cnn")
    assert [(c.first, c.second) for c in found] == [("VIT", "CNN"), ("SCRATCH", "CNN")]
    with pytest.raises(UserError, match=r"'unet'.*vit, scratch, cnn"):
        compare(model_results, "dice", reference="unet")


def test_models_on_different_series_or_labels_are_refused(model_results):
    fewer = ModelResult(**{**vars(model_results["cnn"]), "table": model_results["cnn"].table.iloc[1:]})
    with pytest.raises(UserError, match=r"'vit' and 'cnn'.*1 differ: p000_s0"):
        compare({"vit": model_results["vit"], "cnn": fewer}, "dice")
    table = model_results["cnn"].table.copy()
    table.loc[3, "label_volume_mm3"] += 1
    relabelled = ModelResult(**{**vars(model_results["cnn"]), "table": table})
    with pytest.raises(UserError, match="same labels"):
        compare({"vit": model_results["vit"], "cnn": relabelled}, "dice")


@pytest.mark.parametrize(
    ("low", "high", "p", "established"),
    [
        (0.01, 0.2, 0.01, True),
        (-0.2, -0.01, 0.01, True),
        (-0.01, 0.2, 0.01, False),
        (0.01, 0.2, 0.06, False),
        (np.nan, np.nan, 0.01, False),
        (0.01, 0.2, np.nan, False),
    ],
)
def test_a_difference_is_established_by_interval_and_test_together(low, high, p, established):
    difference = Interval(estimate=0.1, low=low, high=high, n=9, n_patients=5)
    paired = PairedDifference(difference=difference, wilcoxon_p=0.001, wins=9, ties=0, losses=0)
    assert (
        Comparison(first="A", second="B", paired=paired, adjusted_p=p, patients=np.ones(5)).established == established
    )
