"""``keys list``, ``show``, ``update``, ``revoke`` and other changes of keys."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta
from getpass import getuser
from io import BytesIO, TextIOWrapper
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends import LastUse, UsageStore
from basicauth_mw.backends.backend import open_backend
from basicauth_mw.cli._echo import echo_json, isoformat, key_fields
from basicauth_mw.cli._listing import print_table
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import hash_secret
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.cli.helpers import (
    KEY_FIELDS,
    Done,
    ended,
    fill,
    install_third_party_store,
    put,
    run_with_prompts,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


HOSTILE = "\x1b[31m\x9b2J\r\n\u202e[red]x[/red]\u2028:smile:\ud800\x07"


@pytest.mark.parametrize("verb", ["revoke", "delete"])
@pytest.mark.parametrize("answer", [b"y\n", b"n\n", b"\n"])
def test_revoke_and_delete_ask_for_confirmation_on_a_terminal(
    url: str, terminal: tuple[int, int], verb: str, answer: bytes
) -> None:
    put(url, Key("robot", name="\x1b[2Jci"))

    done = run_with_prompts(terminal, "keys", verb, "robot", "--backend", url, responses={b"[y/N] ": answer})

    assert "\x1b" not in done.err
    with open_backend(url) as backend:
        key = backend.get("robot")
    changed = key is None or key.revoked_at is not None
    assert changed == (answer == b"y\n")
    assert done.status == (0 if changed else 1)


def test_yes_skips_the_prompt(url: str, terminal: tuple[int, int]) -> None:
    put(url, Key("robot"))

    done = run_with_prompts(terminal, "keys", "delete", "robot", "--yes", "--backend", url, responses={})

    assert (done.status, done.err) == (0, "")


def test_list_shows_states_by_word(cli: Callable[..., Done], url: str) -> None:
    past, later = utcnow() - timedelta(days=1), utcnow() + timedelta(days=1)
    put(
        url,
        Key("a", name="one", scopes=frozenset({"x", "b"}), expires_at=later),
        Key("b", expires_at=past),
        Key("c", disabled=True),
        Key("d", revoked_at=past, disabled=True, expires_at=past),
        Key("e", secrets=(Secret("$bamw1$", expires_at=past),)),
    )

    lines = cli("keys", "list").out.splitlines()

    assert lines[0].split() == ["ID", "STATE", "EXPIRES", "LAST", "USED", "SCOPES", "NAME"]
    states = [
        next(word for word in line.split() if word in {"active", "expired", "disabled", "revoked"})
        for line in lines[1:]
    ]
    assert states == ["active", "expired", "disabled", "revoked", "expired"]
    assert lines[1].split()[:2] == ["a", "active"]
    assert lines[1].split()[-3:] == ["b", "x", "one"]


def test_a_listed_id_is_never_truncated(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("i" * 255, name="n" * 200, scopes=frozenset({"s" * 255})))

    line = cli("keys", "list").out.splitlines()[1]

    assert line.split() == ["i" * 255, "active", "never", "never", "s" * 255, "n" * 200]


def test_a_long_list_is_one_table(cli: Callable[..., Done], url: str) -> None:
    """It is printed in parts: one header, and columns that keep their positions."""
    fill(url, 1001)
    put(url, Key("!" * 20, name="first"))

    header, *lines = cli("keys", "list").out.splitlines()

    assert len(lines) == 1002
    assert not [line for line in lines if line.startswith("ID")]
    assert {line.index("active") for line in lines} == {header.index("STATE")}


@pytest.mark.parametrize("colours", [True, False])
def test_a_long_list_is_laid_out_as_a_short_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], colours: bool
) -> None:
    """The parts in which it is printed are not visible."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1" if colours else "")
    past = utcnow() - timedelta(days=1)
    kinds: list[dict[str, Any]] = [
        {"name": " \u540d\u524d "},
        {"disabled": True},
        {"expires_at": past, "name": HOSTILE},
        {"revoked_at": past, "scopes": {"read", "write"}},
        {"expires_at": past, "last_used_at": past, "name": "[red]e\u0301[/red]"},
    ]
    keys = [Key(f"{number % 7 * ' '}{number:04}", **kinds[number % 5]) for number in range(1201)]

    print_table(keys)
    printed = capsys.readouterr().out
    monkeypatch.setattr("basicauth_mw.cli._listing._ROWS_PER_PART", 10_000)
    print_table(keys)

    assert printed == capsys.readouterr().out
    assert printed.count("\n") == 1202
    assert ("\x1b[32mactive" in printed) == colours
    assert "\n 0001  " in printed


