"""The table names peers, ratios and what is left out."""

from __future__ import annotations

from typing import Any

from benchmarks.bench_table import PARTS, ROWS, bench_table


def results() -> dict[str, Any]:
    peers = {
        "tio.Queue, 1 a volume": {"patches_per_s": 100.24, "ratio": 19.96},
        "nnU-Net's loader": {"problem": "nnU-Net is not installed"},
    }
    return {
        "machine": {"cpu_count": 2},
        "patches": {
            name: {
                **{"patches_per_s": 2000.4, "peers": peers},
                "processor_ms": {"ours, one process": 1.25, "tio.Queue, 1 a volume": 20.0},
            }
            for name in ("augmented", "bare")
        },
        "mae_step": {
            "tokens": 2048,
            "seconds": 0.84,
            "peers": {"einsum": {"seconds": 2.1, "ratio": 2.5}, "flash": {"seconds": 1.1, "ratio": 1.314}},
        },
        "settings": [
            {
                **{"network": "vit", "setting": "optimizer.ema_decay", "from": 0.0, "to": 0.98},
                **{"from_ms": 100.0, "to_ms": 104.0, "ratio": 1.04},
            },
            {"network": "mae", "setting": "trainer.compile", "from": "off", "to": "default", "problem": "no compiler"},
        ],
        "evaluation": {
            "models": 2,
            "series": 40,
            "evaluate": {"seconds": 9.0, "cpu_seconds": 12.0, "peak_memory_gib": 0.5},
            "report": {"seconds": 8.0, "cpu_seconds": 7.5, "peak_memory_gib": 0.25},
            "metrics": {"milliseconds": 13.2, "monai_milliseconds": 66.0, "ratio": 5.04},
        },
        "import": {
            "imports": [
                {"series": 1, "seconds": 4.0, "peak_memory_gib": 0.25},
                {"series": 10, "seconds": 10.0, "peak_memory_gib": 0.25, "series_a_minute": 90.0},
            ],
            "tables": {"series": 10000, "seconds": 100.0, "peak_memory_gib": 0.25},
        },
        "scan": {
            "prepare": {"seconds": 14.21, "peak_memory_gib": 1.234},
            "predict": {"seconds": 18.0, "peak_memory_gib": 2},
        },
    }


def test_the_table_names_peers_and_ratios() -> None:
    rows = [[cell for cell in line.split("  ") if cell] for line in bench_table(results()).splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [
        ["what", "ours", "peer", "ratio"],
        ["patches/s, augmented", "2000", "tio.Queue, 1 a volume 100.2", "20.0 × faster"],
        ["patches/s, augmented", "2000", "nnU-Net's loader", "nnU-Net is not installed"],
        ["ms of a core a patch, augmented", "1.2", "tio.Queue, 1 a volume 20.0", "16.0 × less"],
        ["patches/s, bare", "2000", "tio.Queue, 1 a volume 100.2", "20.0 × faster"],
        ["patches/s, bare", "2000", "nnU-Net's loader", "nnU-Net is not installed"],
        ["ms of a core a patch, bare", "1.2", "tio.Queue, 1 a volume 20.0", "16.0 × less"],
        ["MAE step, 2048 tokens", "0.84 s", "MONAI, einsum 2.10 s", "2.50 × faster"],
        ["MAE step, 2048 tokens", "0.84 s", "MONAI, flash 1.10 s", "1.31 × faster"],
        ["vit step, optimizer.ema_decay=0.98", "104 ms", "0.0 100 ms", "1.04 × the time"],
        ["mae step, trainer.compile=default", "–", "off", "no compiler"],
        ["metrics of a series of 64³ voxels", "13 ms", "MONAI 66 ms", "5.0 × faster"],
        ["evaluate 2 models × 40 series", "9.0 s", "12.0 s of CPU, 0.50 GiB peak"],
        ["report 2 models × 40 series", "8.0 s", "7.5 s of CPU, 0.25 GiB peak"],
        ["import 1 series, 1 worker", "4.0 s", "0.25 GiB peak"],
        ["import 10 series, 1 worker", "10.0 s", "0.25 GiB peak", "90 a minute beyond the first"],
        ["tables of 10000 series", "100.0 s", "256 MiB peak"],
        ["prepare one scan", "14.2 s", "1.23 GiB peak"],
        ["predict one scan", "18.0 s", "2.00 GiB peak"],
    ]


def test_parts_that_were_not_measured_are_left_out() -> None:
    assert len(bench_table({"mae_step": results()["mae_step"]}).splitlines()) == 3
    assert (*PARTS, "scan") == tuple(ROWS)
