"""Give the product damaged inputs, and see whether it names them, reads them rightly, or warns.

Seeded and bounded: the same seed makes the same inputs. Prints a table of kinds of input and verdicts and a line for
each bad one; ends with 1 where there is one. See README.md beside this file.

    python -m tests.fuzz.run                           every kind
    python -m tests.fuzz.run --seed 3 --only dicom     one kind
    python -m tests.fuzz.run --seed 3 --only dicom:17 --keep /tmp/input     one input, which stays there
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from tests.fuzz import (
    command_inputs,
    companion_inputs,
    dicom_inputs,
    model_inputs,
    nifti_inputs,
    prepared_inputs,
    settings_inputs,
    table_inputs,
    templates,
)
from tests.fuzz.judging import BAD, Verdict
from tests.fuzz.pool import LIMIT_S, Case, Makers, Outcome, judged, run_case

MAKERS: Makers = {
    "nifti": nifti_inputs.MAKERS,
    "mask": companion_inputs.MASKS,
    "sidecar": companion_inputs.SIDECARS,
    "dicom": dicom_inputs.MAKERS,
    "cohort": table_inputs.COHORTS,
    "split": table_inputs.SPLIT,
    "experiment": settings_inputs.EXPERIMENTS,
    "sweep": settings_inputs.SWEEPS,
    "checkpoint": model_inputs.CHECKPOINTS,
    "bundle": model_inputs.BUNDLES,
    "prepared": prepared_inputs.PREPARED,
    "label": prepared_inputs.LABELS,
    "command": command_inputs.MAKERS,
}

COUNTS = {
    "nifti": 120,
    "mask": 45,
    "sidecar": 40,
    "dicom": 114,
    "cohort": 63,
    "split": 20,
    "experiment": 64,
    "sweep": 24,
    "checkpoint": 40,
    "bundle": 60,
    "prepared": 36,
    "label": 12,
    "command": 20,
}
"""Inputs of each kind: every damage, and most of them more than once, with other places and values."""


def cases(seed: int, only: Sequence[str] = (), share: float = 1.0) -> list[Case]:
    """The inputs of a run; `only` names kinds, or inputs as `kind:number`."""
    if not only:
        return [Case(kind, k, seed) for kind, count in COUNTS.items() for k in range(max(1, round(count * share)))]
    found = []
    for word in only:
        kind, _, number = word.partition(":")
        if kind not in MAKERS or (number and not number.isdecimal()):
            raise SystemExit(f"--only {word}: expected kind or kind:number, of {', '.join(MAKERS)}")
        found += [Case(kind, k, seed) for k in ([int(number)] if number else range(COUNTS[kind]))]
    return found


def table(outcomes: Iterable[Outcome]) -> str:
    """Kinds of input and what came of them."""
    counts: defaultdict[str, Counter[Verdict]] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.case.kind][outcome.verdict] += 1
    rows = [*((kind, counts[kind]) for kind in MAKERS if kind in counts), ("all", sum(counts.values(), Counter()))]
    lines = [f"{'input':12}" + "".join(f"{verdict:>17}" for verdict in Verdict) + f"{'inputs':>9}"]
    lines += [
        f"{kind:12}" + "".join(f"{row[verdict]:17}" for verdict in Verdict) + f"{row.total():9}" for kind, row in rows
    ]
    return "\n".join(lines)


def line(outcome: Outcome) -> str:
    """One input, with what runs it again."""
    case = outcome.case
    again = f"--seed {case.seed} --only {case.kind}:{case.number}"
    return f"{outcome.verdict}: {outcome.what} ({again}): {outcome.detail}"


def main() -> None:
    """Judge, print, and end with 1 where something is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="decides what is damaged and how (default: 0)")
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND[:NUMBER]", help="some of the inputs")
    parser.add_argument("--share", type=float, default=1.0, help="share of the inputs of each kind")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds after which an input hangs")
    parser.add_argument("--keep", type=Path, help="folder for the input, where it is one")
    parser.add_argument("--all", action="store_true", help="a line for every input")
    settings = parser.parse_args()
    chosen = cases(settings.seed, settings.only, settings.share)
    start = time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        templates.make(Path(folder))
        if settings.keep is not None:
            if len(chosen) != 1:
                raise SystemExit("--keep takes one input: --only kind:number")
            settings.keep.mkdir(parents=True)
            outcomes = [run_case(chosen[0], MAKERS, settings.keep)]
        else:
            outcomes = sorted(
                judged(chosen, MAKERS, settings.workers, settings.limit),
                key=lambda o: (list(MAKERS).index(o.case.kind), o.case.number),
            )
    bad = [outcome for outcome in outcomes if outcome.verdict in BAD]
    for outcome in outcomes if settings.all else bad:
        print(line(outcome))
    print(f"\n{table(outcomes)}\n\n{len(outcomes)} inputs in {time.monotonic() - start:.0f} s, {len(bad)} bad")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
