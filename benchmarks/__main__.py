"""`python -m benchmarks bench` and `python -m benchmarks training`, from the project's root."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench_table import PARTS
from data_modules.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two; a `UserError` is printed without traceback and gives status 2."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    foreign = [word for word in rest if "overrides" not in arguments or word.startswith("-")]
    if foreign:  # what is left may be key=value after an option, which argparse does not take
        parser.error(f"unrecognized arguments: {' '.join(foreign)}")
    try:
        if arguments.benchmark == "bench":
            from benchmarks.bench import bench

            bench(
                *(arguments.out, arguments.scan, arguments.template, arguments.run),
                *(arguments.models, arguments.series, arguments.parts),
            )
        else:
            from benchmarks.training import bench_training

            overrides = [*arguments.overrides, *rest]
            bench_training(arguments.experiment, overrides, arguments.patches, arguments.peak_tflops, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Both and their options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast the project is.")
    benchmarks = parser.add_subparsers(metavar="BENCHMARK", dest="benchmark", required=True)

    bench = benchmarks.add_parser("bench", help="speed and memory against peers, as ratios in one run")
    bench.add_argument("--out", type=Path, default=Path("bench.json"), help="where the figures go")
    bench.add_argument("--scan", type=Path, help="a real head CT to prepare and predict")
    bench.add_argument("--template", type=Path, help="template for that scan")
    bench.add_argument("--run", type=Path, help="run that predicts it")
    bench.add_argument("--models", type=int, default=2, help="sets of predictions to evaluate")
    bench.add_argument("--series", type=int, default=40, help="scans of each")
    bench.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default all)")

    training = benchmarks.add_parser("training", help="speed, memory and waiting of a real training")
    training.add_argument("experiment", type=Path, help="such as experiments/sweeps/gpu/mae.yaml")
    training.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    training.add_argument("--patches", nargs="+", type=int, default=[8, 4], help="edges of the ViT's patches")
    training.add_argument("--peak-tflops", type=float, help="of the device at this precision: H100 SXM, bf16: 989")
    training.add_argument("--out", type=Path, default=Path("bench_training.json"), help="where the figures go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
