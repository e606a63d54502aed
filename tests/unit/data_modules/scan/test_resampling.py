"""Resampling against hand-worked numbers, SciPy and brute-force supersampling."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d, map_coordinates

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.resampling import (
    PROFILES,
    reimage,
    resample_image,
    resample_occupancy,
    resample_peak,
    resample_probability,
    slab_widths,
)


def make_grid(shape: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    x, y, z = shape
    return Grid((x, y, z), affine)


def line(values: ArrayLike, spacing: float) -> Volume:
    """A 1-D signal along z, with 1 mm in plane; the first centre at z = 0."""
    data = np.asarray(values, dtype=np.float32)[None, None, :]
    return Volume(data, make_grid(data.shape, (1, 1, spacing)))


def line_grid(n: int, spacing: float, first: float) -> Grid:
    return make_grid((1, 1, n), (1, 1, spacing), (0, 0, first))


def resampled_line(
    values: ArrayLike,
    spacing: float,
    target: Grid,
    thickness: float | None = None,
    target_thickness: float | None = None,
    profile: str = "overlap",
) -> NDArray[np.float32]:
    slab = None if thickness is None else (1.0, 1.0, thickness)
    target_slab = None if target_thickness is None else (1.0, 1.0, target_thickness)
    return resample_image(line(values, spacing), target, slab, target_slab, profile).data[0, 0]


def profile_of(
    thickness: float, spacing: float, target_thickness: float, phase: float, profile: str
) -> tuple[float, float]:
    """Mean and variance of what one target voxel sees of the object, at a phase from the source centres."""
    n = 201
    middle = n // 2
    target = line_grid(1, target_thickness, (middle + phase) * spacing)
    impulses = np.eye(n, dtype=np.float32)[:, None, :]
    volume = Volume(impulses, make_grid(impulses.shape, (1, 1, spacing)))
    on = Grid((n, 1, 1), target.affine)
    weights = resample_image(volume, on, (1, 1, thickness), (1, 1, target_thickness), profile).data[:, 0, 0]
    places = spacing * (np.arange(n) - middle)
    mean = weights @ places
    return mean, weights @ (places - mean) ** 2 + thickness**2 / 12


class TestImageByHand:
    def test_five_thin_slices_average_into_one_thick(self) -> None:
        thick = resampled_line(range(10), 1.0, line_grid(2, 5.0, 2.0))
        np.testing.assert_allclose(thick, [2.0, 7.0])

    def test_partly_covered_cells_count_by_their_overlap(self) -> None:
        # The box from 0.5 to 3.0 mm holds cell 1 (0.5–1.5), cell 2 (1.5–2.5) and half of cell 3.
        thick = resampled_line([0, 10, 20, 40, 0], 1.0, line_grid(1, 2.5, 1.75))
        np.testing.assert_allclose(thick, [(10 + 20 + 20) / 2.5])

    def test_thinner_target_interpolates_linearly(self) -> None:
        thin = resampled_line([0, 10, 40], 2.0, line_grid(4, 1.0, 0.5))
        np.testing.assert_allclose(thin, [2.5, 7.5, 17.5, 32.5])

    def test_gap_is_interpolated_never_sharpened(self) -> None:
        # 1 mm slabs every 5 mm: at a 2 mm target there is nothing to average.
        between = resampled_line([0, 100], 5.0, line_grid(1, 2.0, 2.0), thickness=1.0)
        np.testing.assert_allclose(between, [40.0])

    def test_overlapping_slices_use_a_narrower_box(self) -> None:
        # t = 5, s = 2.5, T = 6: B² = 36 − 25 + 6.25 = 17.25, so each neighbour shares (B − 2.5) / 2.
        box = np.sqrt(17.25)
        impulse = resampled_line([0, 1, 0, 0, 0], 2.5, line_grid(1, 6.0, 5.0), thickness=5.0)
        np.testing.assert_allclose(impulse, [(box - 2.5) / 2 / box], rtol=1e-5)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_equal_grid_returns_the_values(self, profile: str) -> None:
        values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
        volume = Volume(values, make_grid((5, 6, 7), (0.5, 0.6, 3.0), (3, 2, 1)))
        np.testing.assert_allclose(resample_image(volume, volume.grid, profile=profile).data, values, atol=1e-6)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_axes_are_not_mixed_up(self, profile: str) -> None:
        grid = make_grid((20, 24, 28), (0.5, 0.7, 1.1), (-3, 5, 9))
        x, y, z = np.moveaxis(grid.to_ras_mm(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
        target = grid.with_spacing((0.9, 1.3, 0.8), (4, 7, 12))
        tx, ty, tz = np.moveaxis(target.to_ras_mm(np.moveaxis(np.indices(target.shape), 0, -1)), -1, 0)
        out = resample_image(Volume(x + 10 * y - 3 * z, grid), target, profile=profile).data
        # A linear ramp is interpolated exactly; a box whose edges cut cells moves its centroid by s/8 at most.
        tolerance = 0.125 * (0.5 + 7 + 0) if profile == "overlap" else 1e-3
        np.testing.assert_allclose(out, tx + 10 * ty - 3 * tz, atol=tolerance)


class TestAgainstReferences:
    @pytest.mark.parametrize("phase", [0.0, 0.3, 0.5])
    def test_linear_is_scipys(self, phase: float) -> None:
        rng = np.random.default_rng(1)
        data = rng.normal(size=(9, 10, 11))
        volume = Volume(data, make_grid(data.shape, (1, 1, 1)))
        target = make_grid((6, 6, 6), (1.3, 1.2, 1.1), (1 + phase, 1 + phase, 1 + phase))
        index = np.moveaxis(target.to_ras_mm(np.moveaxis(np.indices(target.shape), 0, -1)), -1, 0)
        expected = map_coordinates(data, index, order=1)
        np.testing.assert_allclose(resample_image(volume, target, profile="linear").data, expected, atol=1e-5)

    @pytest.mark.parametrize("thickness", [4.0, 7.5])
    def test_gaussian_is_scipys_at_the_matched_variance(self, thickness: float) -> None:
        # White noise sees every difference of kernel; hat ∗ Gaussian differs from a sampled Gaussian by kurtosis only.
        values = np.random.default_rng(2).normal(size=200)
        ours = resampled_line(values, 1.0, line_grid(100, 1.0, 50.0), 1.0, thickness, "gaussian")
        expected = gaussian_filter1d(values, np.sqrt((thickness**2 - 1) / 12), truncate=6)[50:150]
        np.testing.assert_allclose(ours, expected, atol=0.01)
        assert np.abs(ours - gaussian_filter1d(values, 1.1 * np.sqrt((thickness**2 - 1) / 12))[50:150]).max() > 0.02

    def test_overlap_is_the_supersampled_box_average(self) -> None:
        rng = np.random.default_rng(3)
        data = rng.normal(size=(8, 9, 10)).astype(np.float32)
        volume = Volume(data, make_grid(data.shape, (0.5, 0.6, 1.0)))
        target = make_grid((2, 2, 3), (1.15, 1.25, 2.35), (0.9, 1.1, 2.0))
        fine = 60  # points along each axis of a target voxel
        expected = np.zeros(target.shape)
        offsets = (np.arange(fine) + 0.5) / fine - 0.5
        for index in np.ndindex(target.shape):
            cells = [
                np.rint((target.to_ras_mm(index)[k] + offsets * target.spacing_mm[k]) / volume.grid.spacing_mm[k])
                for k in range(3)
            ]
            expected[index] = data[np.ix_(*[c.astype(int) for c in cells])].mean()
        np.testing.assert_allclose(resample_image(volume, target).data, expected, atol=0.02)

    @pytest.mark.parametrize(
        ("thickness", "spacing", "target"), [(1.0, 1.0, 5.0), (1.0, 1.0, 4.0), (2.0, 1.0, 6.0), (1.25, 0.625, 5.0)]
    )
    @pytest.mark.parametrize("profile", ["overlap", "gaussian"])
    def test_what_a_thick_slice_sees_has_the_variance_of_its_box(
        self, thickness: float, spacing: float, target: float, profile: str
    ) -> None:
        seen = [profile_of(thickness, spacing, target, phase, profile) for phase in np.arange(0, 1, 0.05)]
        excess = np.mean([v for _, v in seen]) - target**2 / 12
        if profile == "gaussian":
            assert abs(excess) < 0.01 * target**2 / 12
        else:  # averaged over phases, a box that cuts cells adds s²/6; where it cuts none, it adds nothing
            assert -1e-3 < excess < 1.01 * spacing**2 / 6
        assert np.mean([mean / spacing for mean, _ in seen]) == pytest.approx(0.475, abs=0.06)

    def test_an_aligned_box_has_exactly_its_variance(self) -> None:
        assert profile_of(1.0, 1.0, 5.0, 0.0, "overlap")[1] == pytest.approx(25 / 12, rel=1e-5)

    def test_gaussian_has_its_variance_at_every_phase(self) -> None:
        for phase in (0.0, 0.25, 0.5):
            assert profile_of(1.0, 1.0, 5.0, phase, "gaussian")[1] == pytest.approx(25 / 12, rel=0.01)

    def test_linear_sampling_of_thin_slices_stays_thin(self) -> None:
        assert profile_of(1.0, 1.0, 5.0, 0.0, "linear")[1] == pytest.approx(1 / 12)


def test_thick_slices_from_thin_ones_come_closest_by_overlap() -> None:
    """One object, reconstructed at 1 mm and at 5 mm with a box profile; thick from thin against the true thick."""
    rng = np.random.default_rng(4)
    fine = 0.25
    n = 1600
    object_hu = gaussian_filter1d(rng.normal(size=(64, n)), 2, axis=1) * 300
    for row in object_hu:  # calcium: short bright stretches
        for start in rng.integers(0, n - 20, size=12):
            row[start : start + rng.integers(4, 16)] += 600
    thin = object_hu.reshape(64, -1, 4).mean(axis=2)[:, None, :]
    thick = object_hu.reshape(64, -1, 20).mean(axis=2)
    source = Volume(thin, make_grid(thin.shape, (1, 1, 1), (0, 0, (1 - fine) / 2)))
    target = make_grid((64, 1, 80), (1, 1, 5), (0, 0, (5 - fine) / 2))
    error, dice = {}, {}
    for profile in PROFILES:
        ours = resample_image(source, target, profile=profile).data[:, 0]
        error[profile] = float(np.sqrt(np.mean((ours - thick) ** 2)))
        dice[profile] = 2 * np.sum((ours >= 130) & (thick >= 130)) / (np.sum(ours >= 130) + np.sum(thick >= 130))
    assert error["overlap"] < 0.01  # 5 is a whole number of thin slices
    assert error["overlap"] < error["gaussian"] < 0.6 * error["linear"]
    assert dice["overlap"] > dice["gaussian"] > dice["linear"]


class TestFieldOfView:
    def test_outside_is_air(self) -> None:
        out = resampled_line([50, 50, 50], 1.0, line_grid(7, 1.0, -2.0))
        np.testing.assert_allclose(out, [-1024, -1024, 50, 50, 50, -1024, -1024])

    def test_half_covered_voxels_are_renormalised_and_less_covered_ones_are_air(self) -> None:
        # The field of view ends at −0.5 and 3.5; the targets' boxes are 2 mm wide.
        out = resampled_line([10, 20, 30, 40], 1.0, line_grid(2, 2.0, -0.5))
        np.testing.assert_allclose(out, [10, (20 + 30) / 2])  # covers −0.5..0.5, then 0.5..2.5
        out = resampled_line([10, 20, 30, 40], 1.0, line_grid(2, 2.0, -0.6))
        np.testing.assert_allclose(out, [-1024, (0.1 * 10 + 20 + 0.9 * 30) / 2], rtol=1e-5)

    def test_rounding_pushes_no_outermost_voxel_out(self) -> None:
        # An affine in single precision may put the edge a little beyond: 0.0001 of a voxel is still inside.
        for place, value in ((-0.50005, 10), (2.50005, 30), (-0.5002, -1024), (2.5002, -1024)):
            assert resampled_line([10, 20, 30], 1.0, line_grid(1, 1.0, place)) == pytest.approx(value)

    def test_target_beside_the_source_is_all_air(self) -> None:
        volume = Volume(np.zeros((4, 4, 4)), make_grid((4, 4, 4), (1, 1, 1)))
        assert (resample_image(volume, make_grid((3, 3, 3), (1, 1, 1), (50, 0, 0))).data == -1024).all()

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_each_axis_has_its_field_of_view(self, axis: int) -> None:
        volume = Volume(np.zeros((4, 4, 4)), make_grid((4, 4, 4), (1, 1, 1)))
        out = np.moveaxis(resample_image(volume, volume.grid.crop((-1, -1, -1), (6, 6, 6))).data, axis, 0)
        assert (out[[0, -1]] == -1024).all()
        assert (out[1:-1, 1:-1, 1:-1] == 0).all()

    def test_fill_can_be_chosen(self) -> None:
        volume = Volume(np.ones((2, 2, 2)), make_grid((2, 2, 2), (1, 1, 1)))
        assert resample_image(volume, volume.grid.crop((-1, 0, 0), (1, 1, 1)), fill=7).data.item() == 7


class Recording(np.ndarray):
    """Notes which part is read."""

    def __getitem__(self, key: Any) -> Any:
        self.read.append(key)
        return np.asarray(self)[key]


class TestReading:
    def test_reads_only_the_voxels_that_carry_weight(self) -> None:
        data = np.arange(20.0 * 18 * 16).reshape(20, 18, 16).view(Recording)
        data.read = []  # type: ignore[attr-defined]
        grid = make_grid(data.shape, (1, 1, 1))
        target = make_grid((2, 1, 3), (2, 2, 1), (5.5, 9.5, 2))  # x 4.5–8.5, y 8.5–10.5, z 1.5–4.5 mm
        out = resample_image(Volume(data, grid), target)
        assert data.read == [(slice(5, 9), slice(9, 11), slice(2, 5))]  # type: ignore[attr-defined]
        np.testing.assert_allclose(out.data[1, 0, 2], np.asarray(data)[7:9, 9:11, 4].mean())

    @pytest.mark.parametrize("kind", [np.int16, np.float64, bool])
    def test_gives_single_precision_whatever_comes(self, kind: type) -> None:
        volume = Volume(np.ones((4, 4, 4), dtype=kind), make_grid((4, 4, 4), (1, 1, 1)))
        assert resample_image(volume, volume.grid).data.dtype == np.float32
        assert resample_occupancy(volume, volume.grid).data.dtype == np.float32


class TestReturn:
    def test_finer_and_back_keeps_a_ramp(self) -> None:
        grid = make_grid((12, 12, 12), (1, 1, 3))
        x, y, z = np.indices(grid.shape)
        ramp = Volume((x + 2 * y - 5 * z).astype(np.float32), grid)
        fine = resample_image(ramp, grid.with_spacing((0.5, 0.5, 1.0), grid.size_mm), (1, 1, 3))
        back = resample_image(fine, grid, profile="overlap")
        inner = (slice(2, -2),) * 3
        np.testing.assert_allclose(back.data[inner], ramp.data[inner], atol=1e-4)

    def test_probability_stays_between_its_extremes(self) -> None:
        rng = np.random.default_rng(5)
        common = make_grid((20, 20, 20), (0.8, 0.8, 1.6))
        probability = Volume(rng.random(common.shape).astype(np.float32), common)
        native = common.with_spacing((0.45, 0.45, 5.0), common.size_mm)
        out = resample_probability(probability, native).data
        assert out.dtype == np.float32
        assert 0 <= out.min() <= out.max() <= 1

    def test_probability_averages_where_slices_are_thicker_and_interpolates_where_thinner(self) -> None:
        volume = line([0.0, 0.2, 0.4, 0.6], 1.5)
        np.testing.assert_allclose(
            resample_probability(volume, line_grid(2, 3.0, 0.75)).data[0, 0], [0.1, 0.5], atol=1e-6
        )
        np.testing.assert_allclose(resample_probability(volume, line_grid(1, 0.5, 0.75)).data[0, 0], [0.1], atol=1e-6)

    def test_probability_is_zero_outside(self) -> None:
        volume = Volume(np.ones((4, 4, 4)), make_grid((4, 4, 4), (1, 1, 1)))
        assert resample_probability(volume, volume.grid.crop((-1, 0, 0), (1, 1, 1))).data.item() == 0


class TestPeak:
    @pytest.mark.parametrize("seed", range(6))
    def test_is_the_largest_of_the_overlapping_voxels_one_by_one(self, seed: int) -> None:
        """Which also is: wherever a source voxel is at least a threshold, so is every target voxel that it overlaps."""
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(2, 7, 3).tolist())
        source = make_grid(shape, tuple(rng.choice([0.45, 0.8, 1.0, 2.5], 3).tolist()), tuple(rng.uniform(-2, 2, 3)))
        target = source.with_spacing((0.8, 1.0, 1.6), (6.0, 5.0, 8.0))  # reaches beyond some of them
        volume = Volume(rng.integers(-1000, 1500, shape).astype(np.int16), source)
        peak = resample_peak(volume, target)
        assert peak.data.dtype == np.int16
        assert peak.grid is target
        for voxel in np.ndindex(*target.shape):
            centre = target.to_ras_mm(np.asarray(voxel))
            values = [-1024]
            for other in np.ndindex(*shape):
                apart = np.abs(source.to_ras_mm(np.asarray(other)) - centre)
                if (apart < np.add(source.spacing_mm, target.spacing_mm) / 2 - 1e-5).all():
                    values.append(volume.data[other])
            inside = values[1:] or values
            assert peak.data[voxel] == max(inside)

    def test_rounding_of_affines_reaches_no_neighbour(self) -> None:
        volume = line([10, 20, 30, 40], 1.0)
        np.testing.assert_array_equal(resample_peak(volume, line_grid(2, 2.0, 0.5 + 1e-6)).data[0, 0], [20, 40])
        np.testing.assert_array_equal(resample_peak(volume, line_grid(2, 2.0, 0.5 + 1e-2)).data[0, 0], [30, 40])

    def test_outside_is_air(self) -> None:
        np.testing.assert_array_equal(
            resample_peak(line([10, 20], 1.0), line_grid(4, 1.0, -1.0)).data[0, 0], [-1024, 10, 20, -1024]
        )


class TestOccupancy:
    @pytest.mark.parametrize("seed", range(4))
    def test_total_volume_is_kept(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        mask = Volume(rng.random((30, 26, 9)) > 0.98, make_grid((30, 26, 9), (0.47, 0.49, 5.0), (3, -8, 100)))
        target = mask.grid.with_spacing((0.8, 0.8, 1.6), (20, 20, 50))
        occupancy = resample_occupancy(mask, target)
        volume_mm3 = mask.data.sum() * mask.grid.voxel_volume_mm3
        assert occupancy.data.sum(dtype=float) * target.voxel_volume_mm3 == pytest.approx(volume_mm3, rel=1e-5)
        assert 0 <= occupancy.data.min() <= occupancy.data.max() <= 1

    def test_share_by_hand(self) -> None:
        # Cell 1 is 1.5–4.5 mm; targets of 2 mm at 1, 3 and 5 cover it by 0.5, 2 and 0.5 mm.
        out = resample_occupancy(line([0, 1, 0], 3.0), line_grid(3, 2.0, 1.0))
        np.testing.assert_allclose(out.data[0, 0], [0.25, 1.0, 0.25], atol=1e-6)

    def test_full_stays_full_and_nothing_is_renormalised_at_the_edge(self) -> None:
        mask = Volume(np.ones((4, 4, 4), bool), make_grid((4, 4, 4), (1, 1, 1)))
        out = resample_occupancy(mask, make_grid((3, 1, 1), (2, 2, 2), (-0.5, 1.5, 1.5)))
        np.testing.assert_allclose(out.data[:, 0, 0], [0.5, 1.0, 0.5])

    def test_full_is_one_and_never_more_by_rounding(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(300):
            n, spacing, other = rng.integers(2, 12, 3), rng.uniform(0.3, 3, 3), rng.uniform(0.3, 3, 3)
            grid = make_grid(tuple(n.tolist()), tuple(spacing.tolist()))
            full, target = Volume(np.ones(grid.shape, np.float32), grid), grid.with_spacing(tuple(other), grid.size_mm)
            assert resample_occupancy(full, target).data.max() <= 1
            assert resample_probability(full, target).data.max() <= 1

    def test_three_voxel_lesion_survives_where_nearest_loses_it(self) -> None:
        mask = Volume(np.zeros((40, 40, 12), bool), make_grid((40, 40, 12), (0.5, 0.5, 1.0)))
        mask.data[19:22, 20, 3] = True
        target = mask.grid.with_spacing((1.0, 1.0, 5.0), mask.grid.size_mm)
        index = np.rint(mask.grid.to_index(target.to_ras_mm(np.moveaxis(np.indices(target.shape), 0, -1)))).astype(int)
        inside = ((index >= 0) & (index < mask.grid.shape)).all(axis=-1)
        nearest = mask.data[tuple(np.moveaxis(index[inside], -1, 0))]
        occupancy = resample_occupancy(mask, target)
        assert nearest.sum() == 0
        assert occupancy.data.sum(dtype=float) * target.voxel_volume_mm3 == pytest.approx(3 * 0.25, rel=1e-5)

    def test_lies_where_the_lesion_lies(self) -> None:
        mask = Volume(np.zeros((30, 30, 10), bool), make_grid((30, 30, 10), (0.5, 0.5, 4.0), (7, -3, 2)))
        mask.data[4:6, 21, 7] = True
        target = mask.grid.with_spacing((0.8, 0.8, 1.6), mask.grid.size_mm)
        occupancy = resample_occupancy(mask, target).data.astype(float)
        index = np.stack([np.average(axis, weights=occupancy) for axis in np.indices(target.shape)])
        # A target voxel knows how much of it is covered, not where: up to an eighth of a voxel.
        shift = np.abs(target.to_ras_mm(index) - mask.grid.to_ras_mm((4.5, 21, 7)))
        assert (shift <= 0.125 * np.asarray(target.spacing_mm)).all()


class TestReimage:
    def test_same_grid_is_a_moving_average(self) -> None:
        values = np.random.default_rng(6).normal(size=20)
        out = reimage(line(values, 1.0), 2, 1.0, 3.0)
        assert out.grid.shape == (1, 1, 20)
        np.testing.assert_allclose(out.data[0, 0, 1:-1], np.convolve(values, np.ones(3) / 3, "valid"), atol=1e-5)

    def test_new_spacing_makes_fewer_slices_around_the_same_centre(self) -> None:
        out = reimage(line(np.arange(20), 1.0), 2, 1.0, 5.0, 5.0)
        np.testing.assert_allclose(out.data[0, 0], [2, 7, 12, 17], atol=1e-5)
        assert out.grid.spacing_mm == (1, 1, 5)

    def test_slices_that_do_not_fit_leave_no_air(self) -> None:
        for spacing in np.arange(1.1, 9, 0.37):
            assert reimage(line(np.full(20, 5.0), 1.0), 2, 1.0, spacing, spacing).data == pytest.approx(5)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_only_its_axis_changes(self, axis: int) -> None:
        data = np.zeros((9, 9, 9))
        data[4, 4, 4] = 9
        out = reimage(Volume(data, make_grid(data.shape, (1, 1, 1))), axis, 1.0, 3.0).data
        expected = np.zeros((9, 9, 9))
        expected[tuple(slice(3, 6) if k == axis else 4 for k in range(3))] = 3
        np.testing.assert_allclose(out, expected, atol=1e-5)

    def test_overlapping_slices_are_widened_by_the_variance_that_they_lack(self) -> None:
        # Slices of 2 mm every 1 mm to 4 mm: a box of √(16 − 4 + 1) mm.
        share = (np.sqrt(13) - 3) / 2
        out = reimage(line([0, 0, 0, 0, 1, 0, 0, 0, 0], 1.0), 2, 2.0, 4.0).data[0, 0]
        np.testing.assert_allclose(out[2:7] * 13**0.5, [share, 1, 1, 1, share], atol=1e-5)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_by_the_profile_that_was_asked_for(self, profile: str) -> None:
        volume = line(np.random.default_rng(8).normal(size=30), 1.0)
        out = reimage(volume, 2, 1.0, 4.0, profile=profile)
        expected = resample_image(volume, volume.grid, (1, 1, 1), (1, 1, 4.0), profile)
        np.testing.assert_array_equal(out.data, expected.data)

    def test_thinner_is_not_pretended(self) -> None:
        values = np.random.default_rng(7).normal(size=10)
        np.testing.assert_allclose(reimage(line(values, 2.0), 2, 5.0, 2.0).data[0, 0], values, atol=1e-6)

    def test_a_patch_takes_less_than_two_milliseconds(self) -> None:
        patch = Volume(np.zeros((48, 48, 32), np.float32), make_grid((48, 48, 32), (0.8, 0.8, 1.6)))
        times = []
        for k in range(20):
            start = perf_counter()
            reimage(patch, 2, 1.6, 3 + 0.1 * k)
            times.append(perf_counter() - start)
        assert min(times) < 0.002


class TestGeometry:
    def test_other_directions_are_refused(self) -> None:
        volume = Volume(np.zeros((4, 4, 4)), make_grid((4, 4, 4), (1, 1, 1)))
        flipped = Grid((4, 4, 4), np.diag([-1.0, 1, 1, 1]))
        for resample in (resample_image, resample_occupancy, resample_probability):
            with pytest.raises(ValueError, match=r"RAS.*LAS"):
                resample(volume, flipped)

    def test_a_turn_of_half_a_degree_is_another_direction_and_rounding_is_none(self) -> None:
        volume = Volume(np.zeros((4, 4, 4)), make_grid((4, 4, 4), (1, 1, 1)))
        for degrees, fits in ((0.5, False), (0.05, True)):
            turn = np.deg2rad(degrees)
            affine = np.eye(4)
            affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
            if fits:
                assert resample_image(volume, Grid((4, 4, 4), affine)).data.shape == (4, 4, 4)
            else:
                with pytest.raises(ValueError, match="different directions"):
                    resample_image(volume, Grid((4, 4, 4), affine))

    def test_unknown_profile_and_widths_are_refused(self) -> None:
        volume = Volume(np.zeros((4, 4, 4)), make_grid((4, 4, 4), (1, 1, 1)))
        with pytest.raises(ValueError, match="overlap, gaussian, linear"):
            resample_image(volume, volume.grid, profile="cubic")
        with pytest.raises(ValueError, match="positive"):
            resample_image(volume, volume.grid, slab_mm=(1, 1, 0))
        with pytest.raises(ValueError, match="positive"):
            resample_image(volume, volume.grid, target_slab_mm=(0, 1, 1))

    def test_a_sheared_grid_keeps_its_voxels_and_volumes(self) -> None:
        affine = np.array([[0.5, 0, 0, 1], [0, 0.474, 0, 2], [0, -0.16, 4.2, 3], [0, 0, 0, 1]], dtype=float)
        grid = Grid((20, 20, 8), affine)
        mask = Volume(np.random.default_rng(8).random(grid.shape) > 0.9, grid)
        target = grid.with_spacing((0.8, 0.8, 1.6), (15, 15, 40))
        total = resample_occupancy(mask, target).data.sum(dtype=float) * target.voxel_volume_mm3
        assert total == pytest.approx(mask.data.sum() * grid.voxel_volume_mm3, rel=1e-5)
        positions = Volume(grid.to_ras_mm(np.moveaxis(np.indices(grid.shape), 0, -1))[..., 2], grid)
        inner = grid.with_spacing((0.4, 0.4, 1.0), (4, 4, 20))
        expected = inner.to_ras_mm(np.moveaxis(np.indices(inner.shape), 0, -1))[..., 2]
        np.testing.assert_allclose(resample_image(positions, inner).data, expected, atol=1e-3)

    def test_slab_along_a_tilted_axis_is_longer(self) -> None:
        tilt = np.deg2rad(18.5)
        affine = np.eye(4)
        affine[:3, 1] = 0, np.cos(tilt) / 2, -np.sin(tilt) / 2
        affine[:3, 2] = 0, 0, 4.22
        x, y, z = slab_widths(Grid((4, 4, 4), affine), 2, 4.0)
        assert (x, y) == (1.0, pytest.approx(0.5))
        assert z == pytest.approx(4.0 / np.cos(tilt))
        assert slab_widths(make_grid((4, 4, 4), (2, 3, 4)), 0, 5.0) == (5.0, 3.0, 4.0)
