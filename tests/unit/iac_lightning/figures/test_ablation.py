from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from iac_lightning.evaluation.ablation.cells import Training, measure
from iac_lightning.evaluation.ablation.effects import level_means, seed_means, two_way_means
from iac_lightning.figures.ablation import heat_map_figure, interaction_figure, main_effects_figure
from iac_lightning.figures.figures import png
from tests.synthetic_sweep import invented

FACTORS = {"size": ("small", "large"), "up": ("a", "b"), "loss": ("x", "y")}


def trainings(lacking=()):
    found = []
    for k, size in enumerate(FACTORS["size"]):
        for j, up in enumerate(FACTORS["up"]):
            for i, loss in enumerate(FACTORS["loss"]):
                for seed in (0, 1):
                    table = invented(0.6 - 0.1 * k + 0.02 * j, (k, j, i, seed), patients=8)
                    if (size, up, loss) not in lacking:
                        levels = {"size": size, "up": up, "loss": loss}
                        found.append(Training(levels=levels, seed=seed, table=table))
    return found


@pytest.fixture(scope="module")
def sample():
    return measure(trainings(), FACTORS, seed=0, resamples=100)


def test_main_effects_show_levels_and_seeds(sample):
    means = {name: level_means(sample, name) for name in FACTORS}
    seeds = {name: seed_means(sample, name) for name in FACTORS}
    for name in FACTORS:
        for effect in means[name]:
            assert np.mean(list(seeds[name][effect.level].values())) == pytest.approx(effect.estimate)
    figure = main_effects_figure(means, seeds, "16 cells")
    assert [panel.get_xlabel() for panel in figure.axes] == list(FACTORS)
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert points[:, 1] == pytest.approx(list(seeds["size"]["small"].values()))
    assert png(figure) == png(main_effects_figure(means, seeds, "16 cells"))


def test_two_way_means_average_the_rest(sample):
    means, n, total = two_way_means(sample, "size", "up")
    assert (n, total) == (2, 2)
    cells = dict(zip(sample.cells, sample.draws.estimate[:, 0], strict=True))
    expected = np.mean([cells["small", "b", loss] for loss in FACTORS["loss"]])
    assert means["small", "b"].estimate == pytest.approx(expected)


def test_a_hole_takes_its_context_out_of_the_heat_map():
    holes = measure(trainings({("large", "b", "y")}), FACTORS, seed=0, resamples=50)
    means, n, total = two_way_means(holes, "size", "up")
    assert (n, total, len(means)) == (1, 2, 4)
    gone = measure(trainings({("large", "b", "x"), ("large", "b", "y")}), FACTORS, seed=0, resamples=50)
    means, n, _ = two_way_means(gone, "size", "up")
    assert (n, sorted(means)) == (2, [("large", "a"), ("small", "a"), ("small", "b")])
    figure = heat_map_figure(means, "size", "up", FACTORS["size"], FACTORS["up"], "n")
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts.count("no result") == 1
    assert f"{means['small', 'a'].estimate:.3f}" in texts
    assert f"[{means['small', 'a'].low:.3f}; {means['small', 'a'].high:.3f}]" in texts
    lines = interaction_figure(means, "size", "up", FACTORS["size"], FACTORS["up"], "n").axes[0].lines
    drawn = [line for line in lines if len(line.get_xdata()) > 1]
    assert len(drawn) == 1  # the line of b has one point and crosses no hole
    assert len({to_hex(line.get_color()) for line in lines}) == 2


def test_one_patient_has_points_without_intervals():
    alone = [Training(levels=t.levels, seed=t.seed, table=t.table.iloc[:2]) for t in trainings()]
    sample = measure(alone, FACTORS, seed=0, resamples=20)
    means, *_ = two_way_means(sample, "size", "up")
    texts = [
        t.get_text() for t in heat_map_figure(means, "size", "up", FACTORS["size"], FACTORS["up"], "n").axes[0].texts
    ]
    assert not any("[" in text for text in texts)
    assert not interaction_figure(means, "size", "up", FACTORS["size"], FACTORS["up"], "n").axes[0].collections