def test_columns_are_aligned_in_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the encoding of stdout lacks is escaped, and takes more columns."""
    monkeypatch.setenv("NO_COLOR", "1")
    raw = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(raw, encoding="ascii", errors="strict"))

    print_table([Key("\u043a\u043b\u044e\u0447", name="Zo\xeb"), Key("b", name="plain")])
    sys.stdout.flush()

    header, first, second = raw.getvalue().decode().splitlines()
    assert first.split() == [r"\u043a\u043b\u044e\u0447", "active", "never", "never", r"Zo\xeb"]
    assert second.split() == ["b", "active", "never", "never", "plain"]
    assert {line.index("active") for line in (first, second)} == {header.index("STATE")}


bad_records = pytest.mark.parametrize("record", ["'{'", "CAST(x'7bff' AS TEXT)"], ids=["cut", "no-text"])


@bad_records
def test_one_bad_record_does_not_hide_the_others(
    cli: Callable[..., Done], url: str, database: Path, record: str
) -> None:
    put(url, *(Key(name) for name in ("a", "b\x1b", "c", "d")))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"UPDATE keys SET record = {record} WHERE client_id IN (?, 'd')", ("b\x1b",))

    listed = cli("keys", "list", "--json")
    some = cli("keys", "list", "--json", "--limit", "1", "--after", "a")
    table = cli("keys", "list")

    for done, ids in ((listed, ["a", "c"]), (some, ["c"])):
        assert [json.loads(line)["client_id"] for line in done.out.splitlines()] == ids
        assert done.status == 1
    assert [line.split()[0] for line in table.out.splitlines()] == ["ID", "a", "c"]
    *named, last = listed.err.splitlines()
    assert [line.startswith("error: the stored key of") for line in named] == [True, True]
    assert "\x1b" not in listed.err
    assert "keys delete" in last


@bad_records
def test_a_bad_record_can_be_deleted(cli: Callable[..., Done], url: str, database: Path, record: str) -> None:
    put(url, Key("a"))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"UPDATE keys SET record = {record}")

    cli("keys", "show", "a").failed_with("'a'")
    assert cli("keys", "delete", "a").out == "deleted a\n"
    assert cli("keys", "list").out == "no keys\n"


def test_a_bad_record_without_an_id_ends_a_list(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A record without an ID cannot be skipped."""
    install_third_party_store(
        tmp_path,
        monkeypatch,
        "from basicauth_mw.errors import UnreadableRecord",
        "def get(self, client_id): return None",
        "def scan(self, *arguments): raise Strange.UnreadableRecord('a hole')",
    )

    cli("keys", "list", "--backend", "strange:").failed_with("a hole")


def test_when_keys_were_last_used(cli: Callable[..., Done], url: str) -> None:
    """The list shows it for keys, ``show`` for each active secret."""
    made = utcnow() - timedelta(days=9)
    times = [made + timedelta(days=day) for day in range(4)]
    minute = utcnow().replace(second=0, microsecond=0)
    hashed = hash_secret(generate("sk"))
    put(
        url,
        Key(
            "robot",
            secrets=(
                Secret(hashed, times[0], expires_at=times[3]),
                Secret(hashed, times[1], expires_at=utcnow() + timedelta(days=1)),
                Secret(hashed, times[2]),
            ),
        ),
    )
    with open_backend(url) as backend:
        assert isinstance(backend.store, UsageStore)
        backend.store.record_uses([LastUse("robot", times[0], minute - timedelta(days=1))])
        backend.store.record_uses([LastUse("robot", times[1], minute)])

    shown = cli("keys", "show", "robot")
    secrets = [line for line in shown.out.splitlines() if line.startswith("secret ")]

    assert [re.findall("(?:created|last used) ([^,]+)", line) for line in secrets] == [
        [isoformat(times[1]), isoformat(minute)],
        [isoformat(times[2]), "never"],
    ]
    assert cli("keys", "show", "robot", "--json").json["last_used_at"] == isoformat(minute)
    assert minute.strftime("%Y-%m-%d %H:%MZ") in cli("keys", "list").out


