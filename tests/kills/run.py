"""Kill commands at random moments, run them again until they end, and compare with a run that was left alone.

Seeded: a number and a seed decide the command, the moments and whether its whole process group is killed. Prints a
table and a line for each kill that left a trace; ends with 1 where there is one. See README.md beside this file.

    python -m tests.kills.run                                  50 kills
    python -m tests.kills.run --kills 10 --only predict        ten kills of one command
    python -m tests.kills.run --seed 3 --first 17 --kills 1    the 17th kill of a seed
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (imported here once, not in every child)
import numpy as np

from iac_lightning.cli import main as iac
from iac_lightning.workflows import evaluate, predict, train  # noqa: F401 (the same)
from tests.kills import comparison
from tests.kills.commands import Command, all_commands, make_cohort
from tests.kills.processes import adopt_orphans, ended, orphans

ORDER = ("finetune", "prepare", "evaluate", "predict", "finetune", "prepare", "evaluate", "predict", "sweep")
"""Commands in turn; a sweep starts processes of its own and takes the longest."""

_LONGEST_S = 300.0


@dataclass(frozen=True)
class Kill:
    """A command that was killed, and what is wrong after it ended.

    Attributes:
        number: of the kill.
        command: what was killed.
        moments: shares of the duration of an undisturbed run at which it was killed.
        whole_group: whether all processes of the group were killed, or the first alone.
        hit: how many kills met a process that was still running.
        faults: what is wrong; empty where all is as it should be.
    """

    number: int
    command: str
    moments: tuple[float, ...]
    whole_group: bool
    hit: int
    faults: tuple[str, ...]


def start(words: Sequence[str], log: Path) -> int:
    """A command in a process and group of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        status = iac(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def begin(command: Command, folder: Path) -> None:
    """The folder as it is before the first start."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command.begin(folder)


def undisturbed(command: Command, folder: Path, log: Path) -> tuple[dict[str, str], float]:
    """What the command leaves, and how long it takes.

    Raises:
        SystemExit: when it fails without being killed.
    """
    begin(command, folder)
    since = time.monotonic()
    status = ended(start(command.words(folder), log), _LONGEST_S)
    if status != 0:
        raise SystemExit(f"{command.name} fails without a kill (status {status}): {log.read_text()[-1500:]}")
    return comparison.results(folder, command.trains), time.monotonic() - since


def killed(
    number: int, command: Command, seed: int, folder: Path, log: Path, expected: dict[str, str], seconds: float
) -> Kill:
    """Kill it once or twice, let it end, and judge."""
    rng = np.random.default_rng([seed, number])
    moments = tuple(float(m) for m in rng.uniform(0.02, 0.98, rng.choice([1, 1, 2])))
    whole_group, pause = bool(rng.random() < 0.4), float(rng.choice([0.0, 0.0, 2.0]))
    begin(command, folder)
    log.write_text("")
    hit, status = 0, None
    for moment in moments:
        for sooner in (1.0, 0.7, 0.5, 0.3, 0.1):  # where it ends before it is killed
            pid = start(command.words(folder), log)
            status = ended(pid, moment * sooner * seconds)
            if status is None:
                hit += 1
                with suppress(ProcessLookupError):
                    (os.killpg if whole_group else os.kill)(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            if hit:
                break
            begin(command, folder)
        if status is not None:
            break
        time.sleep(pause)
    if status is None:  # else it has ended by itself: to start it once more would be another evaluation
        pid = start(command.words(folder), log)
        status = ended(pid, _LONGEST_S)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return Kill(number, command.name, moments, whole_group, hit, tuple(faults(command, folder, log, status, expected)))


def faults(command: Command, folder: Path, log: Path, status: int | None, expected: dict[str, str]) -> list[str]:
    """What is wrong after the end."""
    left = orphans()
    if status != 0:
        last = (log.read_text().strip().splitlines() or [""])[-1]
        return [f"the next start {'hung' if status is None else f'ended with status {status}'}: {last[:300]}"]
    found = comparison.differences(expected, comparison.results(folder, command.trains))
    if (runs := comparison.mlflow_runs(folder)) != command.mlflow_runs:
        found.append(f"{runs} MLflow runs instead of {command.mlflow_runs}")
    if command.looks and (n := comparison.looks(folder)) != 1:
        found.append(f"{n} looks at the test split instead of one")
    found += [f"left behind: {name}" for name in comparison.leftovers(folder)]
    return found + [f"still running: {words}" for words in left]


def run(kills: int, seed: int, only: Sequence[str], first: int, folder: Path) -> list[Kill]:
    """The kills of a seed from the first on."""
    adopt_orphans()
    make_cohort(folder)
    commands, log, work = all_commands(folder), folder / "log", folder / "work"
    undisturbed(commands["prepare"], work, log)
    (folder / "trained").mkdir()
    shutil.copytree(work / "prepared", folder / "trained" / "prepared")
    undisturbed(commands["finetune"], work, log)  # where it will be copied to: a run knows its folder
    shutil.rmtree(folder / "trained")
    shutil.copytree(work, folder / "trained")
    order = [name for name in ORDER if not only or name in only]
    known: dict[str, tuple[dict[str, str], float]] = {}
    done = []
    for number in range(first, first + kills):
        command = commands[order[number % len(order)]]
        if command.name not in known:
            known[command.name] = undisturbed(command, work, log)
            again, _ = undisturbed(command, work, log)
            if differing := comparison.differences(known[command.name][0], again):
                raise SystemExit(f"{command.name} is not the same twice: {', '.join(differing[:5])}")
        done.append(killed(number, command, seed, work, log, *known[command.name]))
        print(line(done[-1], seed), flush=True)
    return done


def line(kill: Kill, seed: int) -> str:
    """One kill, with what repeats it."""
    when = " and ".join(f"{m:.0%}" for m in kill.moments)
    what = "its whole group" if kill.whole_group else "alone"
    missed = "" if kill.hit == len(kill.moments) else f" ({len(kill.moments) - kill.hit} came too late)"
    return (
        f"{kill.number} (--seed {seed}): {kill.command} at {when}, {what}{missed}: {'; '.join(kill.faults) or 'well'}"
    )


def table(kills: Sequence[Kill]) -> str:
    """Commands, kills that hit, and how many ended as if nothing had been."""
    starts = Counter(kill.command for kill in kills)
    hits = Counter({name: sum(k.hit for k in kills if k.command == name) for name in starts})
    well = Counter(kill.command for kill in kills if not kill.faults)
    rows = [(name, starts[name], hits[name], well[name]) for name in dict.fromkeys(ORDER) if name in starts]
    rows.append(("all", starts.total(), hits.total(), well.total()))
    head = f"{'command':12}{'tried':>8}{'kills':>8}{'well':>8}{'faults':>8}"
    return "\n".join([head, *(f"{n:12}{s:8}{h:8}{w:8}{s - w:8}" for n, s, h, w in rows)])


def main() -> None:
    """Kill, print, and end with 1 where a kill left a trace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many commands are killed (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="decides when (default: 0)")
    parser.add_argument("--only", nargs="+", default=[], choices=sorted(set(ORDER)), help="some of the commands")
    parser.add_argument("--first", type=int, default=0, help="number of the first kill")
    settings = parser.parse_args()
    since = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = run(settings.kills, settings.seed, settings.only, settings.first, Path(folder))
    print(f"\n{table(kills)}\n\n{(time.monotonic() - since) / 60:.0f} minutes")
    sys.exit(1 if any(kill.faults for kill in kills) else 0)


if __name__ == "__main__":
    main()
