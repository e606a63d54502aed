"""What torchmetrics keeps of the development scans, against the project's own numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from numpy.typing import NDArray
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryF1Score

from data_modules.errors import UserError
from iac_lightning.evaluation.calibration.threshold import RAW_GRID, choose_threshold, dice_at_thresholds
from iac_lightning.evaluation.metrics.series import dice
from iac_lightning.modules.metrics import BestDice, MeanLoss

Scan = tuple[NDArray[np.float32], NDArray[np.bool_]]


def scans(n: int = 5) -> list[Scan]:
    """Probabilities and labels of invented scans; the second has no lesion."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        label = rng.random((6, 5, 4)) < (0.0 if k == 1 else 0.2)
        probability = np.clip(0.5 * label + rng.normal(0.3, 0.2, label.shape), 0, 1).astype(np.float32)
        rows.append((probability, label))
    return rows


def fill(metric: BestDice, rows: list[Scan], indices: list[int]) -> None:
    for k in indices:
        probability, label = rows[k]
        metric.update(k, bool(label.any()), dice_at_thresholds(probability, label, RAW_GRID))


def test_the_best_dice_is_the_mean_of_our_own_and_of_torchmetrics() -> None:
    rows = scans()
    metric = BestDice()
    fill(metric, rows, list(range(5)))
    threshold, best = metric.compute()
    with_lesion = [(p, g) for p, g in rows if g.any()]
    means = [np.mean([dice(p >= np.float32(t), g) for p, g in with_lesion]) for t in RAW_GRID]
    assert best == pytest.approx(max(means), abs=1e-12)
    assert means[int(np.flatnonzero(np.isclose(RAW_GRID, threshold))[0])] == pytest.approx(best, abs=1e-12)
    f1 = BinaryF1Score()
    theirs = [f1(torch.from_numpy(p >= np.float32(threshold)).int(), torch.from_numpy(g).int()) for p, g in with_lesion]
    assert best == pytest.approx(float(torch.stack(theirs).mean()), abs=1e-6)


def test_the_value_is_that_of_the_whole_matrix_to_the_last_bit() -> None:
    rows = scans(60)
    matrix = np.array([dice_at_thresholds(p, g, RAW_GRID) for p, g in rows])
    metric = BestDice()
    fill(metric, rows, [*range(1, 60, 2), *range(0, 60, 2)])  # in the order in which two processes have them
    assert metric.compute() == choose_threshold(matrix, RAW_GRID, [bool(g.any()) for _, g in rows])


def test_each_validation_starts_anew() -> None:
    rows = scans()
    metric = BestDice()
    fill(metric, rows, [0, 1])
    first = metric.compute()
    metric.reset()
    fill(metric, rows, [2, 3, 4])
    assert metric.compute() != first
    metric.reset()
    fill(metric, rows, [0, 1])
    assert metric.compute() == first


def test_no_lesion_no_threshold() -> None:
    metric = BestDice()
    fill(metric, scans(), [1])
    with pytest.raises(UserError, match="none of the 1 development scans has a lesion"):
        metric.compute()


def test_nothing_of_it_is_in_a_checkpoint() -> None:
    metric = BestDice()
    fill(metric, scans(), [0])
    assert metric.state_dict() == {}


LOSSES = [(0.5, 4), (0.25, 4), (1.0, 1)]


def test_the_mean_loss_is_that_of_the_samples_and_of_torchmetrics() -> None:
    ours, theirs = MeanLoss(), MeanMetric()
    for loss, size in LOSSES:
        ours.update(torch.tensor(loss), size)
        theirs.update(torch.tensor(loss), size)
    assert float(ours.compute()) == float(theirs.compute()) == pytest.approx((0.5 * 4 + 0.25 * 4 + 1) / 9)
    ours.update(torch.tensor(torch.nan), 1)
    assert ours.compute().isnan()
    ours.reset()
    ours.update(torch.tensor(2.0), 3)
    assert float(ours.compute()) == 2.0


def test_a_module_of_halved_numbers_sums_in_full() -> None:
    metric = MeanLoss().to(torch.bfloat16)
    for _ in range(1000):
        metric.update(torch.tensor(0.1), 1)
    assert float(metric.compute()) == pytest.approx(0.1, rel=1e-5)


def _share(rank: int, store: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    metric = BestDice()
    fill(metric, scans(), list(range(rank, 5, 2)))  # three and two
    loss = MeanLoss()
    for value, size in LOSSES[rank::2]:
        loss.update(torch.tensor(value), size)
    torch.save((*metric.compute(), float(loss.compute())), f"{results}{rank}")
    dist.destroy_process_group()


@pytest.mark.ddp
def test_two_processes_with_unequal_shares_find_what_one_finds(tmp_path: Path) -> None:
    multiprocessing.spawn(_share, (str(tmp_path / "store"), str(tmp_path / "rank")), nprocs=2)
    metric = BestDice()
    fill(metric, scans(), list(range(5)))
    for rank in range(2):
        threshold, dice, loss = torch.load(tmp_path / f"rank{rank}")
        assert (threshold, dice) == metric.compute()
        assert loss == pytest.approx((0.5 * 4 + 0.25 * 4 + 1) / 9, rel=1e-6)
