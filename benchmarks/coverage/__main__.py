"""`python -m benchmarks.coverage`, from the project's root: the tables of docs/explanation/intervals.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from benchmarks.coverage.errors import NAMES, conformal_coverage, false_findings
from benchmarks.coverage.intervals import SIMULATED, coverage
from data_modules.errors import UserError
from data_modules.files import write_json_atomic, write_text_atomic
from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS
from iac_lightning.evaluation.statistics.plain import plain

PATIENTS = (3, 5, 8, 10, 20, 40, 100)
DEVELOPMENT = (20, 40, 100)
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, write JSON and, where asked, the tables of a page; a `UserError` gives status 2."""
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.samples < 1:
            raise UserError(f"--samples {arguments.samples}: expected 1 or more")
        if arguments.page and not all(mark in arguments.page.read_text(encoding="utf-8") for mark in (BEGIN, END)):
            raise UserError(f"{arguments.page}: expected the lines {BEGIN} and {END}, between which the tables go")
        results = simulate(arguments.samples, arguments.seed, arguments.only)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json_atomic(arguments.out, plain(results))
    text = tables(results)
    print(text)
    if arguments.page:
        before, _, rest = arguments.page.read_text(encoding="utf-8").partition(BEGIN)
        write_text_atomic(arguments.page, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description="What intervals cover and how often tests err, simulated."
    )
    parser.add_argument("--samples", type=int, default=3_000, help="simulated samples of each kind (default 3000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulations (default 0)")
    parser.add_argument(
        "--only", default="", help="kinds of intervals whose name holds this; nothing else is simulated"
    )
    parser.add_argument("--out", type=Path, default=Path("coverage.json"), help="where the figures go")
    parser.add_argument("--page", type=Path, help="page whose tables are replaced: docs/explanation/intervals.md")
    return parser


def simulate(samples: int, seed: int, only: str = "") -> dict[str, Any]:
    """All figures, as plain types."""
    kinds = [what for what in SIMULATED if only in what.name]
    rows = {}
    for what in tqdm(kinds, desc="coverage", unit="kind", disable=None):
        rows[what.name] = coverage(what, PATIENTS, samples, seed)
    results: dict[str, Any] = {"samples": samples, "seed": seed, "coverage": rows}
    if only:
        return results
    tested = [n for n in PATIENTS if n >= MIN_PATIENTS]
    fewer = max(1, samples // 3)
    results["false_findings"] = {
        n: false_findings(n, fewer, seed) for n in tqdm(tested, desc="tests", unit="size", disable=None)
    }
    results["conformal"] = {
        n: conformal_coverage(n, max(1, samples // 8), seed).to_dict("records")
        for n in tqdm(DEVELOPMENT, desc="conformal", unit="size", disable=None)
    }
    return results


def tables(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    heads = [f"({n})" if n < MIN_PATIENTS else str(n) for n in PATIENTS]
    rows = [
        [name, *(_share(by_n[n][0]) + ("" if by_n[n][1] > 0.9 else "\u00a0°") for n in PATIENTS)]
        for name, by_n in results["coverage"].items()
    ]
    parts = [_table("coverage of 95 % intervals, %; patients:", heads, rows)]
    if "false_findings" in results:
        sizes = list(results["false_findings"])
        rows = [[name, *(_share(results["false_findings"][n][name]) for n in sizes)] for name in NAMES]
        parts.append(_table("found where there is nothing, %; patients:", [str(n) for n in sizes], rows))
        strata = pd.DataFrame([row | {"n": n} for n, found in results["conformal"].items() for row in found])
        rows = [
            [
                f"{row['stratum']}, {row['n']}",
                f"{row['patients']:.0f}",
                *(_share(row[column]) for column in ("promised", "coverage", "merged")),
            ]
            for row in strata.to_dict("records")
        ]
        heads = ["of them in the stratum", "promised in it", "covered", "by the merged radius alone"]
        parts.append(_table("conformal intervals, 90 %; stratum, development patients", heads, rows))
    return "\n\n".join(parts)


def _share(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"


def _table(corner: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[corner, *heads], ["---", *("--:" for _ in heads)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
