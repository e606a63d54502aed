from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from data_modules.batches import plan
from data_modules.batches.plan import PatchPlan, PatchPlanner
from data_modules.cohort.table import Series
from data_modules.config import AugmentationConfig, DataConfig, GridConfig, SamplingConfig
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Grid

CROP = (8, 7, 6)
SHAPE = (30, 24, 20)
UNCHANGED = AugmentationConfig(enabled=False)


def voxels(component: int, *positions: tuple[int, int, int]) -> NDArray[np.int32]:
    return np.array([(component, *p) for p in positions], dtype=np.int32).reshape(-1, 4)


def block(component: int, start: tuple[int, int, int], size: int) -> NDArray[np.int32]:
    offsets = np.argwhere(np.ones((size, size, size)))
    return voxels(component, *(offsets + start).tolist())


def prepared(
    patient: str,
    series: str,
    components: NDArray[np.int32],
    directory: Path,
    *,
    shape: tuple[int, int, int] = SHAPE,
    thickness_mm: float = 1.0,
    slice_axis: int = 2,
) -> PreparedSeries:
    folder = directory / series
    folder.mkdir()
    np.save(folder / "components.npy", components)
    row = Series(patient, series, folder, folder, "finetune", thickness_mm, (1.0, 1.0, 1.0))
    grid = Grid(shape, np.eye(4))
    return PreparedSeries(row, folder, grid, grid, thickness_mm, slice_axis, "")


def draw(
    series: list[PreparedSeries],
    n: int,
    *,
    seed: int = 0,
    labels: bool = True,
    augmentation: AugmentationConfig = UNCHANGED,
    **sampling: Any,
) -> PatchPlan:
    config = DataConfig(
        sampling=SamplingConfig(**({"crop": CROP} | sampling)),
        augmentation=augmentation,
        grid=GridConfig(spacing_mm=(0.8, 0.8, 1.6)),
    )
    return PatchPlanner(series, config, seed, labels=labels)(0, np.arange(n))


def uniformity(counts: Counter[Any]) -> float:
    """Probability of counts as uneven as these where all are equally likely."""
    return float(stats.chisquare(list(counts.values())).pvalue)


def around(components: NDArray[np.int32], directory: Path, n: int, jitter: float) -> NDArray[np.int64]:
    series = [prepared("p", "s", components, directory)]
    return draw(series, n, lesion_fraction=1.0, jitter=jitter).corner


class TestAroundLesions:
    @pytest.mark.parametrize("voxel", [(0, 0, 0), (29, 23, 19), (12, 11, 0), (4, 20, 19)])
    def test_without_jitter_the_lesion_is_centred_at_borders_too(
        self, voxel: tuple[int, int, int], tmp_path: Path
    ) -> None:
        corners = around(voxels(1, voxel), tmp_path, 3, 0.0)
        # the middle of 8, 7 and 6 voxels is 3.5, 3 and 2.5: of two middle voxels, the even one
        assert np.subtract(voxel, corners).tolist() == [[4, 3, 2]] * 3

    @pytest.mark.parametrize(
        ("jitter", "lowest", "highest"), [(1.0, (0, 0, 0), (7, 6, 5)), (0.5, (2, 2, 1), (5, 4, 4))]
    )
    @pytest.mark.parametrize("voxel", [(15, 12, 10), (15, 12, 0), (29, 23, 19)])
    def test_jitter_spans_its_whole_range_at_borders_too(
        self,
        voxel: tuple[int, int, int],
        jitter: float,
        lowest: tuple[int, ...],
        highest: tuple[int, ...],
        tmp_path: Path,
    ) -> None:
        positions = np.subtract(voxel, around(voxels(1, voxel), tmp_path, 500, jitter))
        assert tuple(positions.min(axis=0)) == lowest
        assert tuple(positions.max(axis=0)) == highest

    def test_each_axis_has_a_jitter_of_its_own(self, tmp_path: Path) -> None:
        corners = around(voxels(1, (15, 12, 10)), tmp_path, 500, 1.0)
        assert np.abs(np.corrcoef(corners.T)[np.triu_indices(3, 1)]).max() < 0.2

    def test_components_are_drawn_equally_often_whatever_their_size(self, tmp_path: Path) -> None:
        components = np.concatenate([block(1, (2, 2, 2), 1), block(5, (10, 4, 4), 3), block(9, (18, 10, 8), 8)])
        components = np.random.default_rng(0).permutation(components)
        name = {(x, y, z): component for component, x, y, z in components.tolist()}
        drawn = [(x, y, z) for x, y, z in np.add(around(components, tmp_path, 3000, 0.0), (4, 3, 2)).tolist()]
        counts = Counter(name[v] for v in drawn)
        assert set(counts) == {1, 5, 9}
        assert uniformity(counts) > 0.01
        within = Counter(v for v in drawn if name[v] == 5)
        assert len(within) == 27
        assert uniformity(within) > 0.01

    def test_series_with_lesions_of_their_own(self, tmp_path: Path) -> None:
        """Each series' voxels are its own, also behind series without lesions."""
        lesions = {1: (15, 12, 10), 3: (3, 2, 1), 4: (20, 20, 19)}
        none = voxels(1)
        series = [
            prepared(f"p{i % 2}", f"s{i}", voxels(i, lesions[i]) if i in lesions else none, tmp_path) for i in range(5)
        ]
        plan = draw(series, 1000, lesion_fraction=1.0, jitter=0.0)
        assert {(s, *c) for s, c in zip(plan.series.tolist(), plan.corner.tolist(), strict=True)} == {
            (s, *np.subtract(voxel, (4, 3, 2)).tolist()) for s, voxel in lesions.items()
        }
        counts = Counter(plan.series.tolist())  # patient p1 has the series 1 and 3, p0 series 4
        assert abs(counts[4] - 500) < 4 * np.sqrt(250)
        assert abs(counts[1] - counts[3]) < 4 * np.sqrt(500)


