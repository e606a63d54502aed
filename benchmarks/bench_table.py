"""The figures of `make bench` as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = tuple[str, str, str, str]
PARTS = ("patches", "mae_step", "settings", "evaluation", "import")
"""What is measured without a real scan, in this order."""


def bench_table(results: dict[str, Any]) -> str:
    """What was measured, ours, the peer and the ratio, in aligned columns."""
    rows: list[Row] = [("what", "ours", "peer", "ratio")]
    for part, to_rows in ROWS.items():
        if part in results:
            rows += to_rows(results[part])
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def patches_rows(found: dict[str, Any]) -> list[Row]:
    """A row for each loader."""
    rows = []
    for name in ("augmented", "bare"):
        own = f"{found[name]['patches_per_s']:.0f}"
        for peer, of_peer in found[name]["peers"].items():
            what = f"patches/s, {name}"
            if "problem" in of_peer:
                rows.append((what, own, peer, of_peer["problem"]))
            else:
                rows.append((what, own, f"{peer} {of_peer['patches_per_s']:.1f}", f"{of_peer['ratio']:.1f} × faster"))
        (_, own_ms), *peers = found[name]["processor_ms"].items()  # ours comes first
        what = f"ms of a core a patch, {name}"
        rows += [(what, f"{own_ms:.1f}", f"{peer} {ms:.1f}", f"{ms / own_ms:.1f} × less") for peer, ms in peers]
    return rows


def mae_rows(found: dict[str, Any]) -> list[Row]:
    """A row for each of MONAI's ways of attention."""
    own = (f"MAE step, {found['tokens']} tokens", f"{found['seconds']:.2f} s")
    return [
        (*own, f"MONAI, {name} {peer['seconds']:.2f} s", f"{peer['ratio']:.2f} × faster")
        for name, peer in found["peers"].items()
    ]


def settings_rows(found: list[dict[str, Any]]) -> list[Row]:
    """A row for each setting: with it, without it, and what it costs."""
    rows = []
    for row in found:
        what = f"{row['network']} step, {row['setting']}={row['to']}"
        if "problem" in row:
            rows.append((what, "–", str(row["from"]), row["problem"]))
        else:
            cells = (
                f"{row['to_ms']:.0f} ms",
                f"{row['from']} {row['from_ms']:.0f} ms",
                f"{row['ratio']:.2f} × the time",
            )
            rows.append((what, *cells))
    return rows


def evaluation_rows(found: dict[str, Any]) -> list[Row]:
    """Metrics against MONAI's, and the whole commands."""
    metrics = found["metrics"]
    rows = [
        (
            "metrics of a series of 64³ voxels",
            f"{metrics['milliseconds']:.0f} ms",
            f"MONAI {metrics['monai_milliseconds']:.0f} ms",
            f"{metrics['ratio']:.1f} × faster",
        )
    ]
    for name in ("evaluate", "report"):
        r = found[name]
        cells = (f"{r['seconds']:.1f} s", f"{r['cpu_seconds']:.1f} s of CPU, {r['peak_memory_gib']:.2f} GiB peak", "")
        rows.append((f"{name} {found['models']} models × {found['series']} series", *cells))
    return rows


def import_rows(found: dict[str, Any]) -> list[Row]:
    """Imports of more and more series, and the tables of very many."""
    rows = [
        (
            f"import {r['series']} series, 1 worker",
            f"{r['seconds']:.1f} s",
            f"{r['peak_memory_gib']:.2f} GiB peak",
            f"{r['series_a_minute']:.0f} a minute beyond the first" if "series_a_minute" in r else "",
        )
        for r in found["imports"]
    ]
    tables = found["tables"]
    cells = (f"{tables['seconds']:.1f} s", f"{tables['peak_memory_gib'] * 1024:.0f} MiB peak", "")
    return [*rows, (f"tables of {tables['series']} series", *cells)]


def scan_rows(found: dict[str, Any]) -> list[Row]:
    """The whole commands on a real scan."""
    return [
        (f"{name} one scan", f"{r['seconds']:.1f} s", f"{r['peak_memory_gib']:.2f} GiB peak", "")
        for name, r in ((name, found[name]) for name in ("prepare", "predict"))
    ]


ROWS: dict[str, Callable[[Any], list[Row]]] = {
    "patches": patches_rows,
    "mae_step": mae_rows,
    "settings": settings_rows,
    "evaluation": evaluation_rows,
    "import": import_rows,
    "scan": scan_rows,
}
"""By part, in the order of the table."""
