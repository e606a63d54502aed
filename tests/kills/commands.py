"""What is killed: each command in a folder that is the same at every start, and what must be the same at its end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_modules.phantom.cohort import make_phantom_cohort
from tests.integration.settings import experiment, overrides

SWEEP = """
name: tiny
question: Does the patch size matter?
base: {experiments}/vit_scratch.yaml
pretrain: null
seeds: [0]
split: dev
axes:
  patch:
    8: {{model.vit.patch_size: [8, 8, 8]}}
    4: {{model.vit.patch_size: [4, 4, 4]}}
"""

FRACTIONS = {"pretrain": 0.25, "finetune": 0.25, "dev": 0.25, "test": 0.25}


@dataclass(frozen=True)
class Command:
    """A command, and how its end is judged.

    Attributes:
        name: of the command.
        words: command line, for the folder where it works.
        mlflow_runs: how many it makes.
        begin: puts what it needs into an empty folder.
        looks: whether it looks at the test split.
        trains: whether it makes weights.
    """

    name: str
    words: Callable[[Path], list[str]]
    mlflow_runs: int = 0
    begin: Callable[[Path], None] = lambda folder: None
    looks: bool = False
    trains: bool = False


def settings(cohort: Path, folder: Path) -> list[str]:
    """Tiny, and with everything that is written in this folder."""
    own = ("trainer.max_epochs",)
    tiny = [o for o in overrides(cohort, folder / "runs") if not o.startswith(own)]
    return [*tiny, f"data.prepared_dir={folder / 'prepared'}", "trainer.max_epochs=4", "name=tiny"]


def all_commands(templates: Path) -> dict[str, Command]:
    """The five commands.

    Args:
        templates: folder with `data/cohort.csv`, and once it has been trained, `trained/` to evaluate and predict with.
    """
    cohort = templates / "data" / "cohort.csv"

    def prepared(folder: Path) -> None:
        shutil.copytree(templates / "trained" / "prepared", folder / "prepared")

    def trained(folder: Path) -> None:
        shutil.copytree(templates / "trained", folder, dirs_exist_ok=True)

    def scan() -> str:
        return str(min((templates / "data" / "images").glob("*.nii.gz")))

    def sweep_file(folder: Path) -> None:
        prepared(folder)
        (folder / "sweep.yaml").write_text(SWEEP.format(experiments=experiment("vit_scratch").parent))

    def sweep_words(folder: Path) -> list[str]:
        return ["sweep", str(folder / "sweep.yaml"), *(s for s in settings(cohort, folder) if s != "name=tiny")]

    commands = [
        Command("prepare", lambda folder: ["prepare", str(experiment("vit_scratch")), *settings(cohort, folder)]),
        Command(
            "finetune",
            lambda folder: ["finetune", str(experiment("vit_scratch")), *settings(cohort, folder)],
            mlflow_runs=1,
            begin=prepared,
            trains=True,
        ),
        Command(
            "evaluate",
            lambda folder: ["evaluate", str(folder / "runs" / "tiny"), "--split", "test"],
            mlflow_runs=1,
            begin=trained,
            looks=True,
        ),
        Command(
            "predict",
            lambda folder: ["predict", scan(), str(folder / "out"), "--run", str(folder / "runs" / "tiny")],
            mlflow_runs=1,
            begin=trained,
        ),
        Command("sweep", sweep_words, mlflow_runs=3, begin=sweep_file, trains=True),
    ]
    return {command.name: command for command in commands}


def make_cohort(templates: Path) -> Path:
    """Twelve phantom patients, a series each."""
    return make_phantom_cohort(templates / "data", 12, seed=1, workers=1, max_series=1, fractions=FRACTIONS)