def test_update_changes_the_given_options(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("robot", name="ci", scopes=frozenset({"a"}), metadata={"n": 1}))
    before = cli("keys", "show", "robot", "--json").json

    for options, field, value in (
        (("--name", "nightly"), "name", "nightly"),
        (("--name", ""), "name", ""),
        (("--scope", "write", "--scope", "read"), "scopes", ["read", "write"]),
        (("--no-scopes",), "scopes", []),
        (("--expires", "2199-01-31T12:00:00Z"), "expires_at", "2199-01-31T12:00:00Z"),
        (("--expires", "never"), "expires_at", None),
        (("--metadata", '{"n": 2}'), "metadata", {"n": 2}),
        (("--metadata", "{}"), "metadata", {}),
    ):
        before[field] = value
        assert cli("keys", "update", "robot", *options, "--json").json == before
        assert cli("keys", "show", "robot", "--json").json == before
    assert cli("keys", "update", "robot", "--name", "x", "--no-scopes").out == "updated robot\n"
    cli("keys", "update", "robot", "--expires", "2001-01-31T12:00:00Z").failed_with("past")
    cli("keys", "update", "robot", "--scope", "two words").failed_with("scope")
    cli("keys", "update", "unknown", "--name", "x").failed_with("'unknown'")


def test_disable_and_enable(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("robot"))

    for verb, disabled in (("disable", True), ("disable", True), ("enable", False), ("enable", False)):
        assert cli("keys", verb, "robot").out == f"{verb}d robot\n"
        assert cli("keys", verb, "robot", "--json").json["disabled"] is disabled
        assert cli("keys", "show", "robot", "--json").json["disabled"] is disabled
    for verb in ("disable", "enable"):
        cli("keys", verb, "unknown").failed_with("'unknown'")


@pytest.mark.parametrize("words", ["enable robot", "rotate robot", "update robot --name x"])
def test_revoked_is_final(cli: Callable[..., Done], url: str, words: str) -> None:
    put(url, Key("robot", revoked_at=utcnow()))

    cli("keys", *words.split()).failed_with("final")


def test_list_pages(cli: Callable[..., Done], url: str) -> None:
    put(url, *(Key(name) for name in ("a1", "a2", "a3", "b1")))

    def ids(*options: str) -> list[str]:
        return [
            json.loads(line)["client_id"] for line in cli("keys", "list", "--json", *options).out.splitlines()
        ]

    assert ids() == ["a1", "a2", "a3", "b1"]
    assert ids("--prefix", "a") == ["a1", "a2", "a3"]
    assert ids("--prefix", "a", "--after", "a1", "--limit", "1") == ["a2"]
    assert "no keys" in cli("keys", "list", "--prefix", "z").out


def test_list_selects_keys(cli: Callable[..., Done], url: str) -> None:
    now = utcnow()
    old = now - timedelta(days=100)
    put(
        url,
        Key("a", name="Acme", scopes={"read"}),
        Key("b", name="acme old", created_at=old),
        Key("c", disabled=True, scopes={"read", "write"}),
        Key("d", revoked_at=now),
    )

    def ids(*options: str) -> list[str]:
        return [
            json.loads(line)["client_id"] for line in cli("keys", "list", "--json", *options).out.splitlines()
        ]

    assert ids("--name", "ACME") == ["a", "b"]
    assert ids("--name", "ACME", "--limit", "1") == ["a"]
    assert ids("--name", "acme", "--after", "a") == ["b"]
    assert ids("--state", "revoked") == ["d"]
    assert ids("--scope", "read") == ["a", "c"]
    assert ids("--scope", "read", "--state", "disabled") == ["c"]
    assert ids("--unused", "90d") == ["b"]
    assert ids("--unused", "200d") == []
    assert ids("--unused", "999999999999999w") == []
    assert "no keys" in cli("keys", "list", "--name", "nothing").out
    for options in (["--state", "gone"], ["--unused", "soon"]):
        assert cli("keys", "list", *options).status == 2


def test_expiring_exits_with_status_3(cli: Callable[..., Done], url: str) -> None:
    now = utcnow()
    put(
        url,
        Key("a", expires_at=now + timedelta(days=10)),
        Key("b", expires_at=now + timedelta(days=20)),
        Key("c", expires_at=now - timedelta(days=1)),
        Key("d", secrets=(Secret("x", now, now + timedelta(days=1)),)),
        Key("e", expires_at=now + timedelta(days=1), disabled=True),
    )

    found = cli("keys", "expiring", "--json")
    assert found.status == 3
    assert [json.loads(line)["client_id"] for line in found.out.splitlines()] == ["a", "d"]
    assert [line.split()[0] for line in cli("keys", "expiring", "--within", "30d").out.splitlines()] == [
        *("ID", "a", "b", "d"),
    ]
    none = cli("keys", "expiring", "--within", "1h")
    assert (none.status, none.out) == (0, "no keys\n")
    assert cli("keys", "expiring", "--within", "1h", "--json").out == ""
    assert cli("keys", "expiring", "--within", "never").status == 2


