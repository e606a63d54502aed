from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from iac_lightning.evaluation.clinical.stress import summarise_stress
from iac_lightning.evaluation.metrics.series import SeriesMetrics
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.series_table import series_row, series_table
from iac_lightning.evaluation.tables.summary import summarise
from tests.synthetic_stress import WANTED, table_of

QUALITY = {"vit": 0.8, "scratch": 0.62, "cnn": 0.79}


def invented_table(quality: float, seed: int, patients: int = 24, with_plain: bool = True) -> pd.DataFrame:
    """Figures nobody measured: Dice around `quality`, worse on thick slices; every fifth patient has no lesion."""
    shared, own = np.random.default_rng([1]), np.random.default_rng([2, seed])
    rows = []
    for p in range(patients):
        for s in range(1 + p % 3):
            thickness = float(shared.choice([0.8, 1.5, 3.0, 5.0, 7.5]))
            difficulty, label = shared.normal(0, 0.08), float(shared.gamma(1.2, 60)) + 2
            has_lesion = p % 5 != 0
            dice = float(np.clip(quality - 0.03 * thickness + difficulty + own.normal(0, 0.05), 0, 1))
            alarm = not has_lesion and own.random() < 0.3
            predicted = label * float(own.normal(1, 0.2)) if has_lesion else 12.0 * alarm

            def metrics(gain: float, dice=dice, has_lesion=has_lesion, alarm=alarm, label=label, volume=predicted):
                value = min(1.0, dice + gain)
                undefined = float("nan")
                return SeriesMetrics(
                    dice=value if has_lesion else float(not alarm),
                    both_empty=not has_lesion and not alarm,
                    has_lesion=has_lesion,
                    sensitivity=value if has_lesion else undefined,
                    ppv=value if has_lesion else (0.0 if alarm else undefined),
                    lesion_sensitivity=value if has_lesion else undefined,
                    lesion_ppv=value if has_lesion else undefined,
                    lesion_f1=value if has_lesion else undefined,
                    n_lesions=3 * has_lesion,
                    n_lesions_hit=2 * has_lesion,
                    n_predicted=3 if has_lesion else int(alarm),
                    n_predicted_hit=2 * has_lesion,
                    n_small_lesions=2 * has_lesion,
                    n_small_lesions_hit=1 * has_lesion,
                    volume_mm3=volume,
                    label_volume_mm3=label if has_lesion else 0.0,
                    nsd_1mm=value if has_lesion else float(not alarm),
                    hd95_mm=9 * (1 - value) if has_lesion else (float("inf") if alarm else undefined),
                    agatston=2 * volume,
                    label_agatston=2 * label if has_lesion else 0.0,
                )

            rows.append(
                series_row(
                    f"p{p:03d}_s{s}",
                    f"p{p:03d}",
                    thickness,
                    metrics(0.0),
                    metrics(0.05) if with_plain else None,
                    label + 1 if has_lesion else 0.0,
                )
            )
    return series_table(rows)


@pytest.fixture(scope="session")
def make_table():
    return invented_table


@pytest.fixture(scope="session")
def model_results(make_table):
    results = {}
    for k, (name, quality) in enumerate(QUALITY.items()):
        table = make_table(quality, k)
        results[name] = ModelResult(
            name=name,
            label=name.upper(),
            table=table,
            summary=summarise(table),
            threshold=0.4,
            plain_threshold=0.3,
            parameters=1234567,
            train_seconds=400,
            looks={"n": 3 + k, "n_configs": 2, "n_weights": 1},
        )
    return results


@pytest.fixture(scope="session")
def stress_summary() -> dict:
    return summarise_stress(table_of(), WANTED) | {
        "split": "test",
        "settings": {"truth": "Truth.", "ceiling": "Ceiling.", "bound": "Bound."},
        "failed": {"E_S1": "no such file"},
    }
