from __future__ import annotations

import pytest

from iac_lightning.evaluation.ablation.ablation import UNCALIBRATED, analyse_ablation, volumes
from iac_lightning.evaluation.ablation.cells import VARIANTS
from iac_lightning.evaluation.statistics.paired import holm
from tests.unit.iac_lightning.evaluation.ablation.conftest import FACTORS, trainings

DRAW = {"seed": 0, "resamples": 50}


def test_volumes_of_levels():
    assert volumes(("4×4×4", "8x8x4")) == {"4×4×4": 64.0, "8x8x4": 256.0}
    assert volumes(("4×4×4", "large")) == {}
    assert volumes(("4", "8")) == {}


def test_all_effects_with_one_correction_a_table():
    numeric = {"size": {"small": 1.0, "middle": 2.0, "large": 4.0}}
    result = analyse_ablation(trainings(), FACTORS, baselines={"up": "b"}, numeric=numeric, **DRAW)
    assert result.baselines == {"size": "small", "up": "b"}
    assert [(e.factor, e.level, e.baseline) for e in result.differences] == [
        ("size", "middle", "small"),
        ("size", "large", "small"),
        ("up", "a", "b"),
    ]
    assert [e.adjusted_p for e in result.differences] == pytest.approx(holm([e.p for e in result.differences]))
    leads = list(result.leads.values())
    assert [x.lead.adjusted_p for x in leads] == pytest.approx(holm([x.lead.p for x in leads]))
    assert [(e.factor, e.kind) for e in result.trends] == [("size", "trend")]
    assert {e.kind for e in result.effects} == {"cell", "level", "difference", "interaction", "trend"}
    assert len(result.effects) == 6 + 5 + 3 + 2 + 1
    assert result.variants is None
    assert result.source("size") is result.sample


def test_calibration_comes_from_both_variants_and_the_rest_from_one():
    result = analyse_ablation(trainings(gain=0.05), FACTORS, variants=tuple(VARIANTS), **DRAW)
    assert result.baselines["calibration"] == UNCALIBRATED
    assert result.source("calibration") is result.variants
    (effect,) = (e for e in result.differences if e.factor == "calibration")
    assert effect.estimate == pytest.approx(0.05)
    alone = analyse_ablation(trainings(gain=0.05), FACTORS, **DRAW)
    both, single = ([(e.estimate, e.low, e.high) for e in x.levels["size"]] for x in (result, alone))
    assert both == single
    assert {e.other for e in result.interactions} == {"up", "calibration"}