def test_end_secret(cli: Callable[..., Done], url: str) -> None:
    now = utcnow().replace(microsecond=123456)
    first, second = (Secret(name, now + timedelta(seconds=offset)) for offset, name in enumerate("xy"))
    put(url, Key("robot", secrets=(first, second)))
    shown = cli("keys", "show", "robot", "--json").json["secrets"]

    done = cli("keys", "end-secret", "robot", "--created", shown[0]["created_at"])

    assert done.out == "ended a secret of robot\n"
    ends = [each["expires_at"] for each in cli("keys", "show", "robot", "--json").json["secrets"]]
    assert ends[0] is not None
    assert ends[1] is None
    cli("keys", "end-secret", "robot", "--created", "2020-01-01T00:00:00Z").failed_with("no secret")
    assert cli("keys", "end-secret", "robot", "--created", "yesterday").status == 2
    assert cli("keys", "end-secret", "robot").status == 2


def test_history(cli: Callable[..., Done], url: str) -> None:
    with open_backend(url, create=True) as backend:
        backend.create(client_id="robot", actor="a\x1b[2J")
        backend.rotate("robot", actor="b")
    put(url, Key("other"))
    cli("keys", "disable", "robot")

    lines = [json.loads(line) for line in cli("keys", "history", "robot", "--json").out.splitlines()]
    shown = cli("keys", "history", "robot").out.splitlines()

    user = getuser()
    assert [(line["event"], line["actor"]) for line in lines] == [
        ("key.disabled", user),
        ("key.rotated", "b"),
        ("key.created", "a\\x1b[2J"),
    ]
    assert [list(line) for line in lines] == [["event", "actor", "time"]] * 3
    assert all(line["time"].endswith("Z") for line in lines)
    assert [line.split() for line in shown] == [
        [line["time"], line["event"], line["actor"]] for line in lines
    ]
    assert cli("keys", "history", "other").out == "no changes are recorded\n"
    assert cli("keys", "history", "other", "--json").out == ""
    cli("keys", "history", "unknown").failed_with("there is no key")


def test_show_revoke_and_delete(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("robot", name="ci", metadata={"n": 1}))

    shown = cli("keys", "show", "robot", "--json").json
    revoked = cli("keys", "revoke", "robot", "--json").json
    again = cli("keys", "revoke", "robot", "--json").json
    words = cli("keys", "show", "robot").out
    deleted = cli("keys", "delete", "robot", "--json").json

    assert list(shown) == KEY_FIELDS
    assert revoked == shown | {"revoked_at": revoked["revoked_at"]} == again == deleted
    assert revoked["revoked_at"].endswith("Z")
    assert re.search(r"^state +revoked$", words, re.MULTILINE)
    assert '{"n": 1}' in words
    for verb in ("show", "revoke", "delete"):
        cli("keys", verb, "robot").failed_with("'robot'")


def test_revoke_and_delete_report_the_change(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("robot"))

    assert cli("keys", "revoke", "robot").out == "revoked robot\n"
    assert cli("keys", "delete", "robot").out == "deleted robot\n"


def test_control_characters_are_escaped(cli: Callable[..., Done], url: str) -> None:
    visible = HOSTILE.replace("\ud800", "")
    put(url, Key("id\u202e", name=visible, scopes=frozenset({"\x1b[1m"}), metadata={"\x1b": "\u202e"}))

    outputs = [
        cli("keys", "list").out,
        cli("keys", "list", "--json").out,
        cli("keys", "show", "id\u202e").out,
        cli("keys", "show", "no\x1b[2Jbody").err,
        cli("keys", "revoke", "id\u202e").out,
    ]

    for output in outputs:
        assert not [character for character in output if not character.isprintable() and character != "\n"]
    for output in (outputs[0], outputs[2]):
        assert "[red]x[/red]" in output
        assert ":smile:" in output
        assert r"\x1b[31m\x9b2J\r\n\u202e" in output


def test_read_only_metadata_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    view = MappingProxyType({"team": MappingProxyType({"id": 7})})

    echo_json(key_fields(Key("robot", metadata=view)))

    assert json.loads(capsys.readouterr().out)["metadata"] == {"team": {"id": 7}}


def test_a_name_that_the_locale_cannot_encode_is_escaped(url: str) -> None:
    put(url, Key("robot", name="\u540d\u524d"))

    done = ended("keys", "list", "--backend", url, env={"PYTHONIOENCODING": "ascii"})

    assert done.status == 0
    assert r"\u540d\u524d" in done.out
