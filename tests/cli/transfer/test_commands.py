"""``keys import`` and ``export``: what goes through, what is refused, what an end at a bad moment leaves."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends.backend import open_backend
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import hash_secret
from basicauth_mw.keys.model import Key, Secret
from tests.cli.helpers import KEY_FIELDS, LIMIT_S, ROOT, Done, ended, fill, process, put, stranger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BCRYPT = b"$2y$04$xN1CIAfc38yrARRjvNqyd.mpvVIU7s2YG3ZyAcpGRSJXe7xr8O8F2"  # of "secret"
CANARY = "hunter2_canary"

# The whole of what an import may take, in memory; a table of 100,000 keys would be several times that.
FLAT_WITHIN_KIB = 8 * 1024


def keys_of(url: str) -> list[Key]:
    with open_backend(url) as backend:
        return list(backend.iter_keys())


def works(url: str, client_id: str, secret: str) -> bool:
    with open_backend(url) as backend:
        key = backend.get(client_id)
        assert key is not None
        return backend.hasher.verify_digest(secret, key.secrets) is not None


def minted_lines(count: int) -> bytes:
    return b"".join(f"{generate('id')},{generate('sk')}\n".encode() for _ in range(count))


def eventually(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that only its owner may read."""
    path = tmp_path / "keys.txt"
    path.touch(0o600)
    return path


@pytest.fixture
def other(tmp_path: Path) -> str:
    """The URL of a second backend."""
    return f"sqlite:///{tmp_path}/other.db"


# --- an export, and back


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
    """Also where an earlier one was for everybody, and through a link."""
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


def test_no_keys_make_an_empty_export(cli: Callable[..., Done], file: Path) -> None:
    cli("keys", "create", "--client-id", "a")
    cli("keys", "delete", "a")

    assert cli("keys", "export", str(file)).out == "exported 0 keys\n"
    assert file.read_bytes() == b""


@pytest.mark.parametrize("backend", ["env:", "memory:"])
def test_what_means_nothing_elsewhere_is_not_exported(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, file: Path, backend: str
) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2")

    cli("keys", "export", str(file), "--backend", backend).failed_with("nothing to export")
    cli("keys", "export", "--backend", backend).failed_with("nothing to export")
    assert file.read_bytes() == b""


def test_an_export_with_a_hole_is_none(
    cli: Callable[..., Done], url: str, file: Path, database: Path
) -> None:
    put(url, *(Key(name) for name in ("a", "b", "c")))
    cli("keys", "export", str(file))
    before = file.read_bytes()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE keys SET record = '{' WHERE client_id = 'b'")

    cli("keys", "export", str(file)).failed_with("'b'")
    assert file.read_bytes() == before


# --- the three formats


@pytest.mark.parametrize(
    "text",
    [
        b"a,%s\nb,%s\n",
        b"id,secret\na,%s\nb,%s",
        b"ID,Secret\r\na,%s\r\nb,%s\r\n",
        b'"client_id","client_secret"\n"a","%s"\n"b",%s\n',
        b"\xef\xbb\xbfid,secret\n\na,%s\n\nb,%s\n\n",
    ],
    ids=["bare", "header", "windows", "quotes", "bom"],
)
@pytest.mark.parametrize("piped", [True, False])
def test_csv(cli: Callable[..., Done], url: str, file: Path, text: bytes, piped: bool) -> None:
    secrets = [generate("sk") for _ in "ab"]
    file.write_bytes(text % tuple(secret.encode() for secret in secrets))

    done = cli("keys", "import", "-", stdin=file.read_bytes()) if piped else cli("keys", "import", str(file))

    assert (done.status, done.out, done.err) == (0, "imported 2 keys\n", "")
    assert [key.client_id for key in keys_of(url)] == ["a", "b"]
    for client_id, secret in zip("ab", secrets, strict=True):
        assert works(url, client_id, secret)


