"""Speed and memory, as ratios against a peer that does the same work in the same run.

Absolute seconds depend on the machine; a ratio to a peer measured in turn with it (A B A B …) travels.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from monai.networks.nets import MaskedAutoEncoderViT
from torch import nn

from benchmarks.evaluation import bench_evaluation
from benchmarks.process import alternate, measured
from data_modules.batches.ct_data_module import CTDataModule
from data_modules.config import AugmentationConfig, DataConfig, GridConfig, SamplingConfig
from data_modules.files import write_json_atomic
from data_modules.phantom.cohort import make_phantom_cohort
from data_modules.prepare.preparation import prepare_cohort
from data_modules.scan.geometry import Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.config.reading import load_experiment
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.vit import ViTEncoder, patchify
from iac_lightning.runs.directory import open_run
from iac_lightning.workflows.calibrate import calibration_file
from iac_lightning.workflows.trained import file_digest

PATCH = (96, 96, 48)
NNUNET_PATCHES_PER_S = {"bare": 241.0, "augmented": 18.5}
"""nnU-Net v2's loader for 96 × 96 × 48 patches on one core, bare and with its default augmentation; measured once,
elsewhere: a landmark, not a peer of this run."""
MAE_SIZES = {"dim": 384, "depth": 6, "heads": 6, "decoder_dim": 192, "decoder_depth": 2, "decoder_heads": 6}
MAE_CROP, MAE_PATCH = (128, 128, 64), (8, 8, 8)


def bench(
    out: Path, scan: Path | None, template: Path | None, run: Path | None, models: int = 2, series: int = 40
) -> dict[str, Any]:
    """Measure all of it, write it as JSON and print a table.

    Args:
        out: JSON file.
        scan: a real head CT to prepare and predict; without it that part is left out.
        template: template to register that scan to.
        run: segmentation run that predicts it; by default a network of the demo's sizes with random weights, which
            takes the same time.
        models: sets of predictions to evaluate.
        series: scans of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = {
            "machine": {"cpu_count": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
            "patches": bench_patches(Path(folder)),
            "mae_step": bench_mae_step(),
            "evaluation": bench_evaluation(Path(folder) / "evaluation", models, series),
        }
        if scan:
            results["scan"] = bench_scan(Path(folder), scan, template, run)
    write_json_atomic(out, results)
    print(table(results))
    return results


def bench_patches(folder: Path, seconds: float = 4.0, rounds: int = 3) -> dict[str, Any]:
    """Patches a second of the data module against `tio.Queue` on the same volumes, one process, one thread each."""
    cohort = make_phantom_cohort(
        folder / "cohort", 8, seed=0, max_series=1, fractions={"pretrain": 0, "finetune": 1, "dev": 0, "test": 0}
    )
    config = DataConfig(
        cohort=str(cohort),
        grid=GridConfig(spacing_mm=(0.5, 0.5, 0.5)),
        sampling=SamplingConfig(crop=PATCH, samples_per_epoch=100_000),
        batch_size=4,
    )
    store = prepare_cohort(config)
    subjects = [export(series, folder) for series in store.split("finetune")]
    results: dict[str, Any] = {"patch": PATCH, "volumes": len(subjects), "volume_shape": store.series[0].grid.shape}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, augment in (("bare", False), ("augmented", True)):
            config.augmentation = AugmentationConfig(enabled=augment)
            ours, peer = our_patches(config), queue_patches(subjects, augment)
            for stream in (ours, peer):  # files opened, caches filled
                rate(stream, 1.0)
            a, b, ratio = alternate(lambda: rate(ours, seconds), lambda: rate(peer, seconds), rounds)  # noqa: B023
            results[name] = {
                "patches_per_s": statistics.median(a),
                "tio_queue_patches_per_s": statistics.median(b),
                "ratio": ratio,
                "ratio_to_nnunet_elsewhere": statistics.median(a) / NNUNET_PATCHES_PER_S[name],
            }
    finally:
        torch.set_num_threads(threads)
    return results


def rate(batch_sizes: Iterator[int], seconds: float) -> float:
    """Samples a second of a stream of batches."""
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        count += next(batch_sizes)
    return count / elapsed


def our_patches(config: DataConfig) -> Iterator[int]:
    """Batch sizes from the training loader of the data module."""
    data = CTDataModule(config, "segment", seed=0, needs_dev=False)
    data.setup("fit")
    for batch in data.train_dataloader():
        yield len(batch["image"])


def queue_patches(subjects: list[tio.Subject], augment: bool) -> Iterator[int]:
    """Batch sizes from a TorchIO queue over the same volumes with transforms of the same kind and probability.

    Its transforms see whole volumes, as a queue's do; each opened volume gives sixteen patches.
    """
    settings = AugmentationConfig()
    transform = tio.Compose(
        [
            tio.RandomFlip(axes=0, flip_probability=settings.flip_probability),
            tio.RandomAffine(
                scales=settings.scale,
                degrees=settings.rotation_deg,
                default_pad_value=-1024,
                p=settings.affine_probability,
            ),
            tio.RandomAnisotropy(axes=2, downsampling=(4, 12), p=settings.thickness_probability),
            tio.RandomBlur(std=(0, settings.blur_mm), p=settings.blur_probability),
            tio.RandomNoise(std=(0, settings.noise_hu), p=settings.noise_probability),
        ]
    )
    dataset = tio.SubjectsDataset(subjects, transform=transform if augment else None)
    sampler = tio.UniformSampler(PATCH)
    while True:
        queue = tio.Queue(dataset, max_length=64, samples_per_volume=16, sampler=sampler, num_workers=0)
        for batch in tio.SubjectsLoader(queue, batch_size=4, num_workers=0):
            yield len(batch["image"][tio.DATA])


def export(series: Any, folder: Path) -> tio.Subject:
    """One prepared volume and its label as `.nii.gz`, for the peer."""
    image, label = folder / f"{series.series.series_id}.nii.gz", folder / f"{series.series.series_id}_label.nii.gz"
    write_nifti(Volume(np.asarray(series.hu()), series.grid), image)
    write_nifti(Volume(np.asarray(series.occupancy()), series.grid), label)
    return tio.Subject(image=tio.ScalarImage(image), label=tio.LabelMap(label))


def bench_mae_step(rounds: int = 5, batch: int = 1) -> dict[str, Any]:
    """One training step (forward, backward, AdamW) of our MAE against MONAI's, same sizes, same loss, same tokens."""
    torch.manual_seed(0)
    image = torch.randn(batch, 1, *MAE_CROP)
    sizes = MAE_SIZES
    encoder = ViTEncoder(
        crop=MAE_CROP, patch_size=MAE_PATCH, dim=sizes["dim"], depth=sizes["depth"], heads=sizes["heads"]
    )
    ours = MaskedAutoencoder(
        encoder,
        mask_ratio=0.75,
        decoder_dim=sizes["decoder_dim"],
        decoder_depth=sizes["decoder_depth"],
        decoder_heads=sizes["decoder_heads"],
    )
    peer = MaskedAutoEncoderViT(
        in_channels=1,
        img_size=MAE_CROP,
        patch_size=MAE_PATCH,
        hidden_size=sizes["dim"],
        mlp_dim=4 * sizes["dim"],
        num_layers=sizes["depth"],
        num_heads=sizes["heads"],
        masking_ratio=0.75,
        decoder_hidden_size=sizes["decoder_dim"],
        decoder_mlp_dim=4 * sizes["decoder_dim"],
        decoder_num_layers=sizes["decoder_depth"],
        decoder_num_heads=sizes["decoder_heads"],
    )

    def peer_loss() -> torch.Tensor:
        prediction, mask = peer(image)
        error = (prediction - patchify(image, MAE_PATCH)).square().mean(-1)
        return (error * mask).sum() / mask.sum()

    steps = [training_step(ours, lambda: ours(image).loss), training_step(peer, peer_loss)]
    for step in steps:
        step()
    a, b, ratio = alternate(steps[1], steps[0], rounds)
    return {
        "tokens": encoder.n_tokens,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "seconds": statistics.median(b),
        "monai_seconds": statistics.median(a),
        "ratio": ratio,
    }


def training_step(network: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """A function that does one step and returns its seconds."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def bench_scan(folder: Path, scan: Path, template: Path | None, run: Path | None) -> dict[str, Any]:
    """Seconds and peak memory of whole processes: preparing a one-scan cohort, and predicting the scan."""
    if run is None:
        run = throwaway_run(folder)
    predict = ["predict", str(scan), str(folder / "prediction"), "--run", str(run)]
    if template:
        predict += ["--template", str(template)]
    cohort = folder / "scan.csv"
    cohort.write_text(
        "patient_id,series_id,image,label,split,slice_thickness_mm,kernel,manufacturer\n"
        f"A,A_1,{scan.absolute()},,pretrain,5,,\n"
    )
    prepare = ["prepare", "experiments/demo/mae.yaml", f"data.cohort={cohort}", "data.prepare_workers=1"]
    if template:
        prepare.append(f"data.grid.template={template}")
    return {"prepare": measured(prepare), "predict": measured(predict)}


def throwaway_run(folder: Path) -> Path:
    """A run directory with the demo's network and random weights: timing does not need a trained one."""
    from iac_lightning.modules.segmentation_module import SegmentationModule

    config = load_experiment(
        Path("experiments/demo/vit_scratch.yaml"), ["name=bench", f"runs_dir={folder}", "tracking.enabled=false"]
    )
    with open_run(config) as run:
        module = SegmentationModule(config)
        path = run.checkpoints_dir / "best.ckpt"
        checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, path)
        calibration = {"checkpoint_sha256": file_digest(path), "temperature": 1.0, "bias": 0.0}
        calibration |= {"n_series": 0, "n_patients": 0, "threshold": 0.5, "prior_threshold": 0.5}
        calibration |= {name: {"used": False} for name in ("thickness", "prior_thickness")}
        write_json_atomic(calibration_file(run), calibration)
        return run.directory


def table(results: dict[str, Any]) -> str:
    """The figures as text."""
    rows = [("what", "ours", "peer", "ratio")]
    for name in ("bare", "augmented"):
        r = results["patches"][name]
        rows.append(
            (
                f"patches/s, {name}",
                f"{r['patches_per_s']:.0f}",
                f"tio.Queue {r['tio_queue_patches_per_s']:.1f}",
                f"{r['ratio']:.1f} × faster",
            )
        )
    m = results["mae_step"]
    rows.append(
        (
            f"MAE step, {m['tokens']} tokens",
            f"{m['seconds']:.2f} s",
            f"MONAI {m['monai_seconds']:.2f} s",
            f"{m['ratio']:.1f} × faster",
        )
    )
    e = results["evaluation"]
    rows.append(
        (
            "metrics of a series of 64³ voxels",
            f"{e['metrics']['milliseconds']:.0f} ms",
            f"MONAI {e['metrics']['monai_milliseconds']:.0f} ms",
            f"{e['metrics']['ratio']:.1f} × faster",
        )
    )
    for name in ("evaluate", "report"):
        r = e[name]
        cells = (f"{r['seconds']:.1f} s", f"{r['cpu_seconds']:.1f} s of CPU, {r['peak_memory_gib']:.2f} GiB peak", "")
        rows.append((f"{name} {e['models']} models × {e['series']} series", *cells))
    for name in ("prepare", "predict"):
        if "scan" in results:
            r = results["scan"][name]
            rows.append((f"{name} one scan", f"{r['seconds']:.1f} s", f"{r['peak_memory_gib']:.2f} GiB peak", ""))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
