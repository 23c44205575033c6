"""``check``: it reports every problem once, with a remedy, and never a secret."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from basicauth_mw import Settings, open_backend
from basicauth_mw.backends.redis.url import _SCHEMES
from basicauth_mw.cli._urls import without_secrets
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_secret
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.cli.helpers import LIMIT_S, ROOT, Done, fill, install_third_party_store, process, put
from tests.redis_server import RedisServer
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _https(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, every check warns about plain HTTP."""
    monkeypatch.setenv("BASICAUTH_REQUIRE_HTTPS", "on")


APPS = """
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from basicauth_mw import Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.integrations.flask import BasicAuth

bare = FastAPI()
installed = FastAPI()
install(installed, "env:APP_KEYS", allow_preflight=True)
added = Starlette(middleware=[Middleware(BasicAuthMiddleware, backend="env:APP_KEYS", realm="added")])
wrapped = BasicAuthMiddleware(FastAPI(), "env:APP_KEYS", require_https=True)

def make():
    flask = Flask("made")
    flask.config["BASICAUTH_BACKEND"] = "env:APP_KEYS"
    BasicAuth(flask)
    return flask
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("installed", {"plain_http", "preflights_run_handlers", "short_password"}),
        ("added", {"plain_http", "short_password"}),
        ("wrapped", {"short_password"}),
        ("make()", {"plain_http", "short_password"}),
    ],
)
def test_check_inspects_an_app(
    cli: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: set[str]
) -> None:
    """With the app's own settings and backend, not those of the environment."""
    (tmp_path / "checked_apps.py").write_text(APPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("APP_KEYS", "a:b")
    monkeypatch.delenv("BASICAUTH_REQUIRE_HTTPS")
    monkeypatch.setenv("BASICAUTH_BACKEND", "env:NOT_SET")
    done = cli("check", "--app", f"checked_apps:{name}", "--json")
    assert done.json["ok"] is True
    assert {each["code"] for each in done.json["warnings"]} == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [("bare", "serves every request without a key"), ("nowhere", "has no attribute"), ("no:way:", "--app")],
)
def test_check_reports_an_app_that_is_not_protected(
    cli: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "checked_apps.py").write_text(APPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("APP_KEYS", "a:b")
    done = cli("check", "--app", f"checked_apps:{name}", "--json")
    assert done.status == 1
    (problem,) = done.json["problems"]
    assert message in problem["message"]


def test_check_warns_about_short_passwords_and_plain_http(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BASICAUTH_REQUIRE_HTTPS")
    monkeypatch.setenv("BASICAUTH_KEYS", "a:canary-pw,b:long enough to be one")
    done = cli("check", "--backend", "env:")
    assert done.status == 0
    assert "passwords of fewer than 12 characters in BASICAUTH_KEYS: 1" in done.out
    assert "plain HTTP" in done.out
    assert "canary" not in done.out


def test_a_short_password_is_logged_when_it_is_set(caplog: pytest.LogCaptureFixture) -> None:
    with open_backend("memory:", settings=Settings()) as backend:
        backend.create(client_id="a", secret="canary")
        backend.rotate("a", secret="canary two", overlap_s=0)
        backend.create(client_id="b", secret="long enough to be one")
        backend.create(client_id="c")
    records = [record for record in caplog.records if record.name == "basicauth_mw"]
    assert [record.levelname for record in records] == ["WARNING", "WARNING"]
    assert "canary" not in caplog.text


def test_check_finds_no_problem(cli: Callable[..., Done], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("keys", "create")
    monkeypatch.setenv("BASICAUTH_PEPPER", "hunter2")

    done = cli("check", "--json")

    assert done.status == 0
    assert list(done.json) == ["ok", "problems", "warnings"]
    assert done.json["ok"] is True
    assert done.json["problems"] == []
    said = cli("check").out
    assert said.splitlines()[-1] == "ok"
    assert url in said
    assert "hunter2" not in said


@pytest.mark.proves("F17")
@pytest.mark.parametrize("as_json", [True, False])
def test_check_reports_a_missing_file(cli: Callable[..., Done], as_json: bool) -> None:
    done = cli("check", "--json") if as_json else cli("check")

    assert done.status == 1
    if as_json:
        assert done.json["ok"] is False
        (problem,) = done.json["problems"]
        assert list(problem) == ["code", "message", "remedy"]
        assert all(problem.values())
        assert problem["remedy"] == "run  basicauth-mw keys create, or correct the setting"
    else:
        assert "problem: " in done.out


@pytest.mark.parametrize(
    ("keys", "word"), [([], "no key"), ([Key("a", disabled=True), Key("b", revoked_at=utcnow())], "only")]
)
def test_check_requires_a_key_that_works(
    cli: Callable[..., Done], url: str, keys: list[Key], word: str
) -> None:
    put(url, Key("x"), *keys)
    cli("keys", "delete", "x")

    done = cli("check", "--json")

    assert done.status == 1
    (problem,) = done.json["problems"]
    assert problem["code"] == "no_active_key"
    assert word in problem["message"]
    assert "keys create" in problem["remedy"]


def test_check_reports_every_bad_setting(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_CACHE_SIZE", "hunter2")
    monkeypatch.setenv("BASICAUTH_TIMEOUT_S", "hunter2")

    done = cli("check", "--json")

    assert done.status == 1
    assert [problem["code"] for problem in done.json["problems"]] == ["configuration_error"] * 2
    assert "hunter2" not in done.out


@pytest.mark.proves("F1")
def test_check_reports_a_backend_that_is_down(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_BACKEND", f"redis://user:hunter2@127.0.0.1:{free_port()}/0")

    for options in (("--json",), ()):
        done = cli("check", *options)
        assert done.status == 1
        assert "hunter2" not in done.out + done.err
        assert "backend_unavailable" in done.out or not options
        assert "file" not in done.out


def test_check_reads_an_environment_of_keys(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2-and-more")

    assert cli("check", "--json", "--backend", "env:").json == {"ok": True, "problems": [], "warnings": []}


def test_check_names_the_invalid_lines_of_a_key_file(cli: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("robot:hunter2\nhunter2\nrobot:hunter3\n")

    done = cli("check", "--json", "--backend", f"file:{path}")

    (problem,) = done.json["problems"]
    assert problem["message"] == (
        f"the key file {path} is invalid: line 2: is not id:secret; line 3: the client ID occurs twice"
    )
    assert problem["remedy"].startswith("correct the file")
    assert "hunter" not in done.out + done.err
    path.write_text("robot:hunter2-and-more\n")
    path.chmod(0o640)
    assert cli("check", "--json", "--backend", f"file:{path}").json == {
        "ok": True,
        "problems": [],
        "warnings": [],
    }


def test_check_warns_about_a_key_file_that_others_can_read(cli: Callable[..., Done], tmp_path: Path) -> None:
    """Unless it has hashes only."""
    path = tmp_path / "my keys"
    for secret, expected in (
        (generate("sk"), ["key_file_readable_by_others"]),
        (hash_secret(generate("sk")), []),
    ):
        path.write_text(f"ci:{secret}\n")
        path.chmod(0o644)
        done = cli("check", "--json", "--backend", f"file:{path}".replace(" ", "%20"))
        assert [each["code"] for each in done.json["warnings"]] == expected
        assert all(f"chmod o= '{path}'" in each["remedy"] for each in done.json["warnings"])


def test_check_reports_an_unknown_pepper_in_a_key_file(
    cli: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ci:{Hasher([b'hunter2']).hash(generate('sk'))}\nother:{hash_secret(generate('sk'))}\n")
    (problem,) = cli("check", "--json", "--backend", f"file:{path}").json["problems"]
    assert problem["code"] == "unknown_pepper"
    assert "'ci'" in problem["message"]
    assert "rotate" not in problem["remedy"]
    monkeypatch.setenv("BASICAUTH_PEPPER", "hunter2")
    assert cli("check", "--json", "--backend", f"file:{path}").json["problems"] == []


def test_check_shows_what_is_set_and_warns(
    cli: Callable[..., Done], database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("keys", "create")
    database.chmod(0o644)
    monkeypatch.setenv("BASICAUTH_EXCLUDE", "/health,/docs/*")
    monkeypatch.setenv("BASICAUTH_OPTIONAL", "/feed")

    done = cli("check", "--json")
    said = cli("check")

    assert done.status == said.status == 0
    assert done.json["ok"] is True
    (warning,) = done.json["warnings"]
    assert list(warning) == ["code", "message", "remedy"]
    assert f"warning: {warning['message']}" in said.out
    assert re.search(r"^exclude +/health, /docs/\*$", said.out, re.MULTILINE)
    assert "\nopen without credentials: '/health', '/docs/*'\n" in said.out
    assert "\ncredentials are optional: '/feed'\n" in said.out


def test_check_warns_about_open_paths_below_an_included_one(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2-and-more")
    monkeypatch.setenv("BASICAUTH_INCLUDE", "/api,/me,/me/*,/v1/*")

    warnings = cli("check", "--json", "--backend", "env:").json["warnings"]
    (warning,) = [each for each in warnings if each["code"] == "include_leaves_paths_open"]
    assert warning["message"].startswith("include has /api, which does not cover the paths below it")
    assert warning["remedy"] == "also include /api/*"
    assert "\nopen without credentials: every path except" in cli("check", "--backend", "env:").out


def test_check_prints_bad_settings_for_people(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_CACHE_SIZE", "hunter2")

    done = cli("check")

    assert done.status == 1
    assert done.out.startswith("problem: BASICAUTH_CACHE_SIZE")
    assert done.err.startswith("error: ")


def test_check_works_on_a_store_that_cannot_list_its_keys(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_third_party_store(tmp_path, monkeypatch, "def get(self, client_id): return None")

    assert cli("check", "--json", "--backend", "strange:").json["ok"] is True
    cli("keys", "list", "--backend", "strange:").failed_with("list")


def test_check_reports_password_hashes_that_cannot_be_verified(
    cli: Callable[..., Done], url: str, without: Callable[..., Callable[..., Done]]
) -> None:
    cli("keys", "create", "--secret-stdin", stdin=b"correct horse battery")

    done = without("argon2")("check", "--json", "--backend", url)

    (problem,) = done.json["problems"]
    assert problem["code"] == "missing_extra"
    assert "basicauth_mw[passwords]" in problem["remedy"]


def test_check_reports_a_missing_driver(without: Callable[..., Callable[..., Done]]) -> None:
    done = without("redis")("check", "--json", "--backend", "redis://127.0.0.1")

    (problem,) = done.json["problems"]
    assert problem["code"] == "missing_extra"
    assert "basicauth_mw[redis]" in problem["remedy"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:canary@h/0",
        "redis://:can/ary@h/0",
        "rediss:/:canary@h/0",
        "redis://h/0?password=canary",
        "redis://:canary?pw@127.0.0.1:1/0",
        "redis://app:canary",
        "unix://u:canary?@/x",
        "unix:///canary@/run/redis.sock",
        "redis://h/0?password=can@ary",
        "redis://app:12?prefix=canary@h",
        "sqlite://u:canary@h/keys.db",
        "env:demo:canary",
        "file:demo:canary",
        "file://demo:canary@h/keys",
        "memory:canary",
        "canary",
        "canary:",
    ],
)
def test_check_never_shows_a_password_however_the_url_is_written(cli: Callable[..., Done]) -> None:
    done = cli("check")

    assert done.status == 1
    assert "canary" not in done.out + done.err
    assert "ary@" not in done.out + done.err


@settings(max_examples=300, deadline=None)
@given(
    scheme=st.sampled_from(sorted(_SCHEMES)),
    parts=st.lists(st.text(":/?#@[]%,&=.-_ 0123", max_size=4), min_size=1, max_size=4),
    userinfo=st.sampled_from(["{}", ":{}", "user:{}", "{}:pw", "{}:", "us@er:{}", "user:{}:1", "1:{}"]),
    suffix=st.sampled_from(
        ["", "h", "h:1/0", "a:1,b:2/main/0", "/run/redis.sock", "[::1]:1", "h/0?prefix=x", "?@h"]
    ),
)
def test_check_never_shows_user_and_password(
    scheme: str, parts: list[str], userinfo: str, suffix: str
) -> None:
    """Wherever the secret is before the @, and even if its characters should have been encoded."""
    secret = f"canary{'canary'.join(parts)}canary"

    assert "canary" not in without_secrets(f"{scheme}://{userinfo.format(secret)}@{suffix}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h:6379/0", "redis://h:6379/0"),
        ("REDISS://[::1]:6379/0?prefix=x", "REDISS://[::1]:6379/0"),
        ("redis+sentinel://u:p@a.example:1,b-2:2/main/0", "redis+sentinel://a.example:1,b-2:2/main/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("unix:///run/redis socket", "unix:..."),
        ("unix:///run/redis%20socket", "unix:///run/redis%20socket"),
        ("redis://u:p@h:1/0?username=@", "redis:..."),
        ("sqlite:////var/lib/a:b@c.db", "sqlite:////var/lib/a:b@c.db"),
        ("file:/etc/keys?format=json", "file:/etc/keys?format=json"),
        ("file:demo:pass", "file:..."),
        ("env:", "env:"),
        ("env:HOME", "env:HOME"),
        ("strange://h/x", "strange:..."),
        ("stranger:x", "..."),
    ],
)
def test_check_shows_the_backend_without_credentials(
    url: str, shown: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_third_party_store(tmp_path, monkeypatch)
    monkeypatch.setenv("HOME", "/")

    assert without_secrets(url) == shown


def test_check_prints_the_same_remedy_once(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE_SIZE", "TIMEOUT_S", "CACHE_TTL_S"):
        monkeypatch.setenv(f"BASICAUTH_{name}", "hunter2")

    said = cli("check").out.splitlines()

    assert [line.partition(":")[0] for line in said[:-1]] == ["problem"] * 3
    assert said[-1] == "  -> correct the setting"
    assert len({problem["remedy"] for problem in cli("check", "--json").json["problems"]}) == 1


def test_check_requires_the_pepper_of_the_keys(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_PEPPER", "hunter2")
    cli("keys", "create")
    assert cli("check").status == 0
    monkeypatch.setenv("BASICAUTH_PEPPER", "another")

    done = cli("check", "--json")

    (problem,) = done.json["problems"]
    assert problem["code"] == "unknown_pepper"
    assert "BASICAUTH_PEPPER" in problem["remedy"]
    monkeypatch.setenv("BASICAUTH_PEPPER", "another,hunter2")
    assert cli("check").status == 0


@pytest.mark.proves("F12")
def test_check_reports_a_record_that_cannot_be_read(
    cli: Callable[..., Done], url: str, database: Path
) -> None:
    put(url, Key("a"))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE keys SET record = '{'")

    (problem,) = cli("check", "--json").json["problems"]

    assert "'a'" in problem["message"]
    assert "keys delete" in problem["remedy"]


def test_check_reads_all_keys(
    cli: Callable[..., Done], url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every page: keys that cannot be verified are counted, and the first few are named."""
    monkeypatch.setenv("BASICAUTH_PEPPER", "hunter2")
    for name in ("000", "zzz"):
        cli("keys", "create", "--client-id", name)
    hashed = {
        "lost": Hasher([b"lost"]).hash(generate("sk")),
        "bad": "$bamw1$0$",
        "hole": "",
        generate("sk"): Hasher([b"lost"]).hash(generate("sk")),
    }
    fill(url, 600)
    put(
        url,
        *(Key(f"{kind}{n}", secrets=(Secret(each),)) for kind, each in hashed.items() for n in range(7)),
        Key("m", secrets=(Secret(hashed["lost"], created_at=utcnow() - timedelta(days=1)), Secret("$2x$"))),
        Key("over", secrets=(Secret(hashed["lost"]),), revoked_at=utcnow()),
    )
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE keys SET record = '{' WHERE client_id LIKE 'hole%'")

    done = cli("check", "--json")

    assert done.status == 1
    assert done.json["warnings"] == []
    hole, bad, lost = done.json["problems"]
    assert hole["message"] == (
        "7 stored keys cannot be read: 'hole0', 'hole1', 'hole2', 'hole3', 'hole4' and 2 more"
    )
    assert bad["message"] == (
        "damaged hashes, so 8 keys cannot be verified: 'bad0', 'bad1', 'bad2', 'bad3', 'bad4' and 3 more"
    )
    assert lost["code"] == "unknown_pepper"
    assert lost["message"].startswith("a pepper is not configured, so 14 keys cannot be verified: 'lost0', ")
    assert "rotate ID --overlap 0" in lost["remedy"]
    assert "3 problems" in done.err
    assert "hole4" in cli("check").out


def test_check_never_prints_a_secret_used_as_an_id(cli: Callable[..., Done], url: str) -> None:
    """The ID and the secret were swapped."""
    secret = generate("sk")
    put(url, Key(secret, secrets=(Secret("$bamw1$"),)))

    done = cli("check", "--json")

    assert "sk_..." in done.out
    assert secret not in done.out


def test_check_reports_that_it_has_not_read_all_keys(
    cli: Callable[..., Done], url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basicauth_mw.cli.check._SCAN_BUDGET_S", 0)
    put(url, *(Key(name, secrets=(Secret(hash_secret(generate("sk"))),)) for name in ("a", "b", "c")))

    done = cli("check", "--json")
    every = cli("check", "--json", "--all")

    assert done.status == every.status == 0
    (warning,) = done.json["warnings"]
    assert warning["code"] == "keys_not_looked_at"
    assert warning["message"] == "not every key was checked, only 1 key in 0 s"
    assert every.json["warnings"] == []
    cli("keys", "revoke", "a")
    assert cli("check", "--json").json["problems"] == []  # there may be one after it
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE keys SET record = '{'")
    assert "'a'" in cli("check", "--json").json["problems"][0]["message"]
    assert "3 stored keys" in cli("check", "--json", "--all").json["problems"][0]["message"]


def test_check_reports_what_it_found_before_the_store_failed(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_third_party_store(
        tmp_path,
        monkeypatch,
        "from basicauth_mw import Key, Secret",
        "def get(self, client_id): return None",
        "def scan(self, prefix, after, limit):",
        "    if after: raise OSError",
        "    return [Strange.Key(f'k{n:03}', secrets=[Strange.Secret('$1$')]) for n in range(limit)]",
    )

    done = cli("check", "--json", "--backend", "strange:")

    assert [problem["code"] for problem in done.json["problems"]] == [
        "backend_unavailable",
        "unexpected_error",
    ]
    assert "64 keys" in done.json["problems"][0]["message"]


def test_check_shows_a_bar_on_a_terminal(url: str, terminal: tuple[int, int]) -> None:
    fill(url, 1000)
    ours, theirs = terminal

    with process("check", "--backend", url, stderr=theirs, env={"TERM": "xterm"}) as child:
        out, _ = child.communicate(timeout=LIMIT_S)

    assert b"ok" in out
    assert b"checking" in os.read(ours, 1_000_000)


def test_check_reports_that_an_older_file_needs_an_upgrade(cli: Callable[..., Done], database: Path) -> None:
    """It changes nothing; every other command upgrades the file, and reports it."""
    shutil.copy(ROOT / "tests" / "data" / "sqlite-v1.db", database)
    database.chmod(0o600)
    before = database.read_bytes()

    done = cli("check", "--json")

    (problem,) = done.json["problems"]
    assert "version 1" in problem["message"]
    assert problem["remedy"] == "run  basicauth-mw check --upgrade"
    assert database.read_bytes() == before
    listed = cli("keys", "list", "--json")
    assert listed.status == 0
    assert len(listed.err.splitlines()) == 1
    assert cli("keys", "list", "--json").err == ""


def test_check_upgrades_an_older_file_on_request(cli: Callable[..., Done], database: Path) -> None:
    shutil.copy(ROOT / "tests" / "data" / "sqlite-v1.db", database)
    database.chmod(0o600)

    done = cli("check", "--upgrade", "--json")

    assert (done.status, done.json["problems"]) == (0, [])
    assert "upgraded" in done.err
    assert cli("check", "--upgrade", "--json").err == ""


def test_check_reports_a_newer_file(cli: Callable[..., Done], database: Path) -> None:
    cli("keys", "create")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")

    for words in (("check",), ("keys", "list"), ("keys", "create")):
        done = cli(*words)
        assert done.status == 1
        assert "99" in done.out + done.err


def checked_unprivileged(cli: Callable[..., Done], mode: int) -> Done:
    """Run ``check`` as a user who cannot write to the directory."""
    with TemporaryDirectory(prefix="basicauth-") as folder:
        path = Path(folder, "keys.db")
        url = f"sqlite:///{path}"
        cli("keys", "create", "--backend", url)
        path.chmod(mode)
        Path(folder).chmod(0o555)
        done = unprivileged(cli, "check", "--json", "--backend", url)
        Path(folder).chmod(0o755)
    return done


@pytest.mark.proves("F19")
def test_check_reports_an_unwritable_directory_once(cli: Callable[..., Done]) -> None:
    """A write-ahead log cannot be created in such a directory; SQLite's message says so."""
    done = checked_unprivileged(cli, 0o666)

    assert done.status == 1
    (problem,) = done.json["problems"]
    assert "directory" in problem["remedy"]
    assert done.out.count("write access") == 1
    assert [warning["code"] for warning in done.json["warnings"]] == ["sqlite_file_mode"]


def test_check_accepts_a_read_only_file(cli: Callable[..., Done]) -> None:
    """Verifying keys needs no writes."""
    done = checked_unprivileged(cli, 0o444)

    assert done.status == 0
    codes = [warning["code"] for warning in done.json["warnings"]]
    assert codes == ["sqlite_file_mode", "sqlite_file_not_writable"]


def unprivileged(cli: Callable[..., Done], *arguments: str) -> Done:
    """Run in a process with fewer permissions, if the tests run as root."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            if os.getuid() == 0:
                os.setuid(65_534)
            done = cli(*arguments)
            os.write(into, done.out.encode())
            status = done.status
        finally:
            os._exit(status)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return Done(os.waitstatus_to_exitcode(status), text, "")


@pytest.mark.proves("F7")
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (
            ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"),
            "redis_evicts",
        ),
        ((), "redis_not_persistent"),
    ],
)
def test_check_warns_about_a_redis_that_loses_keys(
    cli: Callable[..., Done], options: tuple[str, ...], code: str
) -> None:
    with RedisServer(*options) as server:
        cli("keys", "create", "--backend", server.url())
        done = cli("check", "--json", "--backend", server.url())

    assert done.status == 0
    assert [warning["code"] for warning in done.json["warnings"]] == [code]
    assert done.json["warnings"][0]["remedy"]


def test_check_reports_remedies_for_junk_in_redis(cli: Callable[..., Done], redis_url: str) -> None:
    """``keys delete`` is only suggested where it works."""
    index = f"{redis_url.rpartition('=')[2]}:1:index"
    cli("keys", "create", "--backend", redis_url)
    with Redis.from_url(redis_url.partition("?")[0]) as admin:
        admin.zadd(index, {b"\xff": 0})
        done = cli("check", "--json", "--backend", redis_url)
        assert done.status == 0
        warned = {each["code"]: each["remedy"] for each in done.json["warnings"]}
        assert warned["redis_foreign_ids"].endswith(f'ZREM {index} "\\xff"')
        admin.set(index, "of another type")

        done = cli("check", "--json", "--backend", redis_url)

    (problem,) = done.json["problems"]
    assert index in problem["message"]
    assert problem["remedy"] == "restore it from a backup"
