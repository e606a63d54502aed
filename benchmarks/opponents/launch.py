"""Start one of nnU-Net's own programs, in the environment of the opponents: `launch.py nnUNetv2_train 501 …`.

Runs with the opponents' Python and imports nothing of this project. What it does beside starting the program:

- on a CPU, torch gets one thread: nnU-Net takes one for each core, and they wait for each other and its helpers;
- where torchvision has no compiled operators (a build for CUDA beside torch for CPUs), their names are declared, so
  that timm, from which PrimusV3 takes its rotary embeddings, can import it. Nothing here calls them.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import entry_points

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_operators() -> object | None:
    """The operators of torchvision, as names, where it comes without them; None where it is whole."""
    import torch

    try:
        importlib.import_module("torchvision")
        return None
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "FRAGMENT")
        for signature in OPERATORS:
            library.define(signature)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
        return library


def main(argv: list[str]) -> None:
    """Run a program by its name with its own arguments."""
    (program,) = entry_points(group="console_scripts", name=argv[0])
    sys.argv = argv
    program.load()()


# Helpers that nnU-Net starts import this file too: what stands here holds for them.
if os.environ.get("OPPONENTS_DEVICE") == "cpu":
    import torch

    torch.set_num_threads(1)
_OPERATORS = declare_operators()

if __name__ == "__main__":
    main(sys.argv[1:])
