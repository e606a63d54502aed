"""The pages are this machine's alone, on a port of their own, and end with the command that shows them."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.tracking import server

ROOT = Path(__file__).parents[4]

STAND_IN = """
import http.server, os, signal, socket, sys
if sys.argv[2] == "dies":
    sys.exit(3)
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if sys.argv[2] == "broken" else 200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *words):
        pass
served = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
served.socket = socket.socket(fileno=int(sys.argv[1]))
served.serve_forever()
"""
"""Answers as MLflow's server does, within milliseconds."""

SHOW = """
import sys
from pathlib import Path
from data_modules.errors import UserError
from iac_lightning.tracking import server
runs_dir, port, kind, stand_in = sys.argv[1:]
server.serve_command = lambda fd: [sys.executable, "-c", stand_in, str(fd), kind]
server.STOP_S = 0.3
try:
    sys.exit(server.serve(Path(runs_dir), int(port)))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
    return tmp_path


def start(runs_dir: Path, kind: str = "fine", ignores: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN) if ignores else None,
        args=[sys.executable, "-c", SHOW, str(runs_dir), "0", kind, STAND_IN],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shown(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The address that is printed, and the process that answers there."""
    assert process.stdout is not None
    url = process.stdout.readline().split(" ")[0]
    with urllib.request.urlopen(url, timeout=10) as answer:
        return url, int(answer.read())


def is_running(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_it_can_be_interrupted_in_the_background_of_a_script(runs_dir: Path) -> None:
    process = start(runs_dir, ignores=True)
    shown(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("by", "kind", "status"),
    [
        (signal.SIGINT, "fine", 0),
        (signal.SIGTERM, "fine", 143),
        (signal.SIGTERM, "stubborn", 143),
        (signal.SIGHUP, "fine", 129),
        (signal.SIGKILL, "fine", -9),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_it_ends_with_its_command_however_that_ends(by: int, kind: str, status: int, runs_dir: Path) -> None:
    process = start(runs_dir, kind)
    _, pid = shown(process)
    assert pid != process.pid
    assert is_running(pid)
    process.send_signal(by)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert ends(pid)


def test_a_server_that_ends_by_itself_or_refuses_is_an_error(runs_dir: Path) -> None:
    dying, broken, running = start(runs_dir, "dies"), start(runs_dir, "broken"), start(runs_dir)
    _, pid = shown(running)
    os.kill(pid, signal.SIGKILL)
    for process, words in ((dying, "(status 3)"), (broken, "(500 Internal Server Error)"), (running, "(signal 9)")):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert words in err
        assert "http" not in out
        assert "Traceback" not in err


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_that_is_taken_is_an_error_where_it_was_asked_for(
    taken: int, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"--port {taken}: cannot be listened on .*Address already in use.* a free one"):
        server.serve(runs_dir, taken)
    for port in (-1, 65536):
        with pytest.raises(UserError, match=f"--port {port}: .* a number from 0 to 65535"):
            server.serve(runs_dir, port)
    monkeypatch.setattr(server, "USUAL_PORT", taken)
    with server._listening(None) as free:
        assert free.getsockname()[0] == "127.0.0.1"
        assert free.getsockname()[1] != taken
        usual = free.getsockname()[1]
    monkeypatch.setattr(server, "USUAL_PORT", usual)
    with server._listening(None) as listener:
        assert listener.getsockname()[1] == usual


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mlflow\.db: there is no tracking database yet"):
        server.serve(tmp_path)
    for content in (b"", b"not a database" * 100):
        (tmp_path / "mlflow.db").write_bytes(content)
        with pytest.raises(UserError, match=r"mlflow\.db: not a database of MLflow's"):
            server.serve(tmp_path)


def test_settings_around_it_do_not_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://T0KEN@host")
    monkeypatch.setenv("_MLFLOW_STATIC_PREFIX", "/x")
    monkeypatch.setenv("UVICORN_HOST", "0.0.0.0")
    monkeypatch.setenv("OTHER", "kept")
    found = server.serve_environment(Path("/runs/mlflow.db"), 5001)
    assert found["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",") == [
        *("localhost", "127.0.0.1", "[::1]"),
        *("localhost:5001", "127.0.0.1:5001", "[::1]:5001"),
    ]
    assert not found.keys() & {
        *("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "MLFLOW_TRACKING_URI", "_MLFLOW_STATIC_PREFIX", "UVICORN_HOST")
    }
    assert found["OTHER"] == "kept"
    assert found["_MLFLOW_SERVER_FILE_STORE"] == "sqlite:////runs/mlflow.db"
