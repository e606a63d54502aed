"""`python -m benchmarks.opponents nnunet resenc_l primus_v3_s --cohort … --out … --env …`, from the project's root."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.opponents.steps import (
    DEFAULT_EPOCHS,
    DEFAULT_ITERATIONS,
    OPPONENTS,
    Settings,
    Step,
    all_steps,
    environment,
)
from data_modules.errors import UserError
from data_modules.files import sha256, write_json_atomic

RECORD = "steps.json"
"""In `--out`: the cohort table's hash, and which commands have run and how long each took."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what has not run yet; a `UserError` is printed without traceback and gives status 2."""
    options = build_parser().parse_args(argv)
    settings = Settings(
        cohort=options.cohort,
        out=options.out,
        results=options.results,
        environment=options.env,
        epochs=options.epochs,
        iterations=options.iterations,
        device=options.device,
        processes=options.processes,
        trial=options.trial,
    )
    names = options.opponents or list(OPPONENTS)
    try:
        steps = list(all_steps(names, settings))
        if options.dry_run:
            show(steps, environment(settings))
        else:
            run(steps, settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Opponents and what holds for all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.opponents",
        description="Train nnU-Net v2 and PrimusV3 on a cohort's own splits and measure them as the project's runs.",
    )
    parser.add_argument("opponents", nargs="*", metavar="OPPONENT", choices=[[], *OPPONENTS], help="default: all three")
    parser.add_argument("--cohort", type=Path, required=True, help="cohort table, with labels and splits")
    parser.add_argument("--out", type=Path, required=True, help="folder for what nnU-Net writes")
    parser.add_argument("--results", type=Path, default=Path("runs/opponents"), help="folder of the evaluations")
    parser.add_argument("--env", type=Path, required=True, help="virtual environment made by environment.sh")
    parser.add_argument("--epochs", type=int, default=DEFAULT_EPOCHS, help=f"default {DEFAULT_EPOCHS}, nnU-Net's own")
    parser.add_argument("--iterations", type=int, default=DEFAULT_ITERATIONS, help="of an epoch (default 250)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try the path")
    parser.add_argument("--processes", type=int, default=4, help="helpers of nnU-Net (default 4)")
    parser.add_argument("--trial", action="store_true", help="coarse voxels, small patches: tries the path on a CPU")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    return parser


def show(steps: Sequence[Step], variables: Mapping[str, str]) -> None:
    """The whole as a shell script."""
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
    for step in steps:
        print(f"\n# {step.name}\n{shlex.join(step.command)}")


def run(steps: Sequence[Step], settings: Settings) -> None:
    """Run each step that has not run with these words; what was stopped goes on by the same command.

    Raises:
        UserError: when the environment is not there, the folder holds another cohort's opponents, or a step fails.
    """
    python = settings.environment / "bin/python"
    if not python.exists():
        raise UserError(
            f"{python}: not there; make it: bash benchmarks/opponents/environment.sh {settings.environment}"
        )
    if not settings.cohort.is_file():
        raise UserError(f"{settings.cohort}: there is no such cohort table")
    path = settings.out / RECORD
    cohort = sha256(settings.cohort)
    begun = path.exists()
    record: dict[str, Any] = json.loads(path.read_text("utf-8")) if begun else {"cohort_sha256": cohort, "steps": {}}
    if record["cohort_sha256"] != cohort:
        raise UserError(
            f"{settings.out}: holds opponents that were trained on another version of {settings.cohort}, and nnU-Net "
            "would mix them: give another --out"
        )
    settings.out.mkdir(parents=True, exist_ok=True)
    foreign = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment(settings)
    for step in steps:
        if not step.renewed and record["steps"].get(step.name, {}).get("command") == list(step.command):
            print(f"{step.name}: has run already")
            continue
        command = resumed(step, settings)
        print(f"{step.name}: {shlex.join(command)}", flush=True)
        start = time.monotonic()
        status = subprocess.run(command, env=foreign if step.foreign else None, check=False).returncode
        if status:
            raise UserError(f"{step.name} ended with status {status}; the same command goes on from there")
        record["steps"][step.name] = {"command": list(step.command), "seconds": round(time.monotonic() - start, 1)}
        write_json_atomic(path, record)


def resumed(step: Step, settings: Settings) -> list[str]:
    """The command, told to go on where a training of it has left checkpoints."""
    command = list(step.command)
    if "nnUNetv2_train" in command:
        plans, trainer = (command[command.index(option) + 1] for option in ("-p", "-tr"))
        found = (settings.out / "results" / settings.length).glob(f"*/{trainer}__{plans}__*/fold_0/checkpoint_*.pth")
        if any(found):
            command.append("--c")
    return command


if __name__ == "__main__":
    sys.exit(main())
