"""A whole import of a small, messy export."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.guarded import Limits
from data_modules.intake import importing
from data_modules.intake.importing import Imported, ImportSettings, import_dicom
from data_modules.intake.privacy import check_privacy
from data_modules.intake.tables import INVENTORY_COLUMNS
from data_modules.intake.tasks import Task
from data_modules.scan.reading import read_scan
from tests.dicom_exports import add, content, edit, head, messy_export, series_uid, shuffled


def settings(source: Path, out: Path, **changes: object) -> ImportSettings:
    return ImportSettings(
        source=source,
        out=out,
        private=changes.pop("private", None),  # type: ignore[arg-type]
        template=None,
        allow_contrast=bool(changes.pop("allow_contrast", False)),
        every=bool(changes.pop("every", False)),
        workers=int(changes.pop("workers", 1)),  # type: ignore[call-overload]
        limits=Limits(60, 2.0),
        scheduler=str(changes.pop("scheduler", "")),
        unpacked_gb=float(changes.pop("unpacked_gb", 1.0)),  # type: ignore[arg-type]
    )


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def codes_by_uid(out: Path) -> dict[str, str]:
    ids = table(out.with_name(f"{out.name}_private") / "ids.csv")
    code_of = dict(zip(ids.code, ids.raw, strict=True))
    found = table(out / "inventory.csv")
    return {code_of[s]: c for s, c in zip(found.series_id, found.code, strict=True) if s in code_of}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("export") / "src"
    return root, messy_export(root)


@pytest.fixture(scope="module")
def imported(export: tuple[Path, dict[str, str]]) -> tuple[Path, Imported]:
    out = export[0].parent / "out"
    return out, import_dicom(settings(export[0], out))


def test_each_series_ends_with_its_code(export: tuple[Path, dict[str, str]], imported: tuple[Path, Imported]) -> None:
    out, found = imported
    assert codes_by_uid(out) == export[1]
    rows = table(out / "inventory.csv")
    assert list(rows.columns) == list(INVENTORY_COLUMNS)
    assert len(rows) == len(export[1]) + 1  # the joined one has no UID of its own
    assert found.n_failed == 2  # one cut off, one too large
    assert found.n_ready == 4
    assert sum(found.codes.values()) == len(export[1]) - 1


def test_the_cohort_holds_the_best_of_each_examination(imported: tuple[Path, Imported]) -> None:
    out, found = imported
    cohort = read_cohort(out / "cohort.csv")
    assert len(cohort.series) == found.n_cohort == 3
    rows = table(out / "inventory.csv").set_index("series_id")
    first = next(s for s in cohort.series if "softest kernel" in rows.loc[s.series_id, "proposed_because"])
    assert rows.loc[first.series_id, "status"] == "accepted"
    assert {s.extra["contrast"] for s in cohort.series} == {"no"}
    assert rows[(rows.proposed == "yes") & (rows.kernel == "H60s")].empty
    scan = read_scan(first.image)
    assert scan.hu.dtype == np.int16
    assert (scan.slice_thickness_mm, scan.kernel, scan.manufacturer) == (5.0, "H31s", "SIEMENS")


def test_voxels_are_those_of_the_reader(export: tuple[Path, dict[str, str]], imported: tuple[Path, Imported]) -> None:
    out, _ = imported
    ids = table(out.with_name("out_private") / "ids.csv").set_index("raw").code
    expected = read_scan(export[0] / "f00")
    image = nib.load(out / "images" / f"{ids[series_uid('plain')]}.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), expected.hu)
    assert np.allclose(image.affine, expected.grid.affine, atol=1e-4)


def test_base_and_vault_are_one_image(imported: tuple[Path, Imported]) -> None:
    out, _ = imported
    rows = table(out / "inventory.csv")
    joined = rows[rows.code == "joined"]
    whole = joined[joined.n_files == "24"].iloc[0]
    parts = joined[joined.n_files != "24"]
    assert len(parts) == 2
    assert all(whole.series_id in reason for reason in parts.reason)
    assert all(part in whole.reason for part in parts.series_id)
    assert (parts.proposed == "no").all()
    assert whole.proposed == "yes"
    scan = read_scan(out / "images" / f"{whole.series_id}.nii.gz")
    assert scan.slice_thicknesses_mm is not None
    assert Counter(scan.slice_thicknesses_mm).keys() == {2.0, 4.0}
    assert scan.hu.shape[2] == 33  # 0 to 62 mm every 2, and half the thickness of the last slice


def test_nothing_in_the_output_tells_who_they_are(imported: tuple[Path, Imported]) -> None:
    out, found = imported
    checked = check_privacy(out, found.private)
    assert checked.findings == ()
    assert checked.n_known > 20
    text = "".join(path.read_text() for path in out.rglob("*") if path.suffix in (".csv", ".json"))
    for secret in ("HOSP", "4711", "Secret", "Iomeron", "Thorax", str(out.parent), "20240101"):
        assert secret not in text
    assert stat.S_IMODE(found.private.stat().st_mode) == 0o700
    assert stat.S_IMODE((found.private / "ids.csv").stat().st_mode) == 0o600


def test_the_same_export_shuffled_gives_the_same_bytes(
    export: tuple[Path, dict[str, str]], imported: tuple[Path, Imported], tmp_path: Path
) -> None:
    shuffled(export[0], tmp_path / "src")
    private = tmp_path / "out_private"
    private.mkdir()
    shutil.copy(imported[1].private / "salt", private)
    import_dicom(settings(tmp_path / "src", tmp_path / "out", workers=2))
    assert content(tmp_path / "out") == content(imported[0])
    other = tmp_path / "other"
    import_dicom(settings(tmp_path / "src", other))
    assert not set(table(other / "inventory.csv").series_id) & set(table(imported[0] / "inventory.csv").series_id)


def children() -> list[int]:
    """Processes that this one has started."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            status = Path("/proc", name, "stat").read_text().rsplit(")", 1)[1].split()
            if int(status[1]) == os.getpid() and status[0] != "Z":
                found.append(int(name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found by /proc")
def test_workers_killed_at_random_change_nothing(
    export: tuple[Path, dict[str, str]], imported: tuple[Path, Imported], tmp_path: Path
) -> None:
    private = tmp_path / "out_private"
    private.mkdir()
    shutil.copy(imported[1].private / "salt", private)
    others, over, killed = set(children()), threading.Event(), []

    def kill() -> None:
        rng = np.random.default_rng(1)
        while not over.wait(float(rng.uniform(0.3, 0.9))) and len(killed) < 5:
            for child in set(children()) - others:
                with suppress(OSError):
                    os.kill(child, signal.SIGKILL)
                    killed.append(child)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        import_dicom(settings(export[0], tmp_path / "out", workers=2))
    finally:
        over.set()
        killer.join()
    assert killed
    assert content(tmp_path / "out") == content(imported[0])


def test_the_parent_stays_light() -> None:
    """Tables of ten thousand series leave no room for libraries that only the workers need."""
    loaded = (
        "import sys, data_modules.intake.importing; print(*{'SimpleITK', 'scipy', 'nibabel', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_second_import_reads_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "src", tmp_path / "out"
    source.mkdir()
    add(source / "a", "a")
    add(source / "b", "b", patient="HOSP-0002", scene=head(4))
    add(source / "copy", "copy", scene=head(4), patient="HOSP-0002", SeriesNumber=9)
    import_dicom(settings(source, out))
    before = content(out / "images")
    assert "duplicate" in table(out / "inventory.csv").code.tolist()
    rows = table(out / "cohort.csv")
    rows.loc[0, "split"], rows["note"] = "finetune", ["mine", ""]
    rows.to_csv(out / "cohort.csv", index=False)

    read: list[str] = []
    real = importing.results

    def noted(tasks: list[Task], **given: Any) -> object:
        read.extend(task.series_id for task in tasks)
        return real(tasks, **given)

    monkeypatch.setattr(importing, "results", noted)
    import_dicom(settings(source, out))
    assert read == []
    again = table(out / "cohort.csv")
    assert again.split.tolist()[0] == "finetune"
    assert again.note.tolist() == ["mine", ""]
    edit(next((source / "a").iterdir()), InstanceNumber=77)
    import_dicom(settings(source, out))
    assert len(read) == 1
    assert content(out / "images") == before
    shutil.rmtree(source / "b")
    shutil.rmtree(source / "copy")
    found = import_dicom(settings(source, out))
    assert len(list((out / "images").iterdir())) == 2
    assert any("no longer" in remark for remark in found.remarks)


def test_contrast_on_request_and_all_series(export: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in ("f00", "f01", "f10"):
        shutil.copytree(export[0] / name, source / name)
    import_dicom(settings(source, tmp_path / "out", allow_contrast=True, every=True))
    cohort = read_cohort(tmp_path / "out" / "cohort.csv")
    assert sorted((s.extra["contrast"], s.extra["days"]) for s in cohort.series) == [
        ("no", "0"),
        ("no", "0"),
        ("yes", "1"),
    ]


def test_places_that_cannot_be(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "note.txt").write_text("no DICOM")
    with pytest.raises(UserError, match="lies within the export"):
        import_dicom(settings(source, source / "out"))
    with pytest.raises(UserError, match="lies within the output"):
        import_dicom(settings(source, tmp_path / "out", private=tmp_path / "out" / "p"))
    with pytest.raises(UserError, match="no such folder"):
        import_dicom(settings(tmp_path / "none", tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match="not of an import"):
        import_dicom(settings(source, tmp_path / "full"))
    found = import_dicom(settings(source, tmp_path / "out"))
    assert (found.n_ready, found.n_foreign, found.codes) == (0, 1, {})
    os.remove(found.private / "salt")
    with pytest.raises(UserError, match="there is no salt"):
        import_dicom(settings(source, tmp_path / "out"))