def test_import_json_is_a_line_a_key(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(minted_lines(2) + b"nonsense\n")

    done = cli("keys", "import", str(file), "--json")

    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [list(line) for line in lines] == [KEY_FIELDS] * 2
    assert done.status == 1
    assert done.err.splitlines()[0] == "error: line 3: expected the columns id,secret"


def test_chosen_secrets_and_hashes(cli: Callable[..., Done], url: str, file: Path) -> None:
    argon2 = hash_secret("correct horse")
    file.write_text(
        f'a,"with, a comma"\nb,{BCRYPT.decode()}\nc,"{argon2}"\nd,{hash_secret(generate("sk"))}\n'
    )

    assert cli("keys", "import", str(file)).out == "imported 4 keys\n"

    stored = {key.client_id: key.secrets[0].hash for key in keys_of(url)}
    assert stored["a"].startswith("$argon2id$")
    assert stored["b"] == BCRYPT.decode()
    assert stored["c"] == argon2
    assert stored["d"].startswith("$bamw1$")


def test_htpasswd(cli: Callable[..., Done], url: str, file: Path) -> None:
    """What is bcrypt comes in; everything else is refused line by line, by the name of its scheme."""
    file.write_bytes(
        b"# users of the wiki\n\n"
        b"good:%s\n"
        b"apr:$apr1$gVvtdYlg$%s\n"
        b"sha:{SHA}%s\n"
        b"des:rlxIBmyj3Cr4E\n"
        b"sha512:$6$salt$%s\n"
        b"plain:%s\n"
        b"nonsense\n"
        b"nginx:%s:a comment\n" % (BCRYPT, *[CANARY.encode()] * 4, BCRYPT)
    )

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 2 keys\n")
    refused = "hashes of this kind are not accepted, only Argon2id and bcrypt (as of htpasswd -B)"
    assert [line.partition("; ")[0] for line in done.err.splitlines()] == [
        f"error: line 4: {refused}: Apache MD5 (apr1)",
        f"error: line 5: {refused}: unsalted SHA-1",
        f"error: line 6: {refused}: crypt (DES)",
        f"error: line 7: {refused}: SHA-512-crypt",
        "error: line 8: plain text, or an unsupported hash: create the entry again with  htpasswd -B",
        "error: line 9: not user:hash",
        "error: 6 lines were not imported, see above",
    ]
    assert CANARY not in done.err
    assert [(key.client_id, key.secrets[0].hash) for key in keys_of(url)] == [
        ("good", BCRYPT.decode()),
        ("nginx", BCRYPT.decode()),
    ]


def test_the_format_can_be_named(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(b"a:b,%s\n" % BCRYPT)  # reads as either

    assert "not JSON" in cli("keys", "import", str(file), "--format", "export").err
    assert "colon" in cli("keys", "import", str(file), "--format", "csv").err
    assert "plain text" in cli("keys", "import", str(file), "--format", "htpasswd").err


@pytest.mark.parametrize(
    "header",
    [
        *("username,password", "User,Pass", "Client ID , API_KEY", "login,passwd", "name,token", "key,key"),
        *('"key_id","apikey"', "\ufeffclientId,secret", "\nuser_name,client_secret"),
    ],
)
def test_a_header_is_no_key(cli: Callable[..., Done], url: str, file: Path, header: str) -> None:
    """Whatever its columns are called, in any case, with blanks; else all could guess that key."""
    file.write_text(f"{header}\na,{generate('sk')}\n")

    done = cli("keys", "import", str(file))

    assert (done.status, done.out, done.err) == (0, "imported 1 key\n", "")
    assert [key.client_id for key in keys_of(url)] == ["a"]


@pytest.mark.parametrize("before", ["# made by hand", "\ufeff# id,secret", "Our users, in 2030,", ",x"])
def test_a_header_behind_what_cannot_be_used_is_no_key(
    cli: Callable[..., Done], url: str, file: Path, before: str
) -> None:
    file.write_text(f"{before}\nid,secret\na,{generate('sk')}\n")

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 1 key\n")
    assert done.err.startswith("error: line 1: ")
    assert [key.client_id for key in keys_of(url)] == ["a"]


@pytest.mark.parametrize(
    "line", ["username,hunter2_canary", "hunter2_canary,Password", '"user",hunter2_canary']
)
def test_half_a_header_is_refused(cli: Callable[..., Done], url: str, file: Path, line: str) -> None:
    file.write_text(f"{line}\na,{generate('sk')}\n")

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 1 key\n")
    assert done.err.startswith(
        "error: line 1: looks like a header; if it is a key, put quotes around both values\n"
    )
    assert CANARY not in done.err
    assert [key.client_id for key in keys_of(url)] == ["a"]


def test_a_key_may_be_called_like_a_column(cli: Callable[..., Done], url: str, file: Path) -> None:
    """In quotes, with a minted secret, with a hash, or behind the first line."""
    for number, line in enumerate(
        (
            '"user","a secret"',
            f"login,{generate('sk')}",
            f"name,{BCRYPT.decode()}",
            f"a,{generate('sk')}\nkey,x-y",
        )
    ):
        file.write_text(f"{line}\n")
        assert cli("keys", "import", str(file)).status == 0, number

    assert {key.client_id for key in keys_of(url)} == {"user", "login", "name", "a", "key"}


# --- what is refused


LINES = {
    "one column": f"{CANARY}\n",
    "three columns": f"x,{CANARY},y\n",
    "quoted wrongly": f'x,"{CANARY}\n',
    "quote in the middle": f'x,"{CANARY}"y\n',
    "colon in the id": f"x:y,{CANARY}\n",
    "no id": f",{CANARY}\n",
    "long id": f"{CANARY * 20},{generate('sk')}\n",
    "no secret": f"{CANARY},\n",
    "long secret": f"x,{CANARY * 100}\n",
    "mistyped": f"x,{generate(CANARY)[:-4]}0000\n",
    "control character": f"x,{CANARY}\x07\n",
    "escape sequence": f"\x1b[2J{CANARY},x\n",
    "blank before": f"x, {CANARY}\n",
    "blank behind": f"x,{CANARY} \n",
    "comment": f"#x,{CANARY}\n",
    "nul": f"x,{CANARY}\0\n",
    "weak hash": f"x,{{SHA}}{CANARY}\n",
    "weaker hash": f"x,$apr1${CANARY}\n",
    "damaged hash": f"x,$2y$04${CANARY}\n",
    "hash in columns": f"x,$argon2id$v=19$m=19456,t=2,p=1${CANARY}\n",
    "far too long": f"x,{CANARY * 50_000}\n",
    "lone carriage return": f"x,{CANARY}\ry,z\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_bad_line_is_named_and_not_repeated(
    cli: Callable[..., Done], url: str, file: Path, line: str
) -> None:
    """The rest is imported; what stood in the line is nowhere, in no form that a terminal obeys."""
    file.write_text(f"good,{generate('sk')}\n{line}fine,{generate('sk')}\n")

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 2 keys\n")
    first, last = done.err.splitlines()
    assert first.startswith("error: line 2: ")
    assert last == "error: 1 line was not imported, see above"
    assert CANARY not in done.err
    assert done.err.replace("\n", "").isprintable()
    assert [key.client_id for key in keys_of(url)] == ["fine", "good"]


@pytest.mark.parametrize("line", [f"x,{CANARY * 15_000}", f"{CANARY * 15_000},x"], ids=["secret", "id"])
def test_a_field_that_is_far_too_long_is_told_as_such(
    cli: Callable[..., Done], file: Path, line: str
) -> None:
    """Where the reader of CSV gives up already."""
    file.write_text(f"good,{generate('sk')}\n{line}\n")

    done = cli("keys", "import", str(file))

    assert done.err.startswith("error: line 2: a value is far longer than an id or a secret may be\n")
    assert CANARY not in done.err


def test_octets_that_are_no_text_are_refused(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(b"good,%s\nx,\xff\xfe\n" % generate("sk").encode())

    done = cli("keys", "import", str(file))

    assert done.out == "imported 1 key\n"
    assert "line 2: not UTF-8" in done.err


def test_taken_ids_are_left_alone(cli: Callable[..., Done], url: str, file: Path) -> None:
    """Once in the backend, once earlier in the same file, chosen or minted."""
    put(url, Key("a", name="mine"))
    file.write_text(f"a,{generate('sk')}\na,chosen\nb,{generate('sk')}\nb,{generate('sk')}\n")
    before = keys_of(url)

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 1 key\n")
    assert done.err.splitlines()[:-1] == [
        "error: line 1: its client id 'a' is taken",
        "error: line 2: its client id 'a' is taken: line 1 has it too",
        "error: line 4: its client id 'b' is taken: line 3 has it too",
    ]
    assert keys_of(url)[:1] == before


def test_of_many_errors_some_are_shown(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(b"a,b,c\n" * 25)

    people = cli("keys", "import", str(file)).err.splitlines()
    program = cli("keys", "import", str(file), "--json").err.splitlines()

    assert len(people) == 22
    assert people[20] == "error: and 5 more lines (--json prints all)"
    assert people[21] == program[25] == "error: 25 lines were not imported, see above"
    assert len(program) == 26


ALIENS = {
    "empty": b"",
    "blank": b"\n \n\r\n",
    "comments": b"# nothing\n# yet\n",
    "endless comments": b"# nothing\n" * 20_000 + b"id,secret\n",
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "nul": b"a,b\0\n",
    "utf-16": "id,secret\n".encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "json array": b'[{"client_id": "hunter2_canary"}]',
    "html": b"<!DOCTYPE html>\n<p>a, b: hunter2_canary",
    "prose": b"hunter2_canary\n",
    "json": b'{"client_id": "hunter2_canary"}\n',
    "newer": b'{"v": 2, "client_id": "hunter2_canary"}\n',
    "one endless line": b"x" * 3_000_000,
}


@pytest.mark.parametrize("octets", ALIENS.values(), ids=ALIENS)
@pytest.mark.parametrize("piped", [True, False])
def test_an_alien_file_is_refused_whole(
    cli: Callable[..., Done], database: Path, file: Path, octets: bytes, piped: bool
) -> None:
    file.write_bytes(octets)

    done = cli("keys", "import", "-", stdin=octets) if piped else cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "")
    assert 1 <= len(done.err.splitlines()) <= 2
    assert CANARY not in done.err
    assert not database.exists()


def test_a_file_that_cannot_be_read(cli: Callable[..., Done], database: Path, tmp_path: Path) -> None:
    cli("keys", "import", str(tmp_path / "nothing")).failed_with("nothing: no such file")
    cli("keys", "import", str(tmp_path)).failed_with("is a directory")
    assert not database.exists()


def test_a_read_only_backend_is_told_before_the_work(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2")
    file.write_bytes(minted_lines(1))

    cli("keys", "import", str(file), "--backend", "env:").failed_with(
        "this backend is read-only: edit its source (env: the variable or file with its keys), or use"
    )


def test_a_backend_that_is_down(cli: Callable[..., Done], file: Path, free_port: int) -> None:
    file.write_bytes(minted_lines(1))

    cli("keys", "import", str(file), "--backend", f"redis://127.0.0.1:{free_port}").failed_with("")


@pytest.mark.parametrize(
    ("mode", "text", "warned"),
    [
        (0o644, "a,{minted}\n", True),
        (0o640, "a,{minted}\n", True),
        (0o600, "a,{minted}\n", False),
        (0o644, "a,{hashed}\n", False),
        (0o644, "a:{hashed}\nb:plain\n", False),
        (0o644, "root:x:0:0:root:/root:/bin/sh\n", False),
        (0o644, "Prose, with commas\nNothing, but prose\n", False),
        (0o644, "id,secret\na:b,plain\n", True),
        (0o644, "a, plain\n", False),
        (0o644, "id,secret\na, plain\n", True),
        (0o644, "a,{minted},name\n", True),
        (0o644, "id,secret\n", False),
    ],
)
def test_secrets_in_clear_that_others_may_read(
    cli: Callable[..., Done], file: Path, mode: int, text: str, warned: bool
) -> None:
    file.write_text(text.format(minted=generate("sk"), hashed=BCRYPT.decode()))
    file.chmod(mode)

    done = cli("keys", "import", str(file))

    assert ("warning: other users can read" in done.err) == warned


# --- a damaged export


@pytest.fixture
def export(cli: Callable[..., Done], url: str, file: Path) -> bytes:
    """Of three keys."""
    put(url, *(Key(name, secrets=(Secret(hash_secret(generate("sk"))),)) for name in ("a", "b", "c")))
    cli("keys", "export", str(file))
    return file.read_bytes()


def test_every_truncation_is_noticed(cli: Callable[..., Done], file: Path, other: str, export: bytes) -> None:
    """In the middle of a line, between two, and at the start."""
    ends = [0, 1, 4, len(export) // 2, len(export) - 3]
    ends += [index + shift for index, octet in enumerate(export) if octet == 10 for shift in (0, 1)][:4]

    for end in ends:
        for words, stdin in ((str(file), b""), ("-", export[:end])):
            file.write_bytes(export[:end])
            done = cli("keys", "import", words, "--backend", other, stdin=stdin)
            assert (done.status, done.out) == (1, ""), end
    assert not Path(other.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (lambda lines: [lines[0], lines[2]], 2, "some are missing"),
        (lambda lines: [*lines, lines[0]], 4, "cut off"),
        (lambda lines: [lines[0], b"{}\n", *lines[1:]], 2, "not a key"),
        (lambda lines: [lines[0], lines[1].replace(b"$bamw1$0", b"$bamw1$00000000"), lines[2]], 2, "pepper"),
        (lambda lines: [lines[0].replace(b'"a"', b'"a:b"'), *lines[1:]], 1, "colon"),
        (lambda lines: [lines[0].replace(b"T", b" ", 1), *lines[1:]], 1, "created_at"),
        (lambda lines: [lines[0].replace(b'"v":1', b'"v":1,"x":1'), *lines[1:]], 1, "unknown field"),
        (lambda lines: [b"x" * 300_000 + b"\n", *lines], 1, "longer"),
        (lambda lines: [b"[" * 10_000 + b"\n", *lines], 1, "nested too deep"),
        (lambda lines: [lines[0].replace(b'"v":1', b'"v":1,"v":1'), *lines[1:]], 1, "same name"),
        (lambda lines: [lines[0].replace(b"{}", b'{"a":1,"a":1}'), *lines[1:]], 1, "same name"),
    ],
)
def test_one_bad_line_stops_all_of_an_export(
    cli: Callable[..., Done],
    file: Path,
    other: str,
    export: bytes,
    change: Callable[[list[bytes]], list[bytes]],
    line: int,
    reason: str,
) -> None:
    file.write_bytes(b"".join(change(export.splitlines(keepends=True))))

    done = cli("keys", "import", str(file), "--format", "export", "--backend", other)

    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"error: line {line}: ")
    assert reason in done.err.splitlines()[0]
    assert "nothing was imported" in done.err.splitlines()[-1]
    assert not Path(other.removeprefix("sqlite:///")).exists()


def test_what_is_left_of_an_export_can_be_saved(
    cli: Callable[..., Done], file: Path, other: str, export: bytes
) -> None:
    file.write_bytes(export[:-10])

    done = cli("keys", "import", str(file), "--partial", "--backend", other)

    assert (done.status, done.out) == (1, "imported 2 keys\n")
    assert "error: line 3: not JSON" in done.err


def test_the_rest_of_an_export_is_missed(
    cli: Callable[..., Done], file: Path, other: str, export: bytes
) -> None:
    """Cut off between two lines, or without one of them: what is there comes in, and what is not is told."""
    lines = export.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]))

    done = cli("keys", "import", str(file), "--partial", "--backend", other)

    assert (done.status, done.out) == (1, "imported 2 keys\n")
    assert done.err.splitlines()[0] == "error: line 3: missing: the file was cut off"
    file.write_bytes(lines[0] + lines[2])
    done = cli("keys", "import", str(file), "--partial", "--backend", other)
    assert (done.status, done.out) == (1, "imported 1 key; already present: 1\n")
    assert done.err.splitlines()[0] == "error: line 2: the last line of 3, but there are 2: some are missing"
    file.write_bytes(export)
    assert cli("keys", "import", str(file), "--partial", "--backend", other).status == 0