class TestAnywhere:
    def test_the_patch_lies_inside_everywhere_equally_often(self, tmp_path: Path) -> None:
        corners = draw([prepared("p", "s", voxels(1), tmp_path, shape=(11, 8, 6))], 3000).corner
        assert corners.min(axis=0).tolist() == [0, 0, 0]
        assert corners.max(axis=0).tolist() == [3, 1, 0]
        assert uniformity(Counter(corners[:, 0].tolist())) > 0.01
        assert uniformity(Counter(corners[:, 1].tolist())) > 0.01

    def test_a_smaller_volume_is_padded_evenly(self, tmp_path: Path) -> None:
        corners = draw([prepared("p", "s", voxels(1), tmp_path, shape=(4, 4, 5))], 3).corner
        assert corners.tolist() == [[-2, -1, 0]] * 3

    def test_patients_count_alike_and_their_series_too(self, tmp_path: Path) -> None:
        none = voxels(1)
        series = [prepared("many", f"m{i}", none, tmp_path) for i in range(4)] + [prepared("one", "o", none, tmp_path)]
        counts = Counter(draw(series, 4000, lesion_fraction=0.0).series.tolist())
        assert uniformity(Counter({"many": sum(counts[i] for i in range(4)), "one": counts[4]})) > 0.01
        assert uniformity(Counter({i: counts[i] for i in range(4)})) > 0.01

    @pytest.mark.parametrize("labels", [True, False])
    def test_a_cohort_without_lesions_or_labels(self, tmp_path: Path, labels: bool) -> None:
        components = voxels(1) if labels else voxels(1, (0, 0, 0))
        series = [prepared(p, p, components, tmp_path) for p in "ab"]
        plan = draw(series, 50, labels=labels, lesion_fraction=1.0)
        assert not plan.around_lesion.any()
        assert set(plan.series.tolist()) == {0, 1}
        assert (plan.corner >= 0).all()
        assert (plan.corner <= np.subtract(SHAPE, CROP)).all()


def test_the_lesion_fraction_is_met_though_most_scans_have_no_lesion(tmp_path: Path) -> None:
    with_lesion = voxels(1, (29, 0, 19))
    series = [prepared(f"free{i}", f"f{i}", voxels(1), tmp_path) for i in range(9)]
    series += [prepared("ill", "ill1", voxels(1), tmp_path), prepared("ill", "ill2", with_lesion, tmp_path)]
    plan = draw(series, 2000, lesion_fraction=0.6, jitter=0.0)
    n_around = plan.around_lesion.sum()
    assert abs(n_around - 1200) < 4 * np.sqrt(2000 * 0.6 * 0.4)
    assert set(plan.series[plan.around_lesion].tolist()) == {10}
    assert (plan.corner[plan.around_lesion] == (25, -3, 17)).all()
    elsewhere = Counter(np.minimum(plan.series[~plan.around_lesion], 9).tolist())  # both scans of "ill" together
    assert len(elsewhere) == 10
    assert uniformity(elsewhere) > 0.01


