"""Lines of progress where there is no terminal."""

from __future__ import annotations

import io
import sys

import pytest

from data_modules.progress import progress_line, shown


def test_a_line_tells_rate_and_time_left() -> None:
    assert progress_line(120, 1000, 240.0, "import", "series") == (
        "import: 120 of 1000 series, 30.0 a minute, 29 min left"
    )
    assert progress_line(10, 40, 10.0, "import", "series").endswith("60.0 a minute, 30 s left")
    assert progress_line(1, 1000, 60.0, "import", "series").endswith("16.6 h left")


def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown(range(3), 3, "import", "series")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(shown(range(3), 3, "import", "series", every_s=0)) == [0, 1, 2]
    assert capsys.readouterr().err.count("import: ") == 3


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(shown(range(3), 3, "import", "series")) == [0, 1, 2]
    assert "3/3" in screen.getvalue()
