from __future__ import annotations

import math

import pytest
import torch
from torch import multiprocessing as mp

from iac_lightning.config.schema import LossConfig
from iac_lightning.modules.losses import SegmentationLoss, deep_supervision_weights, loss_sums


def tensors(probabilities: list[float], labels: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    p = torch.tensor(probabilities).reshape(1, 1, -1, 1, 1)
    return torch.logit(p), torch.tensor(labels).reshape(1, 1, -1, 1, 1)


def test_terms_by_hand() -> None:
    logits, target = tensors([0.5, 0.8, 0.1], [1.0, 0.4, 0.0])
    region = torch.tensor([True, True, False]).reshape(1, 1, 3, 1, 1)
    shared, total, entropy, voxels = loss_sums(logits, target, region).tolist()
    assert total == pytest.approx(0.5 + 1 + 0.8 + 0.4)
    assert shared == pytest.approx(2 * (0.5 + 0.4))  # twice the smaller of p and t
    assert entropy == pytest.approx(-math.log(0.5) - 0.4 * math.log(0.8) - 0.6 * math.log(0.2), rel=1e-5)
    assert voxels == 2
    loss = SegmentationLoss(LossConfig(dice_weight=2.0, ce_weight=3.0))(logits, target, region)
    expected = 2 * (1 - (1.8 + 1) / (2.7 + 1)) + 3 * entropy / 2
    assert loss["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss["ce"].item() == pytest.approx(entropy / 2, rel=1e-5)


def test_fractional_labels_are_best_predicted_as_they_are() -> None:
    target = torch.tensor([0.3, 0.7, 0.0, 1.0]).reshape(1, 1, -1, 1, 1)
    region = torch.ones_like(target, dtype=torch.bool)
    loss = SegmentationLoss(LossConfig(ce_weight=0.0))
    at_target = loss(torch.logit(target.clamp(1e-7, 1 - 1e-7)), target, region)["loss"].item()
    hard = loss(torch.logit((target > 0.5).float().clamp(1e-7, 1 - 1e-7)), target, region)["loss"].item()
    assert at_target == pytest.approx(0, abs=1e-5)
    assert hard > 0.1


def test_voxels_outside_the_region_have_no_gradient() -> None:
    logits = torch.zeros(1, 1, 4, 1, 1, requires_grad=True)
    target = torch.tensor([1.0, 0, 0, 1]).reshape(1, 1, 4, 1, 1)
    region = torch.tensor([True, True, False, False]).reshape(1, 1, 4, 1, 1)
    SegmentationLoss(LossConfig())(logits, target, region)["loss"].backward()
    assert logits.grad is not None
    assert (logits.grad.flatten()[:2] != 0).all()
    assert (logits.grad.flatten()[2:] == 0).all()


def test_an_empty_region_is_no_division_by_zero() -> None:
    logits = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    nothing = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    loss = SegmentationLoss(LossConfig())(logits, nothing.float(), nothing)["loss"]
    loss.backward()
    assert loss.item() == 0


def test_deep_supervision_leaves_out_the_coarsest() -> None:
    assert deep_supervision_weights(1).tolist() == [1.0]
    assert deep_supervision_weights(3).tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    target = torch.zeros(1, 1, 8, 8, 8)
    target[..., :2, :2, :2] = 1
    region = torch.ones_like(target, dtype=torch.bool)
    levels = [torch.randn(1, 1, n, n, n, requires_grad=True) for n in (8, 4, 2)]
    loss = SegmentationLoss(LossConfig())(levels, target, region)
    single = SegmentationLoss(LossConfig())
    coarse = target[..., ::2, ::2, ::2]  # an even block: pooling and picking agree
    fine = single(levels[0], target, region)["loss"].item()
    half = single(levels[1], coarse, torch.ones_like(coarse, dtype=torch.bool))["loss"].item()
    assert loss["loss"].item() == pytest.approx(2 / 3 * fine + 1 / 3 * half, rel=1e-5)
    loss["loss"].backward()
    assert levels[2].grad is not None  # DDP waits for a gradient of every parameter
    assert (levels[2].grad == 0).all()


def test_a_coarse_voxel_counts_where_any_fine_one_does_and_holds_their_mean() -> None:
    target, region = torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    target[..., 2, 0, 0] = 1  # an eighth of the coarse voxel (1, 0, 0)
    region[..., 3, 1, 1] = True  # of that coarse voxel one fine voxel counts
    levels = [torch.zeros(1, 1, n, n, n, requires_grad=True) for n in (4, 2, 1)]
    found = SegmentationLoss(LossConfig(dice_weight=0.0))(levels, target, region)
    found["loss"].backward()
    assert found["loss"].item() == pytest.approx(math.log(2), rel=1e-6)  # of either level
    assert found["ce"].item() == pytest.approx(math.log(2), rel=1e-6)
    fine, coarse = (level.grad for level in levels[:2])
    assert fine is not None
    assert coarse is not None
    assert fine.nonzero()[:, 2:].tolist() == [[3, 1, 1]]
    assert coarse.nonzero()[:, 2:].tolist() == [[1, 0, 0]]
    assert coarse[0, 0, 1, 0, 0].item() == pytest.approx((0.5 - 1 / 8) / 3, rel=1e-6)  # the level weighs a third


def test_dice_and_cross_entropy_are_of_the_finest_level_and_without_gradient() -> None:
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., :2, :, :] = 1
    region = torch.ones_like(target, dtype=torch.bool)
    levels = [torch.full((1, 1, n, n, n), value, requires_grad=True) for n, value in ((4, 1.0), (2, -3.0), (1, 0.0))]
    found = SegmentationLoss(LossConfig())(levels, target, region)
    p = 1 / (1 + math.exp(-1))
    assert found["ce"].item() == pytest.approx((-math.log(p) - math.log(1 - p)) / 2, rel=1e-5)
    assert found["dice_loss"].item() == pytest.approx(1 - (2 * 32 * p + 1) / (64 * p + 32 + 1), rel=1e-5)
    assert not found["ce"].requires_grad
    assert not found["dice_loss"].requires_grad
    assert found["loss"].requires_grad


def _rank(rank: int, port: int, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weight, logits, target, region = _problem()
    half = slice(rank, rank + 1)
    loss = SegmentationLoss(LossConfig())(weight * logits[half], target[half], region[half])["loss"]
    loss.backward()
    assert weight.grad is not None
    torch.distributed.all_reduce(weight.grad)
    if rank == 0:
        torch.save({"loss": loss.detach(), "grad": weight.grad / 2}, out)
    torch.distributed.destroy_process_group()


def _problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 4, 4, generator=generator)
    target = torch.rand(2, 1, 4, 4, 4, generator=generator)
    target[1] = 0  # the ranks are unlike each other
    region = torch.rand(2, 1, 4, 4, 4, generator=generator) > 0.3
    return torch.ones((), requires_grad=True), logits, target, region


@pytest.mark.ddp
def test_two_processes_give_loss_and_gradient_of_one_batch(tmp_path) -> None:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(_rank, (port, str(tmp_path / "out.pt")), nprocs=2)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    weight, logits, target, region = _problem()
    loss = SegmentationLoss(LossConfig())(weight * logits, target, region)["loss"]
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close(found["grad"], weight.grad)
