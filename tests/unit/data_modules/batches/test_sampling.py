from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from data_modules.batches.sampling import PlaceSampler, cut, lesion_corner, uniform_corner
from data_modules.cohort.table import Series
from data_modules.config import SamplingConfig
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Grid

CROP = (8, 7, 6)
SHAPE = (30, 24, 20)


def voxels(component: int, *positions: tuple[int, int, int]) -> NDArray[np.int32]:
    return np.array([(component, *p) for p in positions], dtype=np.int32).reshape(-1, 4)


def block(component: int, start: tuple[int, int, int], size: int) -> NDArray[np.int32]:
    offsets = np.argwhere(np.ones((size, size, size)))
    return voxels(component, *(offsets + start).tolist())


def prepared(patient: str, series: str, components: NDArray[np.int32], directory: Path) -> PreparedSeries:
    folder = directory / series
    folder.mkdir()
    np.save(folder / "components.npy", components)
    row = Series(patient, series, folder, folder, "finetune", 1.0, (1.0, 1.0, 1.0))
    grid = Grid(SHAPE, np.eye(4))
    return PreparedSeries(row, folder, grid, grid, 1.0, 2, "")


def uniformity(counts: Counter[Any]) -> float:
    """Probability of counts as uneven as these where all are equally likely."""
    return float(stats.chisquare(list(counts.values())).pvalue)


class TestLesionCorner:
    @pytest.mark.parametrize("voxel", [(0, 0, 0), (29, 23, 19), (12, 11, 0), (4, 20, 19)])
    def test_without_jitter_the_lesion_is_centred_at_borders_too(self, voxel: tuple[int, int, int]) -> None:
        rng = np.random.default_rng(0)
        corner = lesion_corner(voxels(1, voxel), CROP, 0.0, rng)
        # the middle of 8, 7 and 6 voxels is 3.5, 3 and 2.5: of two middle voxels, the even one
        assert np.subtract(voxel, corner).tolist() == [4, 3, 2]

    @pytest.mark.parametrize(
        ("jitter", "lowest", "highest"), [(1.0, (0, 0, 0), (7, 6, 5)), (0.5, (2, 2, 1), (5, 4, 4))]
    )
    @pytest.mark.parametrize("voxel", [(15, 12, 10), (15, 12, 0), (29, 23, 19)])
    def test_jitter_spans_its_whole_range_at_borders_too(
        self, voxel: tuple[int, int, int], jitter: float, lowest: tuple[int, ...], highest: tuple[int, ...]
    ) -> None:
        rng = np.random.default_rng(1)
        places = np.array([np.subtract(voxel, lesion_corner(voxels(1, voxel), CROP, jitter, rng)) for _ in range(500)])
        assert tuple(places.min(axis=0)) == lowest
        assert tuple(places.max(axis=0)) == highest

    def test_each_axis_has_a_jitter_of_its_own(self) -> None:
        rng = np.random.default_rng(9)
        corners = np.array([lesion_corner(voxels(1, (15, 12, 10)), CROP, 1.0, rng) for _ in range(500)])
        assert np.abs(np.corrcoef(corners.T)[np.triu_indices(3, 1)]).max() < 0.2

    def test_components_are_drawn_equally_often_whatever_their_size(self) -> None:
        components = np.concatenate([block(1, (2, 2, 2), 1), block(5, (10, 4, 4), 3), block(9, (18, 10, 8), 8)])
        components = np.random.default_rng(0).permutation(components)
        name = {(x, y, z): component for component, x, y, z in components.tolist()}
        rng = np.random.default_rng(2)
        corners = np.array([lesion_corner(components, CROP, 0.0, rng) for _ in range(3000)])
        drawn = [(x, y, z) for x, y, z in np.add(corners, (4, 3, 2)).tolist()]
        counts = Counter(name[v] for v in drawn)
        assert set(counts) == {1, 5, 9}
        assert uniformity(counts) > 0.01
        within = Counter(v for v in drawn if name[v] == 5)
        assert len(within) == 27
        assert uniformity(within) > 0.01


class TestUniformCorner:
    def test_the_patch_lies_inside_everywhere_equally_often(self) -> None:
        rng = np.random.default_rng(3)
        corners = np.array([uniform_corner((11, 8, 6), CROP, rng) for _ in range(3000)])
        assert corners.min(axis=0).tolist() == [0, 0, 0]
        assert corners.max(axis=0).tolist() == [3, 1, 0]
        assert uniformity(Counter(corners[:, 0].tolist())) > 0.01
        assert uniformity(Counter(corners[:, 1].tolist())) > 0.01

    def test_a_smaller_volume_is_padded_evenly(self) -> None:
        assert uniform_corner((4, 4, 5), CROP, np.random.default_rng(0)) == (-2, -1, 0)


