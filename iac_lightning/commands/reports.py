"""Commands that show what was evaluated and tracked."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_modules.errors import UserError
from iac_lightning.commands.command import command, option, paths_apart, split, takes_settings


@command(
    "report",
    "evaluated runs in one HTML page",
    option("runs", nargs="+", help="runs, or folders that `iac evaluate --predictions` wrote; or sweeps"),
    option("--out", type=Path, required=True, help="folder of the page, its tables and figures"),
    split(None, help="default: test; a sweep has its own"),
    takes_settings,
)
def report(arguments: argparse.Namespace) -> None:
    """`iac report`."""
    paths, overrides = paths_apart(arguments)
    from iac_lightning.workflows.reports.evaluated import load_entry
    from iac_lightning.workflows.reports.models import report
    from iac_lightning.workflows.reports.sweep import all_sweeps, sweep_report

    if all_sweeps(paths):
        if arguments.split or overrides:
            raise UserError(
                "a sweep compares its cells on the split and with the settings that its file names; leave "
                f"{'--split' if arguments.split else overrides[0]} out"
            )
        print(sweep_report(paths, arguments.out))
        return
    chosen = arguments.split or "test"
    print(report([load_entry(path, overrides, chosen) for path in paths], arguments.out, chosen))


@command(
    "compare",
    "two evaluated runs on the same scans, in the terminal",
    option("runs", nargs="+", metavar="run", help="two of them, the baseline last; evaluation.key=value"),
    option("--metric", nargs="+", default=["dice"], help="columns, corrected together (default: dice)"),
    split(help="whose scans are compared"),
    option("--json", action="store_true", help="print JSON"),
    takes_settings,
    prints=True,
)
def compare(arguments: argparse.Namespace) -> None:
    """`iac compare`."""
    import json

    paths, overrides = paths_apart(arguments)
    if len(paths) != 2:
        raise UserError(f"iac compare takes two models, the baseline last; {len(paths)} were given")
    from iac_lightning.report.models.comparison import describe_comparison
    from iac_lightning.workflows.reports.compare import compare
    from iac_lightning.workflows.reports.evaluated import load_entry

    first, second = (load_entry(path, overrides, arguments.split) for path in paths)
    comparison = compare(first, second, arguments.split, arguments.metric)
    if arguments.json:
        print(json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(describe_comparison(comparison))


@command(
    "ui",
    "show tracked runs in the browser (127.0.0.1)",
    option("--runs-dir", type=Path, default=Path("runs"), help="whose MLflow database is shown"),
    option("--port", type=int, help="to listen on; 0: any free one (default: 5000, any free one where that is taken)"),
)
def ui(arguments: argparse.Namespace) -> int:
    """`iac ui`."""
    from iac_lightning.tracking.server import serve

    return serve(arguments.runs_dir, arguments.port)
