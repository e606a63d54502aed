from __future__ import annotations

from iac_lightning.evaluation.clinical.analysis import Shortage
from iac_lightning.report.models.missing import missing_development, small_development


def test_models_without_a_development_split_are_named():
    assert missing_development(["a", "b"], "test", cutoffs_fixed=False) == (
        "Risk groups and volume intervals are left out until a and b are evaluated on the development split, with the "
        "weights and thresholds of the test split"
    )
    assert "Volume intervals are left out until a is evaluated" in missing_development(
        ["a"], "test", cutoffs_fixed=True
    )


def test_a_small_development_split_says_which_patients_are_too_few():
    eight = Shortage(n_patients=8, needed=9, coverage=0.9)
    assert "because of only 8 development patients, where intervals of 90% coverage need at least 9; with" in (
        small_development(eight, cutoffs_fixed=True)
    )
    enough = Shortage(n_patients=9, needed=9, coverage=0.9)
    assert small_development(enough, cutoffs_fixed=False) == (
        "Risk groups and volume intervals are left out because of too few development patients with calcification to "
        "part low, medium and high volumes; with more of them labelled, evaluate again"
    )
