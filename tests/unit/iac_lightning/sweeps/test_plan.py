from __future__ import annotations

from pathlib import Path

from iac_lightning.models.cost import step_flops
from iac_lightning.sweeps.cells import cells
from iac_lightning.sweeps.plan import hours, plan_table
from iac_lightning.sweeps.spec import read_sweep
from tests.unit.iac_lightning.sweeps.conftest import TWO_AXES, write


def test_a_line_a_kind_of_cell_and_the_sum(tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, TWO_AXES))
    planned = cells(spec)
    first, header, *rows, last = plan_table(spec, planned).splitlines()
    assert first == "tiny: 10 cells (2 pre-trainings, 8 fine-tunings) in runs/tiny"
    assert header.split() == ["cell", "seeds", "parameters", "updates", "samples", "TFLOP"]
    assert [row.split()[:2] for row in rows] == [
        ["pretrain_8_half-hidden", "1"],
        ["pretrain_16_half-hidden", "1"],
        ["8_scratch", "2"],
        ["8_half-hidden", "2"],
        ["16_scratch", "2"],
        ["16_half-hidden", "2"],
    ]
    total = 0.0
    for cell in planned:
        flops, parameters = step_flops(cell.config)
        samples = cell.config.data.sampling.samples_per_epoch * cell.config.trainer.max_epochs
        total += flops * samples / 1e12
        row = next(row for row in rows if row.split()[0] == cell.name.rsplit("_seed", 1)[0])
        assert f" {parameters:,} " in row
        assert f" {samples:,} " in row
    assert last.startswith(f"training: {total:,.3g} TFLOP in all, ")


def test_hours_at_a_round_rate() -> None:
    assert hours(72.0, "cpu") == "1 h of a CPU core at 20 GFLOP/s"
    assert hours(360_000.0, "gpu") == "2 h of a GPU at 50 TFLOP/s"