class TestPlaceSampler:
    def test_patients_count_alike_and_their_series_too(self, tmp_path: Path) -> None:
        none = voxels(1)
        series = [prepared("many", f"m{i}", none, tmp_path) for i in range(4)] + [prepared("one", "o", none, tmp_path)]
        place = PlaceSampler(series, SamplingConfig(crop=CROP, lesion_fraction=0.0))
        rng = np.random.default_rng(4)
        counts = Counter(place(rng).series for _ in range(4000))
        assert uniformity(Counter({"many": sum(counts[i] for i in range(4)), "one": counts[4]})) > 0.01
        assert uniformity(Counter({i: counts[i] for i in range(4)})) > 0.01

    def test_the_lesion_fraction_is_met_though_most_scans_have_no_lesion(self, tmp_path: Path) -> None:
        with_lesion = voxels(1, (29, 0, 19))
        series = [prepared(f"free{i}", f"f{i}", voxels(1), tmp_path) for i in range(9)]
        series += [prepared("ill", "ill1", voxels(1), tmp_path), prepared("ill", "ill2", with_lesion, tmp_path)]
        place = PlaceSampler(series, SamplingConfig(crop=CROP, lesion_fraction=0.6, jitter=0.0))
        rng = np.random.default_rng(5)
        places = [place(rng) for _ in range(2000)]
        around = [p for p in places if p.around_lesion]
        assert abs(len(around) - 1200) < 4 * np.sqrt(2000 * 0.6 * 0.4)
        assert {(p.series, p.corner) for p in around} == {(10, (25, -3, 17))}
        elsewhere = Counter(min(p.series, 9) for p in places if not p.around_lesion)  # both scans of "ill" together
        assert len(elsewhere) == 10
        assert uniformity(elsewhere) > 0.01

    @pytest.mark.parametrize("labels", [True, False])
    def test_a_cohort_without_lesions_or_labels(self, tmp_path: Path, labels: bool) -> None:
        components = voxels(1) if labels else voxels(1, (0, 0, 0))
        series = [prepared(p, p, components, tmp_path) for p in "ab"]
        place = PlaceSampler(series, SamplingConfig(crop=CROP, lesion_fraction=1.0), labels=labels)
        rng = np.random.default_rng(6)
        places = [place(rng) for _ in range(50)]
        assert not any(p.around_lesion for p in places)
        assert {p.series for p in places} == {0, 1}
        assert all(0 <= c <= s - n for p in places for c, s, n in zip(p.corner, SHAPE, CROP, strict=True))

    def test_places_follow_from_the_generator(self, tmp_path: Path) -> None:
        series = [prepared(p, p, block(1, (3, 3, 3), 4), tmp_path) for p in "abc"]
        place = PlaceSampler(series, SamplingConfig(crop=CROP))
        first, second = ([place(np.random.default_rng([7, k])) for k in range(20)] for _ in range(2))
        assert first == second
        assert len({p.corner for p in first}) > 10


class Recording(np.ndarray[Any, Any]):
    """Notes what is read."""

    def __getitem__(self, key: Any) -> Any:
        RECORDED.append(key)
        return super().__getitem__(key)


RECORDED: list[tuple[slice, ...]] = []


class TestCut:
    VOLUME = np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)

    def test_against_padding_the_whole_volume(self) -> None:
        padded = np.pad(self.VOLUME, 20, constant_values=-1024)
        rng = np.random.default_rng(8)
        for corner in rng.integers(-12, 12, (300, 3)).tolist():
            patch = np.full((5, 10, 7), 77, dtype=np.float32)
            cut(self.VOLUME, tuple(corner), patch, -1024)
            x, y, z = (c + 20 for c in corner)
            np.testing.assert_array_equal(patch, padded[x : x + 5, y : y + 10, z : z + 7])

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float16])
    def test_a_patch_of_any_type_that_holds_the_values(self, kind: type) -> None:
        patch = np.full((2, 2, 2), 77, dtype=kind)
        cut(np.full((3, 3, 3), 5, dtype=np.float32), (-1, 0, 0), patch, 9)
        assert patch.tolist() == [[[9, 9], [9, 9]], [[5, 5], [5, 5]]]

    def test_reads_nothing_but_the_patch(self) -> None:
        RECORDED.clear()
        cut(self.VOLUME.view(Recording), (-2, 3, 6), np.empty((4, 4, 4), np.float32), 0)
        (only,) = RECORDED
        assert only == (slice(0, 2), slice(3, 7), slice(6, 7))
