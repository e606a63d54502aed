"""Made-up volumes, and the experiments that train on them: what is timed needs no cohort and no settings files.

Only `data_module` and what it calls need the data path's libraries; networks and settings need torch alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iac_lightning.config.schema import ExperimentConfig

if TYPE_CHECKING:
    from data_modules.batches.ct_data_module import CTDataModule
    from data_modules.prepare.store import PreparedSeries

NETWORKS = ("mae", "vit", "cnn")
REGION = (100, 80, 30)
"""Voxels of a prepared region at the default settings."""


@dataclass(frozen=True)
class Size:
    """How large the networks and crops of a benchmark are.

    Attributes:
        crop: voxels of a patch.
        vit: width, blocks and heads of the encoder (None: those of the preset small).
        mae_decoder: width, blocks and heads of the autoencoder's decoder.
        cnn_features: of the CNN's first stage.
        channels: of the ViT's decoder at full resolution.
    """

    crop: tuple[int, int, int]
    vit: tuple[int, int, int] | None
    mae_decoder: tuple[int, int, int]
    cnn_features: int
    channels: int


FULL = Size((64, 64, 32), None, (192, 4, 6), 32, 16)
"""As `experiments/sweeps/gpu`."""
TINY = Size((32, 32, 16), (48, 2, 2), (24, 1, 2), 4, 4)
"""For trying the path on a CPU."""


def experiment(
    network: str, size: Size, *, patch: int = 8, batch: int = 2, precision: str = "32-true", device: str = "cpu"
) -> ExperimentConfig:
    """Settings as in `experiments/sweeps/gpu`, of `NETWORKS`.

    Args:
        network: mae, vit or cnn.
        size: of network and crop.
        patch: edge of the ViT's cubic patches; of no meaning to the CNN.
        batch: samples a step.
        precision: as `trainer.precision`.
        device: "cpu" or "cuda".
    """
    assert network in NETWORKS, network
    config = ExperimentConfig(name=f"bench_{network}", task="pretrain" if network == "mae" else "segment")
    config.data.sampling.crop = size.crop
    config.data.batch_size = batch
    config.trainer.accelerator = "gpu" if device == "cuda" else "cpu"
    config.trainer.precision = precision
    config.tracking.enabled = False
    vit, mae = config.model.vit, config.model.mae
    vit.preset, vit.patch_size = "small", (patch, patch, patch)
    if size.vit:
        vit.dim, vit.depth, vit.heads = size.vit
    if network == "mae":
        mae.decoder_dim, mae.decoder_depth, mae.decoder_heads = size.mae_decoder
        config.data.sampling.lesion_fraction = 0
    elif network == "vit":
        vit.drop_path = 0.1
        config.model.decoder.channels = size.channels
        config.optimizer.layer_decay, config.optimizer.ema_decay = 0.75, 0.999
    else:
        config.model.name, config.model.cnn.base_features = "cnn", size.cnn_features
        optimizer = config.optimizer
        optimizer.name, optimizer.lr, optimizer.schedule, optimizer.warmup_fraction = "sgd", 1e-2, "poly", 0
    return config


def example(config: ExperimentConfig, device: torch.device) -> dict[str, Tensor]:
    """A batch with the keys, shapes and types of the data module's, of noise, on a device."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.data.batch_size, 1, *config.data.sampling.crop)
    batch = {"image": torch.rand(shape, generator=generator) * 2 - 1, "sample_index": torch.arange(shape[0])}
    if config.task == "segment":
        batch |= {
            "label": (torch.rand(shape, generator=generator) > 0.995).float(),
            "loss_region": torch.rand(shape, generator=generator) > 0.8,
        }
    return {name: values.to(device) for name, values in batch.items()}


def write_series(
    folder: Path, n: int, shape: tuple[int, int, int] = REGION, spacing_mm: tuple[float, float, float] = (0.8, 0.8, 1.6)
) -> tuple[PreparedSeries, ...]:
    """Prepared series, two of a patient: brain with noise, a bright band, four lesions of a few voxels.

    Args:
        folder: for their arrays.
        n: how many.
        shape: voxels of the region, on both grids.
        spacing_mm: of their voxels.
    """
    from data_modules.cohort.table import Series
    from data_modules.prepare.store import PreparedSeries
    from data_modules.scan.geometry import Grid

    made, grid = [], Grid(shape, np.diag([*spacing_mm, 1.0]))
    for number in range(n):
        rng = np.random.default_rng([0, number])
        hu = rng.normal(35, 15, shape).round().astype(np.int16)
        hu[:, : shape[1] // 8] = 900
        occupancy, components = np.zeros(shape, np.uint8), []
        for component in range(1, 5):
            x, y, z = (int(rng.integers(2, size - 4)) for size in shape)
            hu[x : x + 2, y : y + 2, z : z + 2] = 400
            occupancy[x : x + 2, y : y + 2, z : z + 2] = 255
            components += [(component, x + i, y + j, z + k) for i, j, k in np.ndindex(2, 2, 2)]
        place = folder / f"S{number:04d}"
        place.mkdir(parents=True)
        arrays: dict[str, NDArray[Any]] = {"components": np.array(components, np.int32)}
        arrays |= {"hu": hu, "occupancy": occupancy, "peak_hu": hu, "native_hu": hu, "native_label": occupancy > 127}
        for name, array in arrays.items():
            np.save(place / f"{name}.npy", array)
        series = Series(f"P{number // 2:04d}", place.name, place, place, "finetune", spacing_mm[2])
        made.append(PreparedSeries(series, place, grid, grid, spacing_mm[2], slice_axis=2, source_sha256=""))
    return tuple(made)


def data_module(config: ExperimentConfig, series: tuple[PreparedSeries, ...]) -> CTDataModule:
    """The product's data module over series that need no preparation and have no development split."""
    from data_modules.batches.ct_data_module import CTDataModule
    from data_modules.cohort.table import Cohort
    from data_modules.prepare.store import PreparedStore

    class MadeData(CTDataModule):
        def prepare_data(self) -> None:
            """Nothing to prepare."""

        def setup(self, stage: str | None = None) -> None:
            cohort = Cohort(Path("made"), tuple(s.series for s in series))
            self._store, self._train_series = PreparedStore(Path("made"), "made", cohort, series), series

        def val_dataloader(self) -> Any:
            return []

    loss = config.loss
    return MadeData(
        config.data, config.task, config.seed, loss.restrict_hu, restrict_on=loss.restrict_on, needs_dev=False
    )
