"""``keys export``: its content and its target."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.keys.model import Key
from tests.cli.helpers import KEY_FIELDS, LIMIT_S, Done, ended, process, put
from tests.cli.transfer.helpers import keys_of, works

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_an_export_is_json_lines_that_import_takes(
    cli: Callable[..., Done], url: str, other: str, file: Path
) -> None:
    made = [cli("keys", "create", "--client-id", name, "--json").json for name in ("b", "a", "c")]
    cli("keys", "rotate", "b")

    done = cli("keys", "export", str(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    again = cli("keys", "import", str(file), "--backend", other)

    assert (done.status, done.out, done.err) == (0, "exported 3 keys\n", "")
    assert [line["client_id"] for line in lines] == ["a", "b", "c"]
    assert all(line["v"] == 1 and line.keys() >= set(KEY_FIELDS) for line in lines)
    assert [len(line["secrets"]) for line in lines] == [1, 2, 1]
    assert (again.status, again.out, again.err) == (0, "imported 3 keys\n", "")
    assert keys_of(other) == keys_of(url)
    for key in made:
        assert works(other, key["client_id"], key["secret"])


def test_the_history_is_moved(cli: Callable[..., Done], url: str, other: str, file: Path) -> None:
    """As it is; an older export without one is imported with a new one."""
    cli("keys", "create", "--client-id", "a")
    cli("keys", "disable", "a")
    history = cli("keys", "history", "a", "--json").out
    assert len(history.splitlines()) == 2

    cli("keys", "export", str(file))
    cli("keys", "import", str(file), "--backend", other)
    assert cli("keys", "history", "a", "--json", "--backend", other).out == history

    fields = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in fields.items() if name != "history"}))
    cli("keys", "delete", "a", "--yes")
    assert cli("keys", "import", str(file)).status == 0
    assert cli("keys", "history", "a", "--json").json["event"] == "key.imported"
    fields["history"][0]["event"] = "invented"
    file.write_text(json.dumps(fields))
    cli("keys", "delete", "a", "--yes")
    done = cli("keys", "import", str(file))
    assert (done.status, "audit log" in done.err, done.out) == (1, True, "")


def test_an_export_to_stdout_is_the_same(cli: Callable[..., Done], url: str, other: str, file: Path) -> None:
    cli("keys", "create", "--name", "\x9b\u202e\u540d", "--client-id", "a")
    cli("keys", "export", str(file))

    for words in (("keys", "export"), ("keys", "export", "-")):
        done = cli(*words, hashes=True)
        assert (done.status, done.out, done.err) == (0, file.read_text(), "")
        assert done.out.isascii()
    assert cli("keys", "import", "-", "--backend", other, stdin=file.read_bytes()).status == 0
    assert keys_of(other) == keys_of(url)


def test_a_pipe_between_two_backends(cli: Callable[..., Done], url: str, other: str) -> None:
    cli("keys", "create")

    with (
        process("keys", "export", "--backend", url) as source,
        process("keys", "import", "-", "--backend", other, stdin=source.stdout) as target,
    ):
        out, err = target.communicate(timeout=LIMIT_S)

    assert (source.wait(), target.returncode, out, err) == (0, 0, b"imported 1 key\n", b"")
    assert keys_of(other) == keys_of(url)


def test_an_export_to_dev_stdout_is_one_to_stdout(url: str) -> None:
    put(url, Key("a"))

    done = ended("keys", "export", "/dev/stdout", "--backend", url)

    assert (done.status, done.err) == (0, "")
    assert [json.loads(line)["client_id"] for line in done.out.splitlines()] == ["a"]


def test_a_pipe_with_a_name_is_not_replaced(cli: Callable[..., Done], tmp_path: Path) -> None:
    cli("keys", "create")
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)

    cli("keys", "export", str(pipe)).failed_with(f"{pipe} is not a file")
    cli("keys", "export", str(link)).failed_with(f"{link} is not a file")
    read, write = os.pipe()
    cli("keys", "export", f"/dev/fd/{write}").failed_with(f"/dev/fd/{write} is not a file")
    os.close(read)
    os.close(write)

    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_export_is_for_its_owner(cli: Callable[..., Done], file: Path) -> None:
    """Even if an earlier export was readable by all users, or the file is a link."""
    cli("keys", "create")
    link = file.with_name("link")
    link.symlink_to(file)
    file.chmod(0o644)

    cli("keys", "export", str(link))

    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_size > 0


def test_an_export_replaces_exports_only(
    cli: Callable[..., Done], database: Path, file: Path, tmp_path: Path
) -> None:
    cli("keys", "create")
    assert cli("keys", "export", str(file)).status == 0
    assert cli("keys", "export", str(file), "--json").json == {"exported": 1, "file": str(file)}
    file.write_text("my diary")

    cli("keys", "export", str(file)).failed_with("is not an export")
    cli("keys", "export", str(database)).failed_with("is not an export")
    cli("keys", "export", "/dev/null").failed_with("not a file")
    cli("keys", "export", str(tmp_path)).failed_with("not a file")
    cli("keys", "export", str(tmp_path / "no" / "e")).failed_with(f"{tmp_path}/no/e: no such file")

    assert file.read_text() == "my diary"
    assert len(keys_of(f"sqlite:///{database}")) == 1


def test_a_store_without_keys_gives_an_empty_export(cli: Callable[..., Done], file: Path) -> None:
    cli("keys", "create", "--client-id", "a")
    cli("keys", "delete", "a")

    assert cli("keys", "export", str(file)).out == "exported 0 keys\n"
    assert file.read_bytes() == b""


@pytest.mark.parametrize("backend", ["env:", "memory:"])
def test_keys_in_env_and_memory_are_not_exported(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, file: Path, backend: str
) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2")

    cli("keys", "export", str(file), "--backend", backend).failed_with("nothing to export")
    cli("keys", "export", "--backend", backend).failed_with("nothing to export")
    assert file.read_bytes() == b""


def test_an_export_with_an_unreadable_record_fails(
    cli: Callable[..., Done], url: str, file: Path, database: Path
) -> None:
    put(url, *(Key(name) for name in ("a", "b", "c")))
    cli("keys", "export", str(file))
    before = file.read_bytes()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE keys SET record = '{' WHERE client_id = 'b'")

    cli("keys", "export", str(file)).failed_with("'b'")
    assert file.read_bytes() == before
