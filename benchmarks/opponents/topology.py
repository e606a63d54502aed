"""What nnU-Net itself plans: `ENV/bin/python benchmarks/opponents/topology.py OUT.json`, in the opponents' environment.

A test compares the project's `plan_cnn` with what this has written. Two kinds of plans: nnU-Net's planners on
fingerprints of scans of one spacing and size, with their choice of the patch; and the topology alone for given patches
and spacings, which is how this project plans. Nothing is allocated: networks are made on torch's meta device.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

SCANS = {  # spacing x, y, z in mm: voxels x, y, z
    (0.8, 0.8, 1.6): (100, 80, 30),  # regions of this project, on grids that it offers
    (1.0, 1.0, 2.0): (80, 64, 24),
    (0.8, 0.8, 1.0): (100, 80, 48),
    (0.5, 0.5, 1.6): (160, 128, 30),
    (0.5, 0.5, 1.0): (160, 128, 48),
    (0.45, 0.45, 0.5): (512, 512, 300),  # heads, from thin slices to thick
    (0.45, 0.45, 0.9): (512, 512, 160),
    (0.45, 0.45, 1.25): (512, 512, 120),
    (0.45, 0.45, 3.0): (512, 512, 50),
    (0.45, 0.45, 5.0): (512, 512, 30),
    (0.45, 0.45, 7.5): (512, 512, 20),
    (1.0, 1.0, 1.0): (240, 240, 160),
    (0.4, 0.6, 1.3): (480, 320, 110),  # three spacings, and factors of just about two
    (0.4, 0.79, 1.57): (480, 240, 90),
    (0.35, 0.7, 0.7): (512, 256, 200),
}
MEMORY_SHARES = (1.0, 0.25)
"""Of what a planner plans for by itself: the patch follows from it."""
PATCHES = (
    *((48, 48, 32), (40, 40, 24), (64, 64, 32), (64, 64, 16), (96, 96, 48), (32, 32, 32), (128, 96, 48)),
    *((80, 64, 32), (24, 24, 24), (16, 32, 8), (160, 128, 20), (256, 256, 16), (112, 80, 40)),
    *((50, 50, 30), (100, 80, 30), (36, 44, 20)),  # of which nnU-Net pads some axes
)
PLANNERS = {"plain": "ExperimentPlanner", "residual": "nnUNetPlannerResEncL"}
DATASET = "Dataset501_Topology"


def main(argv: Sequence[str]) -> None:
    """Write all plans."""
    (out,) = map(Path, argv)
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = f"{folder}/{name}"
        plans = [*planned(Path(folder)), *topologies()]
    packages = ("nnunetv2", "dynamic-network-architectures")
    rows = ",\n".join(json.dumps(plan) for plan in plans)
    source = json.dumps(", ".join(f"{name} {version(name)}" for name in packages))
    out.write_text(f'{{"made_by": "benchmarks/opponents/topology.py", "with": {source}, "plans": [\n{rows}\n]}}\n')
    print(f"{out}: {len(plans)} plans")


def planned(folder: Path) -> Iterator[dict[str, Any]]:
    """What the planners make of the scans: patch, topology, and the parameters of their network with one output."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    planners = Path(nnunetv2.__path__[0]) / "experiment_planning"
    for encoder, name in PLANNERS.items():
        planner = recursive_find_python_class(str(planners), name, "nnunetv2.experiment_planning")
        for (spacing, voxels), share in itertools.product(SCANS.items(), MEMORY_SHARES):
            write_dataset(folder, spacing, voxels)
            target_gb = planner(DATASET).UNet_vram_target_GB * share
            one = planner(DATASET, gpu_memory_target_in_gb=target_gb)
            forward, backward = one.determine_transpose()
            of_axes = one.determine_fullres_target_spacing()[forward]
            size = [voxels[2 - axis] for axis in forward]
            plan = one.get_plans_for_configuration(of_axes, size, "one", 1e12, {})
            settings = plan["architecture"]["arch_kwargs"]
            x_y_z = [backward[axis] for axis in (2, 1, 0)]
            yield row(encoder, settings, x_y_z) | {
                "spacing_mm": [float(of_axes[axis]) for axis in x_y_z],
                "patch_size": [int(plan["patch_size"][axis]) for axis in x_y_z],
                "parameters": parameters(plan["architecture"]),
                "planner": f"{name}, {target_gb:g} GB, scans of {' × '.join(map(str, voxels))} voxels",
            }


def row(encoder: str, settings: dict[str, Any], x_y_z: Sequence[int]) -> dict[str, Any]:
    """Topology of a plan, with the axes in this project's order."""
    return {
        "encoder": encoder,
        "strides": [[int(s[axis]) for axis in x_y_z] for s in settings["strides"]],
        "kernels": [[int(k[axis]) for axis in x_y_z] for k in settings["kernel_sizes"]],
        "features": list(settings["features_per_stage"]),
        "n_conv_per_stage": list(settings.get("n_conv_per_stage") or settings["n_blocks_per_stage"]),
        "n_conv_per_stage_decoder": list(settings["n_conv_per_stage_decoder"]),
    }


def parameters(architecture: dict[str, Any]) -> int:
    """Trainable values of the network for one channel and one output, with deep supervision."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    words = ("network_class_name", "arch_kwargs", "_kw_requires_import")
    network = get_network_from_plans(
        *(architecture[word] for word in words), 1, 1, allow_init=False, deep_supervision=True
    )
    return sum(p.numel() for p in network.parameters())


def topologies() -> Iterator[dict[str, Any]]:
    """Strides and kernels for given patches, and the patch that nnU-Net pads it to."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    for patch, spacing in itertools.product(PATCHES, SCANS):
        _, strides, kernels, padded, _ = get_pool_and_conv_props(spacing[::-1], patch[::-1], 4, 999999)
        yield {
            "spacing_mm": list(spacing),
            "patch_size": list(patch),
            "padded": [int(n) for n in padded[::-1]],
            "strides": [list(s[::-1]) for s in strides],
            "kernels": [list(k[::-1]) for k in kernels],
        }


def write_dataset(folder: Path, spacing: Sequence[float], voxels: Sequence[int]) -> None:
    """A data set of one scan without voxels, and its fingerprint; nnU-Net's axes are z, y, x."""
    raw, preprocessed = folder / "raw" / DATASET, folder / "preprocessed" / DATASET
    for path in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        path.mkdir(parents=True, exist_ok=True)
    for name in ("imagesTr/one_0000.nii.gz", "labelsTr/one.nii.gz"):
        (raw / name).touch()
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "calcification": 1}}
    (raw / "dataset.json").write_text(json.dumps(dataset | {"numTraining": 1, "file_ending": ".nii.gz"}))
    fingerprint = {
        "spacings": [list(spacing[::-1])],
        "shapes_after_crop": [list(voxels[::-1])],
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


if __name__ == "__main__":
    main(sys.argv[1:])
