"""Output that nobody reads, that has no room, or that a terminal cannot show: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.settings import REPOSITORY

PROGRAM = """
import os, sys
from iac_lightning import terminal
terminal.make_robust()
for number in range(20_000):
    print("12.3 mm³ …", number)
print("on stderr …", file=sys.stderr)
lost = terminal.lost_output()
open(sys.argv[1], "w").write(f"{lost.errno if lost else None} {sys.stdout.encoding}")
"""


def run(shell: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The program, as `{}` in a line of a shell; it leaves `told`."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f"{sys.executable} {tmp_path / 'program.py'} {tmp_path / 'told'}"
    return subprocess.run(
        ["bash", "-c", shell.format(command)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        timeout=60,
    )


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    done = run("{} | head -1; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stdout.decode()) == (0, "12.3 mm³ … 0\n")
    assert done.stderr.decode() == "on stderr …\n"
    assert (tmp_path / "told").read_text().startswith("None"), "who has read enough has lost nothing"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_told_and_ends_nothing(tmp_path: Path) -> None:
    assert run("{} > /dev/full 2> /dev/full", tmp_path).returncode == 0
    assert (tmp_path / "told").read_text().startswith("28 ")


def test_what_a_terminal_cannot_show_is_replaced(tmp_path: Path) -> None:
    done = run("{}", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.startswith(b"12.3 mm? ? 0\n")
    assert done.stderr == b"on stderr ?\n"
    assert (tmp_path / "told").read_text() == "None ascii"


def test_the_numbers_of_closed_streams_go_to_no_file(tmp_path: Path) -> None:
    assert run("{} >&- 2>&- <&-", tmp_path).returncode == 0
    assert "mm³" not in (tmp_path / "told").read_text()
    assert (tmp_path / "told").read_text().startswith("None")


def test_lines_on_standard_error_come_at_once(tmp_path: Path) -> None:
    program = "import os, sys\nfrom iac_lightning import terminal\nterminal.make_robust()\n"
    program += "print('told', file=sys.stderr)\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, timeout=60)
    assert done.stderr == b"told\n"