class TestRows:
    def planner(self, directory: Path, seed: int = 7) -> PatchPlanner:
        series = [prepared(p, p, block(1, (3, 3, 3), 4), directory) for p in "abc"]
        return PatchPlanner(series, DataConfig(sampling=SamplingConfig(crop=CROP)), seed, labels=True)

    def columns(self, plan: PatchPlan) -> dict[str, Any]:
        return {f.name: getattr(plan, f.name) for f in fields(plan)}

    def test_depend_on_seed_epoch_and_index_alone(self, tmp_path: Path) -> None:
        planner = self.planner(tmp_path)
        indices = np.array([plan._CHUNK - 1, 3, plan._CHUNK, 5 * plan._CHUNK + 2])
        together = self.columns(planner(2, indices))
        again = self.columns(pickle.loads(pickle.dumps(planner))(2, indices))
        for row, index in enumerate(indices.tolist()):
            alone = self.columns(planner(2, [index]))
            for name, values in together.items():
                np.testing.assert_array_equal(again[name], values)
                if isinstance(values, np.ndarray):
                    np.testing.assert_array_equal(alone[name][0], values[row])
        assert together["index"].tolist() == indices.tolist()
        assert (together["seed"], together["epoch"]) == (7, 2)

    def test_differ_between_indices_epochs_and_seeds(self, tmp_path: Path) -> None:
        planner = self.planner(tmp_path)
        (tmp_path / "again").mkdir()
        other = self.planner(tmp_path / "again", seed=8)
        corners = [tuple(p.corner.ravel().tolist()) for p in (planner(0, [1, 2]), planner(1, [1, 2]), other(0, [1, 2]))]
        assert len({c[:3] for c in corners} | {c[3:] for c in corners}) == 6

    def test_some_of_them(self, tmp_path: Path) -> None:
        plan = self.planner(tmp_path)(0, range(10))
        some = plan.rows(np.array([4, 1]))
        assert len(some) == 2
        assert some.index.tolist() == [4, 1]
        assert some.corner.tolist() == plan.corner[[4, 1]].tolist()


ALWAYS = AugmentationConfig(
    flip_probability=1,
    affine_probability=1,
    rotation_deg=7,
    scale=0.2,
    thickness_probability=1,
    thickness_range_mm=(3, 6),
    profile_roundness=(0.2, 0.7),
    profile_widening=(1.1, 1.6),
    noise_probability=1,
    noise_hu=40,
    blur_probability=1,
    blur_mm=1.5,
    intensity_probability=1,
    gain=0.1,
    offset_hu=30,
    gamma_probability=1,
    gamma=(0.5, 2),
    window_probability=1,
    window_jitter_hu=50,
)


