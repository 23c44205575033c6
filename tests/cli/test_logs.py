"""``--log-config``: changes by the command line are recorded as a file configures."""

from __future__ import annotations

import json
import re
from getpass import getuser
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends.backend import open_backend
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import Key
from tests.cli.helpers import ROOT, ended, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.helpers import Done

RECIPE = re.compile(r"^## The command line\n.*?^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("by", ["option", "option after the command", "variable"])
def test_the_recipe_records_changes(tmp_path: Path, url: str, by: str) -> None:
    """The file of docs/logging.md, unchanged except for the path of its output."""
    found = RECIPE.search((ROOT / "docs" / "logging.md").read_text())
    assert found is not None
    config = tmp_path / "log.json"
    log = tmp_path / "audit.log"
    assert found[1].count('"/var/log/basicauth.log"') == 1
    config.write_text(found[1].replace("/var/log/basicauth.log", str(log)))
    words = ("--log-config", str(config)) if by == "option" else ()
    after = ("--log-config", str(config)) if by == "option after the command" else ()
    env = {"BASICAUTH_BACKEND": url} | ({} if words or after else {"BASICAUTH_LOG_CONFIG": str(config)})

    for command in (("create", "--client-id", "ci"), ("rotate", "ci"), ("list",), ("delete", "ci")):
        done = ended(*words, "keys", *command, *after, env=env)
        assert (done.status, done.err) == (0, "")

    lines = log.read_text().splitlines()
    assert [line.partition(" event=")[2] for line in lines] == [
        f"'key.created' client_id='ci' actor={getuser()!r}",
        f"'key.rotated' client_id='ci' actor={getuser()!r}",
        f"'key.deleted' client_id='ci' actor={getuser()!r}",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} event=", line) for line in lines)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object"),
        ("{}", "cannot use the log configuration"),
        ({"version": 1, "handlers": {"audit": {"class": "no.Such"}}}, "handler 'audit'"),
        (
            {
                "version": 1,
                "handlers": {"audit": {"class": "logging.FileHandler", "filename": "/hunter2/x"}},
                "root": {"handlers": ["audit"]},
            },
            "no such file",
        ),
    ],
    ids=range(6),
)
def test_a_bad_file_is_one_line_before_anything_is_done(
    cli: Callable[..., Done], database: Path, tmp_path: Path, config: object, reason: str
) -> None:
    path = tmp_path / "log.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))

    cli("--log-config", str(path), "keys", "create").failed_with(reason)

    assert not database.exists()


def test_a_missing_file_is_one_line(cli: Callable[..., Done], database: Path, tmp_path: Path) -> None:
    cli("--log-config", str(tmp_path / "none"), "keys", "create").failed_with("none: no such file")

    assert not database.exists()


def config_of(formatter: dict[str, object], *handlers: dict[str, object]) -> dict[str, object]:
    """The last handler is for the audit log; it may refer to the others."""
    names = [f"h{number}" for number in range(len(handlers))]
    return {
        "version": 1,
        "formatters": {"f": formatter},
        "filters": {name: {"()": f"faulty_logs.{name}"} for name in ("AddUser", "Fail", "Refuse")},
        "handlers": dict(zip(names, handlers, strict=True)),
        "loggers": {"basicauth_mw.audit": {"level": "INFO", "handlers": names[-1:]}},
    }


FULL: dict[str, object] = {"class": "logging.FileHandler", "filename": "/dev/full", "formatter": "f"}
AFTER: dict[str, object] = {"class": "logging.handlers.MemoryHandler", "capacity": 100, "target": "h0"}
RAISES: dict[str, object] = {"class": "faulty_logs.Raises"}
FAULTY = """
import logging

class Raises(logging.Handler):
    def emit(self, record):
        raise LookupError("hunter2")

class Keeps(logging.Handler):
    def emit(self, record):
        self.has_record = True
    def flush(self):
        if hasattr(self, "has_record"):
            raise LookupError("hunter2")

class Later(logging.Formatter):
    def format(self, record):
        if record.basicauth["client_id"] != "id":
            raise LookupError("hunter2")
        return "fine"

class Never(logging.Formatter):
    def format(self, record):
        raise LookupError("hunter2")

class AddUser(logging.Filter):
    def filter(self, record):
        record.user = "me"
        return True

class Fail(logging.Filter):
    def filter(self, record):
        raise LookupError("hunter2")

class Refuse(logging.Filter):
    def filter(self, record):
        return False
"""


