"""Speed, memory and waiting of real trainings, and the share of the device's peak that they reach."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_modules.files import write_json_atomic
from iac_lightning.config.reading import load_experiment
from iac_lightning.models.cost import step_flops
from iac_lightning.modules.callbacks import read_history
from iac_lightning.workflows.train import train

EPOCHS = 3
"""The first one compiles, fills caches and starts loaders; figures are those of the last."""


def bench_training(
    experiment: Path, overrides: Sequence[str], patches: Sequence[int], peak_tflops: float | None, out: Path
) -> list[dict[str, Any]]:
    """Train a few short epochs for each patch size and write what was measured.

    Args:
        experiment: YAML file, such as `experiments/sweeps/gpu/mae.yaml`; its epochs are cut to `EPOCHS`.
        overrides: `key=value`, such as `data.sampling.samples_per_epoch=1024`.
        patches: edges of cubic patches of the ViT.
        peak_tflops: of the device at the training's precision (H100 SXM, bf16: 989), for the share of it that is
            reached; None leaves the share out.
        out: JSON file; rows of other experiments in it are kept.

    Returns:
        A row for each patch size: samples a second, TFLOP/s and their share of the peak, peak memory, and the share of
        the time in which the training waited for data.
    """
    rows = []
    for patch in patches:
        with tempfile.TemporaryDirectory() as folder:
            config = load_experiment(
                experiment,
                [
                    *(f"model.vit.patch_size=[{patch},{patch},{patch}]", "tracking.enabled=false", "init_from=null"),
                    *(f"trainer.max_epochs={EPOCHS}", f"trainer.check_val_every_n_epoch={EPOCHS}"),
                    *(*overrides, f"runs_dir={folder}", "name=bench"),
                ],
            )
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            run = train(config)
            last = read_history(run.directory / "logs" / "history.jsonl")[-1]
        flops, parameters = step_flops(config)
        rate = last["train/samples_per_s"] * flops / 1e12
        rows.append(
            {
                "experiment": experiment.stem,
                "preset": config.model.vit.preset,
                "patch": patch,
                "precision": config.trainer.precision,
                "batch_size": config.data.batch_size,
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
                "parameters": parameters,
                "samples_per_s": last["train/samples_per_s"],
                "tflops": rate,
                "share_of_peak": rate / peak_tflops if peak_tflops else None,
                "peak_memory_gib": _peak_memory_bytes() / 2**30,
                "data_wait_share": last["train/data_wait_share"],
            }
        )
        print(describe(rows[-1]), flush=True)
    known = [] if not out.exists() else json.loads(out.read_text())
    names = {(row["experiment"], row["patch"]) for row in rows}
    write_json_atomic(out, [row for row in known if (row["experiment"], row["patch"]) not in names] + rows)
    return rows


def describe(row: dict[str, Any]) -> str:
    """A row in a line."""
    share = f" ({row['share_of_peak']:.1%} of the peak)" if row["share_of_peak"] is not None else ""
    return (
        f"{row['experiment']}, {row['preset']}, patch {row['patch']}, {row['precision']}, batch {row['batch_size']}: "
        f"{row['samples_per_s']:.1f} samples/s, {row['tflops']:.3g} TFLOP/s{share}, {row['peak_memory_gib']:.2f} GiB, "
        f"waits for data {row['data_wait_share']:.1%}"
    )


def _peak_memory_bytes() -> int:
    """Of the GPU since the last reset; on a CPU of this process since its start (KiB on Linux, bytes elsewhere)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)