@pytest.mark.parametrize(
    "text",
    ["id,secret\n", "x:y,z\n", "x,{SHA}abc\n", f"x,{'y' * 1025}\n", "x:$2y$99$broken\n", '{"v":1}\n'],
)
def test_an_import_of_nothing_makes_no_file(
    cli: Callable[..., Done], database: Path, file: Path, text: str
) -> None:
    file.write_text(text)

    cli("keys", "import", str(file), "--partial")

    assert not database.exists()


def test_a_key_that_does_not_fit_makes_no_file(
    cli: Callable[..., Done], file: Path, other: str, export: bytes
) -> None:
    file.write_bytes(export.splitlines(keepends=True)[0].replace(b'"a"', b'"a:b"'))

    done = cli("keys", "import", str(file), "--partial", "--backend", other)

    assert (done.status, done.out) == (1, "imported 0 keys\n")
    assert "line 1: a client id holds no colon" in done.err
    assert not Path(other.removeprefix("sqlite:///")).exists()


def test_what_ends_with_the_command_takes_no_keys(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(minted_lines(1))
    line = "the keys of memory: end with this command: use a backend that stores them"

    cli("keys", "import", str(file), "--backend", "memory:").failed_with(line)
    cli("keys", "create", "--backend", "memory:").failed_with(line)


def test_exports_can_be_joined(cli: Callable[..., Done], file: Path, other: str, export: bytes) -> None:
    """With Windows line ends and blank lines, too; the second half is there already, and that is no error."""
    file.write_bytes(export.replace(b"\n", b"\r\n") + b"\r\n" + export)

    done = cli("keys", "import", str(file), "--backend", other)

    assert (done.status, done.out, done.err) == (0, "imported 3 keys; already present: 3\n", "")


def test_an_import_can_be_run_again(cli: Callable[..., Done], file: Path, url: str, export: bytes) -> None:
    """Keys that are just the same are there already; one that is another is taken."""
    assert cli("keys", "import", str(file)).out == "imported 0 keys; already present: 3\n"
    cli("keys", "update", "b", "--name", "changed")
    cli("keys", "delete", "c")
    before = keys_of(url)[:2]

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 1 key; already present: 1\n")
    assert done.err.splitlines()[0] == "error: line 2: its client id 'b' is taken"
    assert keys_of(url)[:2] == before


# --- on a terminal


def test_a_bar_on_a_terminal_and_nowhere_else(
    url: str, other: str, file: Path, tmp_path: Path, terminal: tuple[int, int]
) -> None:
    file.write_bytes(minted_lines(1500))
    exported = tmp_path / "export"
    ours, theirs = terminal
    os.set_blocking(ours, False)
    stdout = subprocess.DEVNULL

    for words, work in (
        (("import", str(file), "--backend", url), b"importing"),
        (("export", str(exported), "--backend", url), b"exporting"),
        (("import", str(exported), "--backend", other), b"checking"),
        (("import", str(exported), "--backend", other, "--json"), b""),
    ):
        with process("keys", *words, stdout=stdout, stderr=theirs, env={"TERM": "xterm"}) as child:
            shown = _shown(ours, child)
        assert child.returncode == 0
        assert work in shown
        assert bool(work) == bool(shown)
    piped = ended("keys", "import", str(exported), "--backend", f"{other}2")
    assert (piped.status, piped.out, piped.err) == (0, "imported 1500 keys\n", "")


def _shown(terminal: int, child: subprocess.Popen[bytes]) -> bytes:
    """All that a program writes to the terminal until it ends."""
    shown = b""

    def is_done() -> bool:
        nonlocal shown
        has_ended = child.poll() is not None
        try:
            shown += os.read(terminal, 1_000_000)
        except BlockingIOError:
            return has_ended
        return False

    eventually(is_done)
    return shown


def test_an_export_to_a_terminal_has_no_bar(url: str, terminal: tuple[int, int]) -> None:
    put(url, Key("a"))
    ours, theirs = terminal

    with process("keys", "export", "--backend", url, stdout=theirs, stderr=theirs) as child:
        child.communicate(timeout=LIMIT_S)

    assert json.loads(os.read(ours, 10_000))["client_id"] == "a"


# --- an end at a bad moment


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_import_says_how_far_it_came(url: str, number: int) -> None:
    put(url, Key("z"))
    with process("keys", "import", "-", "--backend", url, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(minted_lines(2500))
        child.stdin.flush()
        eventually(lambda: len(keys_of(url)) == 2001)  # two batches; the rest waits for more of the pipe
        child.send_signal(number)
        out, err = child.communicate(timeout=LIMIT_S)

    assert (child.returncode, out) == (130, b"")
    assert err == b"stopped after importing 2000 keys; the import can be repeated\n"
    assert len(keys_of(url)) == 2001


def hooked_store(folder: Path, monkeypatch: pytest.MonkeyPatch, *put: str) -> None:
    """Install a store whose ``put`` runs some lines; ``closed`` is set when it is closed."""
    stranger(
        folder,
        monkeypatch,
        "import os, signal, threading",
        "closed = threading.Event()",
        "sent = False",
        "def get(self, client_id): return None",
        "def put(self, record, expect_version):",
        *put,
        "    return True",
        "def close(self): Strange.closed.set()",
        "delete = scan = changes = lambda *arguments: None",
    )


def test_a_batch_that_is_being_written_is_finished_and_counted(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path
) -> None:
    """Ctrl-C waits for the end of the batch."""
    file.write_bytes(minted_lines(1500))
    hooked_store(
        tmp_path,
        monkeypatch,
        "    if not Strange.sent:",
        "        Strange.sent = True",
        "        Strange.os.kill(Strange.os.getpid(), Strange.signal.SIGINT)",
    )

    done = cli("keys", "import", str(file), "--backend", "strange:")

    assert (done.status, done.out) == (130, "")
    assert done.err == "stopped after importing 1000 keys; the import can be repeated\n"


def test_a_second_signal_does_not_wait_for_a_store_that_hangs(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path
) -> None:
    file.write_bytes(minted_lines(1500))
    hooked_store(
        tmp_path,
        monkeypatch,
        "    if not Strange.sent:",
        "        Strange.sent = True",
        "        interrupts = Strange.signal.getsignal(Strange.signal.SIGINT).__self__",
        "        Strange.os.kill(Strange.os.getpid(), Strange.signal.SIGINT)",
        "        while not interrupts.has_signal: pass",
        "        Strange.os.kill(Strange.os.getpid(), Strange.signal.SIGINT)",
        f"        assert Strange.closed.wait({LIMIT_S})",
    )

    done = cli("keys", "import", str(file), "--backend", "strange:")

    assert (done.status, done.out) == (130, "")
    assert done.err == "stopped after importing 0 keys; the import can be repeated\n"


def test_an_import_whose_reader_is_gone_counts_what_it_stored(url: str, file: Path) -> None:
    """Not what it could print of it."""
    file.write_bytes(minted_lines(1500))

    with process("keys", "import", str(file), "--json", "--backend", url) as child:
        assert child.stdout is not None
        child.stdout.close()
        _, err = child.communicate(timeout=LIMIT_S)

    assert child.returncode == 1
    assert err == b"stopped after importing 1000 keys; the import can be repeated\n"
    assert len(keys_of(url)) == 1000


def test_an_import_that_is_killed_leaves_whole_keys(url: str, file: Path) -> None:
    put(url, Key("z"))
    file.write_bytes(minted_lines(20_000))

    with process("keys", "import", str(file), "--backend", url) as child:
        eventually(lambda: len(keys_of(url)) > 1000)
        child.kill()

    left = keys_of(url)
    assert 1000 < len(left) < 20_000
    assert all(len(key.secrets) == 1 for key in left if key.client_id != "z")


def test_an_export_that_is_killed_leaves_the_earlier_one(url: str, file: Path) -> None:
    fill(url, 20_000)
    file.write_text('{"v":1}')

    with process("keys", "export", str(file), "--backend", url) as child:
        eventually(lambda: any(each.stat().st_size for each in _temporary(file)))
        child.kill()

    assert file.read_text() == '{"v":1}'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_export_leaves_nothing_else(url: str, file: Path, number: int) -> None:
    fill(url, 20_000)
    file.unlink()

    with process("keys", "export", str(file), "--backend", url) as child:
        eventually(lambda: any(each.stat().st_size for each in _temporary(file)))
        child.send_signal(number)
        out, err = child.communicate(timeout=LIMIT_S)

    assert (child.returncode, out, err) == (130, b"", b"")
    assert not file.exists()
    assert not list(_temporary(file))


def _temporary(file: Path) -> Iterator[Path]:
    return file.parent.glob(f".{file.name}.*")


def test_a_full_disk_leaves_the_earlier_export(url: str, file: Path) -> None:
    fill(url, 6000)
    file.write_text('{"v":1}')

    done = ended("keys", "export", str(file), "--backend", url, preexec_fn=_no_file_over_1_mb)

    done.failed_with(f"{file}: file too large")
    assert file.read_text() == '{"v":1}'
    assert not list(_temporary(file))


def test_a_full_disk_during_an_import(url: str, file: Path) -> None:
    """One line, and as many whole keys as it says."""
    file.write_bytes(minted_lines(5000))

    done = ended("keys", "import", str(file), "--backend", url, preexec_fn=_no_file_over_1_mb)

    assert (done.status, done.out) == (1, "")
    told, error = done.err.splitlines()
    assert told == f"stopped after importing {len(keys_of(url))} keys; the import can be repeated"
    assert error.startswith("error: ")


def test_a_pipe_that_cannot_be_kept(url: str, file: Path, cli: Callable[..., Done]) -> None:
    """An export from a pipe is spooled, and that needs room."""
    fill(url, 6000)
    cli("keys", "export", str(file))

    done = ended(
        *("keys", "import", "-", "--backend", url),
        stdin=file.read_bytes(),
        preexec_fn=_no_file_over_1_mb,
    )

    done.failed_with("too large")


def _no_file_over_1_mb() -> None:
    # No less: where coverage is measured, its data file of the process has to fit as well.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def test_an_export_to_a_full_disk_is_one_line(url: str) -> None:
    fill(url, 200)

    with Path("/dev/full").open("wb") as full:
        done = ended("keys", "export", "--backend", url, stdout=full)

    done.failed_with("no space left")


# --- size


def peak_kib(*arguments: str, **options: Any) -> int:
    """The most memory that a command line took."""
    code = (
        "import re, sys; from basicauth_mw.cli.app import run; status = run(sys.argv[1:]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr); "
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=6 * LIMIT_S,
        check=True,
        **options,
    )
    return int(done.stderr)


def test_memory_does_not_grow_with_the_number_of_keys(
    url: str, other: str, file: Path, tmp_path: Path
) -> None:
    """Forty thousand take what a thousand take: from a file, to a file, and through a pipe."""
    exported = tmp_path / "export"

    def peaks(count: int) -> list[int]:
        file.write_bytes(minted_lines(count))
        names = [f"{each}-{count}" for each in (url, other)]
        found = [
            peak_kib("keys", "import", str(file), "--backend", names[0]),
            peak_kib("keys", "export", str(exported), "--backend", names[0]),
        ]
        with subprocess.Popen(["cat", exported], stdout=subprocess.PIPE) as cat:
            found.append(peak_kib("keys", "import", "-", "--backend", names[1], stdin=cat.stdout))
        return found

    few = peaks(1000)
    many = peaks(40_000)

    assert all(much - little < FLAT_WITHIN_KIB for much, little in zip(many, few, strict=True)), (few, many)
