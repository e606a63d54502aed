"""What is run for each opponent, as command lines: nothing here runs them or needs nnU-Net."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.opponents import plans

HERE = Path(__file__).parent
DATASET_ID = 501
DATASET = f"Dataset{DATASET_ID}_IAC"
DEFAULT_EPOCHS, DEFAULT_ITERATIONS = 1000, 250
"""nnU-Net's own length of a training."""


@dataclass(frozen=True)
class Opponent:
    """A method of nnU-Net's framework.

    Attributes:
        label: how a reader knows it.
        plans: name of its plans.
        trainer: class in `trainers/`.
        planner: nnU-Net's planner that makes these plans; None: from the default ones, by `plans.primus_plans`.
        memory_gb: what that planner plans a training step for, by itself.
    """

    label: str
    plans: str
    trainer: str
    planner: str | None
    memory_gb: float


DEFAULT_PLANNER = "ExperimentPlanner"
OPPONENTS = {
    "nnunet": Opponent("nnU-Net", plans.SOURCE, "OpponentTrainer", DEFAULT_PLANNER, 8),
    "resenc_l": Opponent("nnU-Net ResEnc-L", "nnUNetResEncUNetLPlans", "OpponentTrainer", "nnUNetPlannerResEncL", 24),
    "primus_v3_s": Opponent("PrimusV3-S", plans.TARGET, "OpponentPrimusV3S", None, 8),
}
TRIAL_SPACING_MM = ("2", "1.2", "1.2")
TRIAL_MEMORY = 1 / 16
"""With `Settings.trial`: target spacing (z, y, x), and share of the memory that a planner plans for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user chooses.

    Attributes:
        cohort: cohort table.
        out: folder for everything that nnU-Net writes.
        results: folder for the evaluations (`<length>/<opponent>`), which `iac report` takes.
        environment: virtual environment of the opponents.
        epochs: of the training.
        iterations: of an epoch.
        device: "cuda" or "cpu".
        processes: of nnU-Net's helpers.
        trial: coarse voxels, small patches, windows that hardly overlap and no mirroring: it tries the path on a CPU.
    """

    cohort: Path
    out: Path
    results: Path
    environment: Path
    epochs: int = DEFAULT_EPOCHS
    iterations: int = DEFAULT_ITERATIONS
    device: str = "cuda"
    processes: int = 4
    trial: bool = False

    @property
    def length(self) -> str:
        """Folder of the trainings of this length, so that two lengths never mix."""
        return f"{self.epochs}x{self.iterations}" + ("_trial" if self.trial else "")


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: of the step; what has run is remembered by it.
        command: words of the command line.
        foreign: it runs in the opponents' environment.
        renewed: it runs each time: it sees by itself what is done already.
    """

    name: str
    command: tuple[str, ...]
    foreign: bool = True
    renewed: bool = field(default=False)


def environment(settings: Settings) -> dict[str, str]:
    """What nnU-Net and `launch.py` read from the environment."""
    out = settings.out.absolute()
    return {
        "nnUNet_raw": str(out / "raw"),
        "nnUNet_preprocessed": str(out / "preprocessed"),
        "nnUNet_results": str(out / "results" / settings.length),
        "nnUNet_extTrainer": str(HERE / "trainers"),
        "nnUNet_n_proc_DA": str(settings.processes),
        "OPPONENTS_DEVICE": settings.device,
        "OPPONENTS_EPOCHS": str(settings.epochs),
        "OPPONENTS_ITERATIONS": str(settings.iterations),
        "OPPONENTS_MIRROR": "" if settings.trial else "yes",
    }


def all_steps(names: list[str], settings: Settings) -> Iterator[Step]:
    """Everything, in order: export, plans, and for each opponent training, prediction and evaluation."""
    yield Step("export", _iac("export", "nnunet", str(settings.cohort), str(settings.out / "raw")), False, True)
    processes = str(settings.processes)
    yield Step(
        "plan",
        _nnunet(
            settings,
            *("plan_and_preprocess", "-d", str(DATASET_ID), "-c", plans.CONFIGURATION, "--verify_dataset_integrity"),
            *("-npfp", processes, "-np", processes, *_smaller(OPPONENTS["nnunet"], settings)),
        ),
    )
    for name in names:
        yield from _steps_of(name, OPPONENTS[name], settings)


def _steps_of(name: str, opponent: Opponent, settings: Settings) -> Iterator[Step]:
    """Of one opponent, once the data are preprocessed, which all three share."""
    folder = settings.out / "preprocessed" / DATASET
    if opponent.planner is None:
        yield Step(f"{name}_plan", (sys.executable, "-m", "benchmarks.opponents.plans", str(folder)), False)
    elif opponent.planner != DEFAULT_PLANNER:
        plan = ("plan_experiment", "-d", str(DATASET_ID), "-pl", opponent.planner, *_smaller(opponent, settings))
        yield Step(f"{name}_plan", _nnunet(settings, *plan))
    method = ("-p", opponent.plans, "-tr", opponent.trainer, "-device", settings.device)
    trained = trained_folder(opponent, settings)
    yield Step(
        f"{name}_train_{settings.length}",
        _nnunet(settings, "train", str(DATASET_ID), plans.CONFIGURATION, "0", *method, "--npz"),
    )
    test = settings.out / "predictions" / settings.length / name
    quick = ("-step_size", "1", "--disable_tta") if settings.trial else ()
    yield Step(
        f"{name}_predict_{settings.length}",
        _nnunet(
            settings,
            *("predict", "-d", str(DATASET_ID), "-c", plans.CONFIGURATION, "-f", "0", *method, "--save_probabilities"),
            *("-i", str(settings.out / "raw" / DATASET / "imagesTs"), "-o", str(test), "--continue_prediction"),
            *("-npp", str(settings.processes), "-nps", str(settings.processes), *quick),
        ),
    )
    dev = trained / "validation"
    for split, predictions in (("dev", dev), ("test", test)):
        yield Step(
            f"{name}_evaluate_{split}_{settings.length}",
            _iac(
                *("evaluate", "--predictions", str(predictions), "--dev-predictions", str(dev)),
                *("--cohort", str(settings.cohort), "--split", split, "--label", opponent.label),
                *("--out", str(settings.results / settings.length / name)),
            ),
            False,
        )


def _smaller(opponent: Opponent, settings: Settings) -> tuple[str, ...]:
    """What makes a planner's plan small, for a trial."""
    if not settings.trial:
        return ()
    return (
        *("-gpu_memory_target", f"{opponent.memory_gb * TRIAL_MEMORY:g}"),
        *("-overwrite_target_spacing", *TRIAL_SPACING_MM),
    )


def trained_folder(opponent: Opponent, settings: Settings) -> Path:
    """Where nnU-Net keeps the one fold of a training: checkpoints, log, and `validation/` with the dev predictions."""
    name = f"{opponent.trainer}__{opponent.plans}__{plans.CONFIGURATION}"
    return settings.out / "results" / settings.length / DATASET / name / "fold_0"


def _nnunet(settings: Settings, program: str, *words: str) -> tuple[str, ...]:
    """One of nnU-Net's programs in the opponents' environment."""
    return (str(settings.environment / "bin/python"), str(HERE / "launch.py"), f"nnUNetv2_{program}", *words)


def _iac(*words: str) -> tuple[str, ...]:
    """One of this project's commands, in its own environment."""
    return (sys.executable, "-m", "iac_lightning.cli", *words)
