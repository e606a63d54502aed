"""Topology of the convolutional baseline, planned from spacing and patch by nnU-Net's rules. Imports no torch.

Isensee et al. 2021 (nnU-Net) and 2024 (residual encoders); the numbers are those of nnU-Net v2's planners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_EDGE = 4
"""Smallest edge of a feature map, in voxels."""
_PLAIN_CONVS = 2
_RESIDUAL_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first stages; the last number goes on for all that follow."""

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class CNNPlan:
    """Topology of a planned U-Net; sequences run from full resolution to the bottleneck.

    Attributes:
        patch_size: voxels along x, y, z.
        spacing_mm: voxel size along x, y, z.
        encoder: ``plain`` or ``residual``.
        kernels: convolution kernel of each stage.
        strides: how much each stage shrinks its input.
        features: channels of each stage.
        n_conv_per_stage: convolutions (plain) or residual blocks of each encoder stage.
        n_conv_per_stage_decoder: convolutions of each decoder stage.
    """

    patch_size: Triple
    spacing_mm: tuple[float, float, float]
    encoder: str
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    features: tuple[int, ...]
    n_conv_per_stage: tuple[int, ...]
    n_conv_per_stage_decoder: tuple[int, ...]

    def shapes(self) -> list[Triple]:
        """Voxels along x, y, z of each stage's feature maps."""
        return [_shrunk(self.patch_size, total_stride(self.strides[: i + 1])) for i in range(len(self.strides))]

    def __str__(self) -> str:
        rows = [["stage", "stride", "kernel", "voxels", "spacing (mm)", "features", "blocks", "decoder"]]
        for i, shape in enumerate(self.shapes()):
            total = total_stride(self.strides[: i + 1])
            spacing = " ".join(f"{s * t:g}" for s, t in zip(self.spacing_mm, total, strict=True))
            triples = (" ".join(map(str, t)) for t in (self.strides[i], self.kernels[i], shape))
            # The plan lists decoder stages from coarse to fine; the bottleneck has none.
            decoder = str(self.n_conv_per_stage_decoder[-1 - i]) if i < len(self.strides) - 1 else "–"
            rows.append([str(i), *triples, spacing, str(self.features[i]), str(self.n_conv_per_stage[i]), decoder])
        widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def plan_cnn(
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    base_features: int = 32,
    max_features: int = 320,
    max_stages: int | None = None,
    encoder: str = "plain",
) -> CNNPlan:
    """Plan a U-Net by nnU-Net v2's rules.

    A step halves the axes that are long enough to stay at four voxels and whose spacing is less than twice the finest
    among these; when only one axis is left, it must be at least twelve voxels long. Kernels are 1 along an axis until
    its spacing is less than twice the finest of all, 3 from then on, and 3 × 3 × 3 in the bottleneck. Features double
    from stage to stage up to `max_features`.

    Args:
        patch_size: voxels along x, y, z. (nnU-Net's axes are z, y, x; the rules are the same.)
        spacing_mm: voxel size along x, y, z.
        base_features: channels of the first stage.
        max_features: most channels of a stage.
        max_stages: upper bound on the number of stages.
        encoder: ``plain`` (two convolutions a stage) or ``residual`` (1, 3, 4, 6, 6, … blocks a stage; one
            convolution a decoder stage).

    Raises:
        ValueError: when a patch axis is no multiple of its total stride (nnU-Net pads the patch instead), or the patch
            is too small for two stages; when there is no such encoder.
    """
    if encoder not in ("plain", "residual"):
        raise ValueError(f"{encoder!r} is neither a plain nor a residual encoder")
    patch, spacing = triple(patch_size), tuple(float(s) for s in spacing_mm)
    strides, kernels = topology(patch, spacing, max_stages)
    if len(strides) < 2:
        raise ValueError(f"a patch of {patch} voxels gives no U-Net of two stages")
    if any(n % total for n, total in zip(patch, total_stride(strides), strict=True)):
        raise ValueError(f"a patch of {patch} voxels does not divide by the total stride {total_stride(strides)}")
    stages = len(strides)
    residual = encoder == "residual"
    blocks = [_RESIDUAL_BLOCKS[min(i, len(_RESIDUAL_BLOCKS) - 1)] if residual else _PLAIN_CONVS for i in range(stages)]
    return CNNPlan(
        patch_size=patch,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        encoder=encoder,
        kernels=kernels,
        strides=strides,
        features=tuple(min(max_features, base_features * 2**i) for i in range(stages)),
        n_conv_per_stage=tuple(blocks),
        n_conv_per_stage_decoder=(1 if residual else _PLAIN_CONVS,) * (stages - 1),
    )


def topology(
    patch: Triple, spacing_mm: Sequence[float], max_stages: int | None
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Strides and kernels of all stages, the bottleneck last."""
    size, spacing = list(patch), list(spacing_mm)
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = []
    kernel = [1, 1, 1]
    while max_stages is None or len(strides) < max_stages:
        long_enough = [a for a in range(3) if size[a] >= 2 * MIN_EDGE]
        finest = min((spacing[a] for a in long_enough), default=math.inf)
        halved = [a for a in long_enough if spacing[a] < 2 * finest]
        if not halved or (len(halved) == 1 and size[halved[0]] < 3 * MIN_EDGE):
            break
        kernel = [3 if k == 3 or s < 2 * min(spacing) else 1 for k, s in zip(kernel, spacing, strict=True)]
        kernels.append(triple(kernel))
        strides.append(triple([2 if a in halved else 1 for a in range(3)]))
        for axis in halved:
            size[axis] = math.ceil(size[axis] / 2)
            spacing[axis] *= 2
    kernels.append((3, 3, 3))
    return tuple(strides), tuple(kernels)


def valid_lengths(patch: Triple, spacing_mm: Sequence[float], max_stages: int | None, axis: int) -> list[int]:
    """The nearest shorter and longer length of an axis that its own plan divides (the other axes as they are)."""

    def divides(length: int) -> bool:
        trial = triple([length if a == axis else n for a, n in enumerate(patch)])
        return length % total_stride(topology(trial, spacing_mm, max_stages)[0])[axis] == 0

    shorter = next((n for n in range(patch[axis] - 1, 0, -1) if divides(n)), None)
    longer = next(n for n in range(patch[axis] + 1, 8 * patch[axis] + 1024) if divides(n))
    return [longer] if shorter is None else [shorter, longer]


def triple(values: Sequence[int]) -> Triple:
    """Whole numbers along x, y, z."""
    x, y, z = (int(v) for v in values)
    return x, y, z


def total_stride(strides: Sequence[Triple]) -> Triple:
    """How much several stages shrink an image, along x, y, z."""
    return triple([math.prod(s[a] for s in strides) for a in range(3)])


def _shrunk(patch: Triple, stride: Triple) -> Triple:
    return triple([p // s for p, s in zip(patch, stride, strict=True)])
