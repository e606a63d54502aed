from __future__ import annotations

from iac_lightning.evaluation.calibration.fitting import remarks
from iac_lightning.evaluation.calibration.scaling import Scaling


def test_an_error_that_did_not_fall_is_said():
    errors = {"ece": 0.001, "nll": 0.02}
    scaling = Scaling(temperature=1.2, bias=0.0)
    assert not remarks(scaling, errors, {"ece": 0.0005, "nll": 0.01})
    (remark,) = remarks(scaling, errors, {"ece": 0.002, "nll": 0.01})
    assert "0.001 to 0.002" in remark
