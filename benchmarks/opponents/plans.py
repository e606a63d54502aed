"""nnU-Net's plans for PrimusV3, whose tokens of 8 × 8 × 8 voxels must fill the patch.

`python -m benchmarks.opponents.plans FOLDER` writes `PrimusPlans.json` beside nnU-Net's own plans in the data set's
folder of `nnUNet_preprocessed`: the same configuration on the same preprocessed data, but for the patch size.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_modules.errors import UserError
from data_modules.files import write_json_atomic

TOKEN = 8
"""Edge of a token of PrimusV3 in voxels."""
CONFIGURATION = "3d_fullres"
SOURCE, TARGET = "nnUNetPlans", "PrimusPlans"


def primus_plans(plans: dict[str, Any]) -> dict[str, Any]:
    """The same plans under another name, each edge of the patch the nearest multiple of a token's (the larger of two).

    Args:
        plans: as nnU-Net's default planner writes them.
    """
    result = copy.deepcopy(plans)
    result["plans_name"] = TARGET
    configuration = result["configurations"][CONFIGURATION]
    configuration["patch_size"] = [max(TOKEN, (n + TOKEN // 2) // TOKEN * TOKEN) for n in configuration["patch_size"]]
    return result


def main(argv: Sequence[str]) -> None:
    """Write the plans and tell the patch and the size of a token.

    Raises:
        UserError: when nnU-Net has not planned yet.
    """
    (folder,) = map(Path, argv)
    source = folder / f"{SOURCE}.json"
    if not source.is_file():
        raise UserError(f"{source}: not there; plan first: nnUNetv2_plan_and_preprocess -d … -c {CONFIGURATION}")
    plans = primus_plans(json.loads(source.read_text(encoding="utf-8")))
    write_json_atomic(folder / f"{TARGET}.json", plans)
    configuration = plans["configurations"][CONFIGURATION]
    token_mm = " × ".join(f"{TOKEN * mm:.3g}" for mm in configuration["spacing"])
    print(f"{folder / TARGET}.json: patch {configuration['patch_size']} (z, y, x), tokens of {token_mm} mm")


if __name__ == "__main__":
    main(sys.argv[1:])