@pytest.fixture
def logged(tmp_path: Path, url: str) -> Callable[..., Done]:
    """Runs a command line in a separate process, with a logging configuration."""
    (tmp_path / "faulty_logs.py").write_text(FAULTY)
    path = tmp_path / "log.json"

    def call(config: dict[str, object], *words: str, **options: Any) -> Done:
        path.write_text(json.dumps(config))
        env = {"BASICAUTH_BACKEND": url, "BASICAUTH_LOG_CONFIG": str(path), "PYTHONPATH": str(tmp_path)}
        done = ended(*words, env=env, **options)
        assert "hunter2" not in done.err
        return done

    return call


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (config_of({"format": "%(user)s"}, FULL), "'h0' .* Formatting field not found in record: 'user'"),
        (config_of({"format": "%(user)s"}, FULL, AFTER), "'h0' .* 'user'"),
        (config_of({"()": "faulty_logs.Never"}, FULL), "'h0' .* LookupError"),
        (config_of({}, FULL | {"filters": ["Fail"]}), "'h0' .* LookupError"),
    ],
    ids=["field", "after another", "formatter", "filter"],
)
def test_a_format_error_is_found_before_any_change(
    logged: Callable[..., Done], database: Path, config: dict[str, object], reason: str
) -> None:
    done = logged(config, "keys", "create")

    done.failed_with("cannot format audit records")
    assert re.search(reason, done.err)
    assert not database.exists()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (config_of({}, FULL), "no space left on device"),
        (config_of({}, FULL, AFTER), "no space left on device"),
        (config_of({}, RAISES), "LookupError"),
        (config_of({"()": "faulty_logs.Later"}, FULL), "LookupError"),
    ],
    ids=["full disk", "full disk after another", "handler", "formatter"],
)
def test_a_change_that_is_not_recorded_is_reported(
    logged: Callable[..., Done], url: str, tmp_path: Path, config: dict[str, object], reason: str
) -> None:
    """The key is created, so its secret is shown; and one line reports the missing record."""
    made = logged(config, "keys", "create", "--client-id", "ci", "--json")

    assert made.json["secret"]
    assert (made.status, made.err) == (1, f"error: changed, but not recorded in the audit log: {reason}\n")
    assert logged(config, "keys", "show", "ci").err == ""
    logged(config, "keys", "show", "unknown").failed_with("'unknown'")
    lines = "".join(f"{number},{generate('sk')}\n" for number in range(3)).encode()
    assert logged(config, "keys", "import", "-", stdin=lines).err == (
        f"error: changed, but not recorded in the audit log: {reason} (3 records)\n"
    )
    with open_backend(url) as backend:
        assert len(list(backend.iter_keys())) == 4


def test_a_failure_of_the_last_flush_is_reported(logged: Callable[..., Done]) -> None:
    config = config_of({}, {"class": "faulty_logs.Keeps"})

    done = logged(config, "keys", "create")

    assert (done.status, done.err) == (1, "error: changed, but not recorded in the audit log: LookupError\n")


def test_an_export_that_is_not_recorded_is_reported(logged: Callable[..., Done], url: str) -> None:
    put(url, Key("ci"))

    done = logged(config_of({}, FULL), "keys", "export")

    assert (done.status, len(done.out.splitlines())) == (1, 1)
    assert done.err.startswith("error: exported, but not recorded")


@pytest.mark.parametrize(
    "handler",
    [{"filters": ["AddUser"], "filename": "{}"}, {"filters": ["Refuse"]}, {"level": "ERROR"}],
    ids=["a filter adds it", "a filter refuses it", "another level"],
)
def test_filtered_records_are_not_lost_records(
    logged: Callable[..., Done], tmp_path: Path, handler: dict[str, object]
) -> None:
    log = tmp_path / "audit.log"
    if "filename" in handler:
        handler = handler | {"filename": str(log)}

    done = logged(config_of({"format": "%(user)s %(message)s"}, FULL | handler), "keys", "create")

    assert (done.status, done.err) == (0, "")
    assert not log.exists() or log.read_text().startswith("me event='key.created'")


def test_lost_records_of_other_loggers_are_not_reported(
    logged: Callable[..., Done], tmp_path: Path, url: str
) -> None:
    """No output, not even from logging itself."""
    put(url, Key("ci"))
    (tmp_path / "faulty_logs.py").write_text(
        f"{FAULTY}\nimport atexit\natexit.register(logging.getLogger('other').error, 'text')\n"
    )
    config = config_of({}, FULL)
    config["loggers"] = {}
    config["root"] = {"level": "INFO", "handlers": ["h0"]}

    assert logged(config, "keys", "show", "ci").err == ""


def test_a_configuration_without_end_is_one_line(cli: Callable[..., Done], database: Path) -> None:
    cli("--log-config", "/dev/zero", "keys", "create").failed_with("/dev/zero is longer than 1048576 bytes")

    assert not database.exists()
