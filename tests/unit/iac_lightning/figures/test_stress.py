from __future__ import annotations

import numpy as np

from iac_lightning.figures.stress import stress_figure
from tests.synthetic_stress import table_of


def test_the_figure_draws_every_head_and_mean(stress_summary: dict) -> None:
    dice, change, share, volume = stress_figure({"vit": table_of()}, {"vit": stress_summary}).axes
    drawn = [np.asarray(line.get_xydata(), dtype=float) for line in dice.get_lines()]
    heads = [line for line in drawn if len(line) and line[0].tolist() in ([0.8, 0.9], [1.0, 0.7], [2.5, 0.6])]
    assert sorted(len(head) for head in heads) == [2, 3, 4]
    means = [[1.0, 0.75], [2.0, 0.6], [5.0, 1 / 3]]
    assert any(line.shape == (3, 2) and np.allclose(line, means) for line in drawn)
    assert any(np.allclose(line, [[0.0, 2.2 / 3]]) for line in drawn if line.shape == (1, 2))
    ceiling = [[1.0, (0.9 + 1.0) / 2], [2.0, 0.8], [5.0, 0.5]]
    dashed = [line for line in dice.get_lines() if line.get_linestyle() == "--"]
    assert np.allclose(dashed[0].get_xydata(), ceiling)
    assert next(tick.get_text() for tick in dice.get_xticklabels()) == "native\nn=3"
    assert [tick.get_text().strip() for tick in change.get_xticklabels()] == ["1\nn=1", "2\nn=2", "5\nn=3"]
    assert volume.get_yscale() == "log"
    assert share.get_ylim()[1] >= 1
