"""``keys import``: the three formats, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import encode_basic
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import hash_secret
from basicauth_mw.keys.model import Key
from tests.cli.helpers import KEY_FIELDS, Done, put
from tests.cli.transfer.helpers import BCRYPT, CANARY, generated_lines, keys_of, works
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
    file.write_bytes(generated_lines(2) + b"nonsense\n")

    done = cli("keys", "import", str(file), "--json")

    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [list(line) for line in lines] == [KEY_FIELDS] * 2
    assert done.status == 1
    assert done.err.splitlines()[0] == "error: line 3: expected the columns id,secret"


def test_passwords_and_hashes(cli: Callable[..., Done], url: str, file: Path) -> None:
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
    """bcrypt hashes are imported; other lines are refused one by one, with the name of their scheme."""
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
    refused = "hashes of this kind are not accepted, only Argon2id and bcrypt (htpasswd -B)"
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


@pytest.mark.parametrize("as_json", [False, True])
def test_new_secrets_for_users_whose_hash_cannot_be_imported(
    cli: Callable[..., Done], url: str, file: Path, as_json: bool
) -> None:
    file.write_bytes(
        b"# users\n"
        b"good:%s\n"
        b"apr:$apr1$gVvtdYlg$%s\n"
        b"sha:{SHA}%s\n"
        b"plain:%s\n"
        b"costly:$argon2id$v=19$m=99999999,t=99,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA\n"
        b"bad\x01id:%s\n"
        b"nonsense\n"
        b"sha:{SHA}again\n" % (BCRYPT, *[CANARY.encode()] * 4)
    )

    done = cli("keys", "import", str(file), "--new-secrets", *(["--json"] if as_json else []))

    assert done.status == 1
    refused = [line for line in done.err.splitlines() if ": line " in line]
    assert [line.split(": ")[1] for line in refused] == ["line 7", "line 8", "line 9"]
    assert "its client ID 'sha' is taken: line 4 has it too" in done.err
    assert CANARY not in done.err + done.out
    lines = done.out.splitlines()
    if as_json:
        printed = [json.loads(line) for line in lines]
        assert [each["client_id"] for each in printed] == ["good", "apr", "sha", "plain", "costly"]
        assert "secret" not in printed[0]
        secrets = {each["client_id"]: each["secret"] for each in printed[1:]}
        assert all(
            encode_basic(each["client_id"], each["secret"]) == each["authorization"] for each in printed[1:]
        )
    else:
        assert "imported 5 keys" in done.err.splitlines()
        secrets = dict(line.split(":") for line in lines)
    assert list(secrets) == ["apr", "sha", "plain", "costly"]
    for client_id, secret in secrets.items():
        assert works(url, client_id, secret)

    again = cli("keys", "import", str(file), "--new-secrets", *(["--json"] if as_json else []))
    assert again.out == "", "no secret is changed"


def test_a_new_secret_is_printed_only_for_the_key_that_has_it(
    cli: Callable[..., Done], url: str, file: Path
) -> None:
    file.write_bytes(b"both:%s\nboth:{SHA}x\nother:{SHA}x\n" % BCRYPT)

    done = cli("keys", "import", str(file), "--new-secrets")

    (other,) = done.out.splitlines()
    assert works(url, *other.split(":"))
    assert other.partition(":")[0] == "other"
    assert "imported 2 keys" in done.err.splitlines()
    assert "its client ID 'both' is taken: line 1 has it too" in done.err


@pytest.mark.parametrize("locked", ["!", "*", "", " ", "!$apr1$gVvtdYlg$x", "*{SHA}x"])
def test_a_locked_user_gets_no_new_secret(
    cli: Callable[..., Done], url: str, file: Path, locked: str
) -> None:
    file.write_bytes(b"user:%s\ngood:%s\n" % (locked.encode(), BCRYPT))

    done = cli("keys", "import", str(file), "--new-secrets")

    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: line 1: the user is locked\nimported 1 key\n")
    assert [key.client_id for key in keys_of(url)] == ["good"]


@pytest.mark.parametrize("content", ["a,b\n", ""])
def test_new_secrets_are_for_htpasswd_only(cli: Callable[..., Done], file: Path, content: str) -> None:
    file.write_text(content)
    done = cli("keys", "import", str(file), "--new-secrets", "--format", "csv")

    assert (done.status, done.out) == (1, "")
    assert done.err == "error: --new-secrets is for htpasswd files, but this is read as csv\n"


def test_the_format_can_be_named(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(b"a:b,%s\n" % BCRYPT)  # valid in both formats

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
def test_a_header_is_not_a_key(cli: Callable[..., Done], url: str, file: Path, header: str) -> None:
    """Whatever the names of its columns, in any case, with blanks; such a key could be guessed by anyone."""
    file.write_text(f"{header}\na,{generate('sk')}\n")

    done = cli("keys", "import", str(file))

    assert (done.status, done.out, done.err) == (0, "imported 1 key\n", "")
    assert [key.client_id for key in keys_of(url)] == ["a"]


@pytest.mark.parametrize("before", ["# made by hand", "\ufeff# id,secret", "Our users, in 2030,", ",x"])
def test_a_header_after_invalid_lines_is_not_a_key(
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
    """In quotes, with a generated secret, with a hash, or after the first line."""
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
    "blank after": f"x,{CANARY} \n",
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
    """The rest is imported; no output contains the line, in any form that a terminal interprets."""
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
def test_a_field_that_is_far_too_long_is_named_as_such(
    cli: Callable[..., Done], file: Path, line: str
) -> None:
    """The CSV reader itself fails on it."""
    file.write_text(f"good,{generate('sk')}\n{line}\n")

    done = cli("keys", "import", str(file))

    assert done.err.startswith("error: line 2: a value is far longer than an ID or a secret may be\n")
    assert CANARY not in done.err


def test_bytes_that_are_not_text_are_refused(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(b"good,%s\nx,\xff\xfe\n" % generate("sk").encode())

    done = cli("keys", "import", str(file))

    assert done.out == "imported 1 key\n"
    assert "line 2: not UTF-8" in done.err


def test_keys_with_taken_ids_are_unchanged(cli: Callable[..., Done], url: str, file: Path) -> None:
    """In the backend or earlier in the same file, with a password or a generated secret."""
    put(url, Key("a", name="mine"))
    file.write_text(f"a,{generate('sk')}\na,a password\nb,{generate('sk')}\nb,{generate('sk')}\n")
    before = keys_of(url)

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 1 key\n")
    assert done.err.splitlines()[:-1] == [
        "error: line 1: its client ID 'a' is taken",
        "error: line 2: its client ID 'a' is taken: line 1 has it too",
        "error: line 4: its client ID 'b' is taken: line 3 has it too",
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


OTHER_FORMATS = {
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


@pytest.mark.parametrize("data", OTHER_FORMATS.values(), ids=OTHER_FORMATS)
@pytest.mark.parametrize("piped", [True, False])
def test_a_file_of_another_kind_is_refused_as_a_whole(
    cli: Callable[..., Done], database: Path, file: Path, data: bytes, piped: bool
) -> None:
    file.write_bytes(data)

    done = cli("keys", "import", "-", stdin=data) if piped else cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "")
    assert 1 <= len(done.err.splitlines()) <= 2
    assert CANARY not in done.err
    assert not database.exists()


def test_a_file_that_cannot_be_read(cli: Callable[..., Done], database: Path, tmp_path: Path) -> None:
    cli("keys", "import", str(tmp_path / "nothing")).failed_with("nothing: no such file")
    cli("keys", "import", str(tmp_path)).failed_with("is a directory")
    assert not database.exists()


def test_a_read_only_backend_is_refused_before_any_work(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2")
    file.write_bytes(generated_lines(1))

    cli("keys", "import", str(file), "--backend", "env:").failed_with(
        "this backend is read-only: edit the file or variable that has its keys, or use"
    )


def test_a_backend_that_is_down(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(generated_lines(1))

    cli("keys", "import", str(file), "--backend", f"redis://127.0.0.1:{free_port()}").failed_with("")


@pytest.mark.parametrize(
    ("mode", "text", "warned"),
    [
        (0o644, "a,{generated}\n", True),
        (0o640, "a,{generated}\n", True),
        (0o600, "a,{generated}\n", False),
        (0o644, "a,{hashed}\n", False),
        (0o644, "a:{hashed}\nb:plain\n", False),
        (0o644, "root:x:0:0:root:/root:/bin/sh\n", False),
        (0o644, "Prose, with commas\nNothing, but prose\n", False),
        (0o644, "id,secret\na:b,plain\n", True),
        (0o644, "a, plain\n", False),
        (0o644, "id,secret\na, plain\n", True),
        (0o644, "a,{generated},name\n", True),
        (0o644, "id,secret\n", False),
    ],
)
def test_a_file_with_secrets_that_others_can_read_is_a_warning(
    cli: Callable[..., Done], file: Path, mode: int, text: str, warned: bool
) -> None:
    file.write_text(text.format(generated=generate("sk"), hashed=BCRYPT.decode()))
    file.chmod(mode)

    done = cli("keys", "import", str(file))

    assert ("warning: other users can read" in done.err) == warned