class TestChanges:
    def drawn(self, directory: Path, augmentation: AugmentationConfig, n: int = 1000, **scan: Any) -> PatchPlan:
        return draw([prepared("p", "s", voxels(1), directory, **scan)], n, augmentation=augmentation)

    def test_disabled_or_improbable_nothing_changes(self, tmp_path: Path) -> None:
        never = {f.name: 0.0 for f in fields(AugmentationConfig) if f.name.endswith("_probability")}
        for name, config in (("disabled", replace(ALWAYS, enabled=False)), ("never", replace(ALWAYS, **never))):
            (tmp_path / name).mkdir()
            plan = self.drawn(tmp_path / name, config, 20)
            assert not plan.flip.any()
            assert not plan.affine.any()
            assert (plan.scales == 1).all()
            assert (plan.degrees == 0).all()
            assert np.isnan(plan.thicker_mm).all()
            assert (plan.gain == 1).all()
            assert (plan.gamma == 1).all()
            for values in (plan.offset_hu, plan.blur_mm, plan.noise_hu):
                assert not values.any()
            assert (plan.window_hu == (-200, 1000)).all()

    @pytest.mark.parametrize(
        ("name", "low", "high"),
        [
            ("scales", 0.8, 1.2),
            ("degrees", -7, 7),
            ("thicker_mm", 3, 6),
            ("roundness", 0.2, 0.7),
            ("widening", 1.1, 1.6),
            ("gain", 0.9, 1.1),
            ("offset_hu", -30, 30),
            ("blur_mm", 0, 1.5),
            ("noise_hu", 0, 40),
            ("window_hu", (-250, 950), (-150, 1050)),
        ],
    )
    def test_parameters_fill_their_ranges_uniformly(self, tmp_path: Path, name: str, low: Any, high: Any) -> None:
        values = getattr(self.drawn(tmp_path, ALWAYS), name)
        share = ((values - np.array(low)) / np.subtract(high, low)).reshape(len(values), -1)
        for column in share.T:
            assert stats.kstest(column, "uniform").pvalue > 0.005
        if share.shape[1] > 1:
            assert np.abs(np.corrcoef(share.T)[np.triu_indices(share.shape[1], 1)]).max() < 0.15

    def test_a_power_and_its_inverse_are_as_likely(self, tmp_path: Path) -> None:
        power = self.drawn(tmp_path, ALWAYS).gamma
        assert stats.kstest(np.log2(power) / 2 + 0.5, "uniform").pvalue > 0.01

    @pytest.mark.parametrize(
        ("kind", "changed"),
        [
            ("flip", lambda p: p.flip),
            ("affine", lambda p: p.affine),
            ("thickness", lambda p: np.isfinite(p.thicker_mm)),
            ("intensity", lambda p: p.gain != 1),
            ("blur", lambda p: p.blur_mm > 0),
            ("noise", lambda p: p.noise_hu > 0),
            ("gamma", lambda p: p.gamma != 1),
            ("window", lambda p: p.window_hu[:, 0] != -200),
        ],
    )
    def test_probabilities(self, tmp_path: Path, kind: str, changed: Any) -> None:
        drawn = changed(self.drawn(tmp_path, replace(ALWAYS, **{f"{kind}_probability": 0.3}), 2000))
        assert abs(drawn.sum() - 600) < 4 * np.sqrt(2000 * 0.3 * 0.7)

    def test_a_window_keeps_its_order(self, tmp_path: Path) -> None:
        window = self.drawn(tmp_path, replace(ALWAYS, window_jitter_hu=1e4)).window_hu
        assert (window[:, 1] - window[:, 0] >= 1).all()

    @pytest.mark.parametrize(
        ("thickness_mm", "slice_axis", "own_mm", "told_mm"),
        [(1.0, 2, 1.6, 1.0), (4.5, 2, 4.5, 4.5), (1.0, 0, 1.6, 1.6), (4.5, 0, 1.6, 4.5)],
    )
    def test_slices_never_grow_thinner_than_scan_or_voxels(
        self, tmp_path: Path, thickness_mm: float, slice_axis: int, own_mm: float, told_mm: float
    ) -> None:
        thin = replace(ALWAYS, thickness_range_mm=(1.0, 6.0))
        plan = self.drawn(tmp_path, thin, thickness_mm=thickness_mm, slice_axis=slice_axis)
        assert (plan.own_mm == own_mm).all()
        thicker = np.isfinite(plan.thicker_mm)
        assert abs(thicker.mean() - (6 - own_mm) / 5) < 0.06
        assert (plan.thicker_mm[thicker] > own_mm).all()
        assert (plan.slice_thickness_mm[~thicker] == told_mm).all()
        told = np.maximum(plan.thicker_mm[thicker], told_mm).astype(np.float32)
        assert (plan.slice_thickness_mm[thicker] == told).all()

    def test_the_places_of_a_sample_are_its_own(self) -> None:
        names = [name for name in vars(plan) if name.startswith("_") and name[1:].isupper()]
        taken: list[int] = []
        for name in set(names) - {"_CHUNK", "_PLACES"}:
            place = getattr(plan, name)
            taken += range(place.start, place.stop) if isinstance(place, slice) else [place]
        assert sorted(taken) == list(range(plan._PLACES))
