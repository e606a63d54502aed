"""What a sweep would do, before anything runs: cells, parameters, steps, cost."""

from __future__ import annotations

from collections.abc import Sequence

from iac_lightning.config.batching import training_steps
from iac_lightning.config.profiles import profile_words
from iac_lightning.models.cost import step_flops
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.spec import SweepSpec


def plan_table(spec: SweepSpec, cells: Sequence[Cell]) -> str:
    """One line a kind of cell (seeds together): parameters, steps, samples and floating-point operations; the sum."""
    rows = [("cell", "runs" if spec.folds else "seeds", "parameters", "updates", "samples", "TFLOP")]
    known: dict[str, tuple[int, int]] = {}
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.kind, *cell.levels.items()), []).append(cell)
    total = 0.0
    for group in groups.values():
        first = group[0]
        config = first.config
        key = repr((config.task, config.model, config.data.sampling.crop, config.data.grid.spacing_mm))
        if key not in known:
            known[key] = step_flops(config)
        flops, parameters = known[key]
        samples = config.data.sampling.samples_per_epoch * config.trainer.max_epochs
        tera = flops * samples / 1e12
        total += tera * len(group)
        name = first.name.rsplit("_seed", 1)[0]
        name = name if first.fold is None else name.rsplit("_fold", 1)[0]
        rows.append(
            (name, str(len(group)), f"{parameters:,}", f"{training_steps(config):,}", f"{samples:,}", f"{tera:,.3g}")
        )
    width = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(width[0]), *(cell.rjust(w) for cell, w in zip(row[1:], width[1:], strict=True))])
        for row in rows
    ]
    n_pretrain = sum(cell.kind == "pretrain" for cell in cells)
    return "\n".join(
        [
            f"{spec.name}: {len(cells)} cells ({n_pretrain} pre-trainings, {len(cells) - n_pretrain} fine-tunings) in "
            f"{spec.directory}",
            *lines,
            f"training: {total:,.3g} TFLOP in all, {hours(total, cells[0].config.trainer.accelerator)}; loading, "
            "validation and evaluation come on top",
            *[words for cell in cells if (words := profile_words(cell.config))][:1],
        ]
    )


def hours(tera: float, accelerator: str) -> str:
    """Time at a round rate that a reader can scale to the machine at hand."""
    device, rate = ("CPU core at 20 GFLOP/s", 0.02) if accelerator == "cpu" else ("GPU at 50 TFLOP/s", 50.0)
    return f"{tera / rate / 3600:,.2g} h of a {device}"
