"""Commands that hand something on: a trained model, or a cohort for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

from iac_lightning.commands.command import Family, command, option


@command(
    "bundle",
    "the default: weights, settings, calibration and model card of a run",
    option("run", type=Path, help="run directory, such as runs/vit_mae"),
    option("out", type=Path, help="folder of the bundle, for `iac predict --bundle`"),
)
def bundle(arguments: argparse.Namespace) -> None:
    """`iac export RUN OUT`."""
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.bundle import export_bundle
    from iac_lightning.workflows.mlflow_model import log_bundle

    run = load_run(arguments.run)
    out = export_bundle(run, arguments.out)
    log_bundle(run)
    print(f"{out}: see {out / 'MODEL_CARD.md'}; iac predict SCAN OUT --bundle {out}")


@command(
    "nnunet",
    "raw data set of nnU-Net v2, with this project's splits by patient",
    option("cohort", type=Path, help="cohort table"),
    option("out", type=Path, help="folder of the data set, such as nnU-Net's nnUNet_raw"),
    option("--dataset-id", type=int, default=501, help="nnU-Net's number of the data set"),
    option("--name", default="IAC", help="of the data set"),
    option("--copy", action="store_true", help="copy images instead of linking them"),
)
def nnunet(arguments: argparse.Namespace) -> None:
    """`iac export nnunet`."""
    from iac_lightning.workflows.external.nnunet import export_nnunet

    data = export_nnunet(arguments.cohort, arguments.out, arguments.dataset_id, arguments.name, arguments.copy)
    print(f"{data.directory}: {data.n_train} series to train on, {data.n_val} to validate, {data.n_test} to predict")
    print("splits_final.json goes into the data set's folder of nnUNet_preprocessed;")
    print("the recipe: docs/how-to/calibrate-another-model.md")


@command(
    "nnssl",
    "the encoder of a ViT as a checkpoint of nnssl (Primus)",
    option("run", type=Path, help="run directory, such as runs/mae"),
    option("out", type=Path, help="folder of checkpoint_final.pth and adaptation_plan.json"),
)
def nnssl(arguments: argparse.Namespace) -> None:
    """`iac export nnssl`."""
    from iac_lightning.runs.directory import load_run
    from iac_lightning.workflows.external.nnssl import export_nnssl

    written = export_nnssl(load_run(arguments.run), arguments.out)
    print(f"{written.directory}: {written.tensors} tensors of {written.architecture}, axes z, y, x")
    print("its input is HU, cut and scaled as the entry iac_lightning of the checkpoint says")


export = Family(
    "export",
    "a trained model as a folder that stands alone, its encoder for nnssl, or a cohort for nnU-Net",
    usage="iac export RUN OUT, iac export nnssl RUN OUT, or iac export nnunet COHORT OUT …",
    metavar="FORMAT",
    members=(bundle, nnunet, nnssl),
    default=bundle,
)
