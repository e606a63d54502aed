"""(b) Augmented patches a second and nothing else: the data module's two engines, nnU-Net's loader, TorchIO's queue."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import reason, table
from benchmarks.gpu.arguments import Task, begin, parser
from benchmarks.synthetic import experiment
from iac_lightning.config.schema import ExperimentConfig

if TYPE_CHECKING:
    from benchmarks.loaders import Stream
    from data_modules.prepare.store import PreparedSeries

SHAPE = (160, 128, 96)
PATCH = (96, 96, 48)
COLUMNS = {
    **{name: name for name in ("loader", "augmented", "workers", "batch")},
    "patches_per_s": "patches/s",
    "ours_to_it": "batched engine ÷ it",
    "problem": "left out",
}
BATCHED = "batched engine"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every loader, with and without augmentation."""
    options = parser("data_path", __doc__ or "")
    options.add_argument("--patch", nargs=3, type=int, metavar=("X", "Y", "Z"), help="voxels (default 96 96 48)")
    options.add_argument("--batch", type=int, help="patches a batch (default 32; on a CPU 2)")
    options.add_argument("--peer-workers", type=int, help="of peers and of the TorchIO engine (default 14; on a CPU 0)")
    task = begin("data_path", options.parse_args(argv))
    try:
        measure_all(task)
    except ModuleNotFoundError as error:  # of the data path itself
        task.figures.add(loader=BATCHED, problem=reason(error))
    print(table(COLUMNS, task.figures.rows))
    return task.figures.status


def measure_all(task: Task) -> None:
    """Loaders in turn, ours first: the others are given as ratios to it."""
    from benchmarks.loaders import fresh_rate, write_nifti_pairs
    from benchmarks.synthetic import write_series

    shape = SHAPE if task.device.is_cuda else (40, 40, 24)
    with tempfile.TemporaryDirectory() as folder:
        series = write_series(Path(folder) / "prepared", 4 if task.is_trial else 16, shape, (0.5, 0.5, 0.5))
        nifti = Path(folder) / "nifti"
        try:
            write_nifti_pairs(series, nifti)
        except ModuleNotFoundError as error:
            task.figures.add(loader="tio.Queue", problem=reason(error))
        for augmented in (True, False):
            own_rate = None
            for name, workers, lot, begin_stream in loaders(task, series, nifti, augmented):
                if task.figures.seconds_left < 0:
                    return
                found: dict[str, float | str | None]
                try:
                    rate = fresh_rate(begin_stream, 2 * task.each_s, lot)
                    own_rate = rate if name == BATCHED else own_rate
                    found = {"patches_per_s": rate, "ours_to_it": own_rate / rate if own_rate else None}
                except Exception as error:  # a loader that fails ends no other
                    found = {"problem": reason(error)}
                batch = settings(task).data.batch_size
                task.figures.add(loader=name, augmented=augmented, workers=workers, batch=batch, **found)


def loaders(
    task: Task, series: tuple[PreparedSeries, ...], nifti: Path, augmented: bool
) -> list[tuple[str, int, int, Callable[[], Stream]]]:
    """Name, workers, lot and beginning of each stream."""
    from benchmarks.loaders import nnunet_stream, own_stream, queue_lot, queue_stream

    device, config = task.device.torch, settings(task)
    config.data.augmentation.enabled = augmented
    peers = task.options.peer_workers
    peers = peers if peers is not None else (14 if task.device.is_cuda else 0)
    rows: list[tuple[str, int, int, Callable[[], Stream]]] = []
    for residency in ("device", "host", "disk") if task.device.is_cuda else ("disk",):
        own = deepcopy(config)
        own.data.residency, own.data.num_workers = residency, task.workers
        name = BATCHED if residency == "device" or not task.device.is_cuda else f"{BATCHED}, volumes: {residency}"
        rows.append((name, task.workers, 1, partial(own_stream, own, series, device)))
    reference = deepcopy(config)
    reference.data.augmentation.engine, reference.data.num_workers = "torchio", peers
    rows.append(("TorchIO engine", peers, 1, partial(own_stream, reference, series, device)))
    for per_volume in (1, 16):
        queue = partial(queue_stream, config, nifti, device, per_volume=per_volume, augment=augmented, workers=peers)
        rows.append((f"tio.Queue, {per_volume} a volume", peers, queue_lot(per_volume), queue))
    nnunet = partial(nnunet_stream, config, series, device, augment=augmented, workers=peers)
    return [*rows, ("nnU-Net's loader", peers, 1, nnunet)]


def settings(task: Task) -> ExperimentConfig:
    """Of the batches."""
    batch = task.options.batch or (32 if task.device.is_cuda else 2)
    config = experiment("cnn", task.size, batch=batch, precision=task.precision, device=task.options.device)
    patch = task.options.patch or (PATCH if task.device.is_cuda else (24, 24, 16))
    config.data.sampling.crop = (patch[0], patch[1], patch[2])
    config.data.grid.spacing_mm = (0.5, 0.5, 0.5)
    return config
