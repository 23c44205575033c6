"""Assumptions of the package about the operating system, and of the tests about their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_S = 60.0

# Runs without modules that Windows lacks; those that the standard library needs are loaded first.
WITHOUT_POSIX = '''
import asyncio, importlib, multiprocessing, os, pkgutil, signal, socket, sqlite3, subprocess, sys, tempfile
import click, fastapi, flask, prometheus_client, redis, rich.console, rich.table, typer, uvicorn

for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "posix"):
    sys.modules[name] = None
MISSING = """
fork forkpty register_at_fork sched_yield sched_getaffinity posix_fallocate posix_fadvise wait waitid chown
chroot fchmod fchown fchdir lchown lockf geteuid getegid getuid getgid getgroups getpgid killpg mkfifo setuid
setgid setsid statvfs pathconf uname getloadavg sync fdatasync pread pwrite sendfile
O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC O_DSYNC O_NOCTTY
"""
for name in MISSING.split():
    delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGCHLD", "SIGPIPE", "SIGALRM", "SIGKILL", "alarm"):
    delattr(signal, name)
for name in ("AF_UNIX", "SO_REUSEPORT"):
    delattr(socket, name)
os.supports_effective_ids.clear()

from django.conf import settings
settings.configure()  # drf-spectacular reads them when it is imported

import basicauth_mw
from basicauth_mw import encode_basic, open_backend
from basicauth_mw.wsgi import BasicAuthMiddleware

for module in pkgutil.walk_packages(basicauth_mw.__path__, "basicauth_mw."):
    if not module.name.endswith(("__main__", "_demo_app", "django.admin", "django.models")):
        importlib.import_module(module.name)


def status(backend, authorization):
    starts = []

    def app(environ, start_response):
        start_response("200 OK", [])
        return [b""]

    environ = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": "192.0.2.1", "HTTP_AUTHORIZATION": authorization}
    BasicAuthMiddleware(app, backend)(environ, lambda *start: starts.append(start))
    return starts[0][0][:3]


assert status("env:", encode_basic("demo", "p@55w0rd")) == "200"
assert status("env:", encode_basic("demo", "wrong")) == "401"
for url in ("memory:", f"sqlite:///{tempfile.mkdtemp()}/keys.db"):
    backend = open_backend(url, create=True)
    issued = backend.create(client_id="ci")
    assert status(backend, issued.authorization) == "200"
    issued = backend.rotate("ci")
    backend.revoke("ci")
    assert status(backend, issued.authorization) == "401"
    backend.close()
'''


def test_only_the_standard_library_of_windows_is_needed(tmp_path: Path) -> None:
    """Every module can be imported, and the backends without a server work, without POSIX-only modules."""
    environment = {**os.environ, "BASICAUTH_KEYS": "demo:p@55w0rd"}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert (run.returncode, run.stderr) == (0, "")


def test_tests_pass_where_interrupts_are_ignored() -> None:
    """``nohup make test &`` and some CI runners start everything with SIGINT ignored."""
    interrupting = "tests/cli/test_program.py::test_ctrl_c_outside_of_a_command_prints_no_traceback"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        started = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", interrupting],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    output, _ = started.communicate(timeout=LIMIT_S)

    assert "1 passed" in output, output
