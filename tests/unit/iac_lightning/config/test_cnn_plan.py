"""nnU-Net's rules, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iac_lightning.config.cnn_plan import plan_cnn, topology, triple, valid_lengths


def test_isotropic_cube() -> None:
    # 128 → 64 → 32 → 16 → 8 → 4: five halvings, six stages.
    plan = plan_cnn((128, 128, 128), (1, 1, 1))
    assert plan.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert plan.kernels == ((3, 3, 3),) * 6
    assert plan.features == (32, 64, 128, 256, 320, 320)
    assert plan.n_conv_per_stage == (2,) * 6
    assert plan.n_conv_per_stage_decoder == (2,) * 5
    assert plan.shapes()[-1] == (4, 4, 4)


def test_thick_slices_wait_until_the_plane_is_as_coarse() -> None:
    # In-plane spacing 0.5, 1, 2, 4 mm: 5 mm slices are within a factor of two of the last only.
    plan = plan_cnn((256, 256, 16), (0.5, 0.5, 5))
    flat, cube = (2, 2, 1), (2, 2, 2)
    assert plan.strides == ((1, 1, 1), flat, flat, flat, cube, cube, flat)
    assert plan.kernels == (*[(3, 3, 1)] * 3, *[(3, 3, 3)] * 4)
    assert plan.shapes()[-1] == (4, 4, 4)


def test_the_axis_of_thick_slices_may_be_any() -> None:
    plan = plan_cnn((16, 256, 256), (5, 0.5, 0.5))
    assert plan.strides[1] == (1, 2, 2)
    assert plan.kernels[0] == (1, 3, 3)


def test_the_default_patch() -> None:
    # After three steps z could be halved once more, alone: 8 voxels are fewer than the 12 that takes.
    plan = plan_cnn((48, 48, 32), (0.8, 0.8, 1.6))
    assert plan.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert plan.kernels == ((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert plan.shapes() == [(48, 48, 32), (24, 24, 32), (12, 12, 16), (6, 6, 8)]


def test_a_single_long_axis_is_halved_from_twelve_voxels() -> None:
    assert plan_cnn((8, 8, 32), (1, 1, 1)).shapes()[1:] == [(4, 4, 16), (4, 4, 8)]


def test_the_bottleneck_kernel_is_three_cubed_even_where_slices_stay_thick() -> None:
    assert plan_cnn((16, 16, 8), (0.5, 0.5, 10)).kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3))


def test_stages_and_features_are_bounded() -> None:
    plan = plan_cnn((64, 64, 64), (1, 1, 1), base_features=8, max_features=20, max_stages=3)
    assert plan.features == (8, 16, 20)
    assert len(plan.strides) == len(plan.kernels) == 3


def test_residual_blocks_a_stage() -> None:
    plan = plan_cnn((128, 128, 128), (1, 1, 1), encoder="residual")
    assert plan.n_conv_per_stage == (1, 3, 4, 6, 6, 6)
    assert plan.n_conv_per_stage_decoder == (1,) * 5


def test_an_axis_that_does_not_divide_is_refused_and_the_nearest_that_do_are_known() -> None:
    # 50 → 25 → 13 → 7: three halvings of an axis that is no multiple of eight.
    with pytest.raises(ValueError, match=r"\(48, 50, 32\) voxels does not divide by the total stride \(8, 8, 4\)"):
        plan_cnn((48, 50, 32), (0.8, 0.8, 1.6))
    assert valid_lengths((48, 50, 32), (0.8, 0.8, 1.6), None, axis=1) == [48, 56]
    for length in (48, 56):
        plan_cnn((48, length, 32), (0.8, 0.8, 1.6))


@pytest.mark.parametrize(("patch", "stages"), [((4, 4, 4), None), ((32, 32, 32), 1)])
def test_a_patch_for_one_stage_is_refused(patch: tuple[int, int, int], stages: int | None) -> None:
    with pytest.raises(ValueError, match="no U-Net of two stages"):
        plan_cnn(patch, (1, 1, 1), max_stages=stages)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="'resnet' is neither"):
        plan_cnn((32, 32, 32), (1, 1, 1), encoder="resnet")


def test_plan_reads_as_a_table() -> None:
    lines = str(plan_cnn((48, 48, 32), (0.8, 0.8, 1.6))).splitlines()
    assert " ".join(lines[0].split()) == "stage stride kernel voxels spacing (mm) features blocks decoder"
    assert " ".join(lines[2].split()) == "1 2 2 1 3 3 3 24 24 32 1.6 1.6 1.6 64 2 2"
    assert lines[4].split()[-2:] == ["2", "–"]


NNUNET = json.loads((Path(__file__).parent / "nnunet_plans.json").read_text(encoding="utf-8"))["plans"]
"""What nnU-Net 2.8.1 plans, written by `benchmarks/opponents/topology.py` in an environment that has it."""


def triples(rows: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, rows))


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_planned_as_nnunet_itself_plans_its_fingerprints(encoder: str) -> None:
    plans = [row for row in NNUNET if row.get("encoder") == encoder]
    assert len({(*row["patch_size"], *row["spacing_mm"]) for row in plans}) >= 20
    for row in plans:
        plan = plan_cnn(row["patch_size"], row["spacing_mm"], encoder=encoder)
        assert (plan.strides, plan.kernels) == (triples(row["strides"]), triples(row["kernels"])), row
        for name in ("features", "n_conv_per_stage", "n_conv_per_stage_decoder"):
            assert getattr(plan, name) == tuple(row[name]), (name, row)


def test_topology_of_given_patches_is_nnunets_own_and_what_it_pads_is_refused() -> None:
    plans = [row for row in NNUNET if "padded" in row]
    padded = [row for row in plans if row["padded"] != row["patch_size"]]
    assert len(plans) >= 150
    assert 20 <= len(padded) <= len(plans) - 100
    for row in plans:
        patch, spacing = triple(row["patch_size"]), row["spacing_mm"]
        assert topology(patch, spacing, None) == (triples(row["strides"]), triples(row["kernels"])), row
        if row in padded:
            with pytest.raises(ValueError, match="does not divide by the total stride"):
                plan_cnn(patch, spacing)
