"""``--log-config``: what the command line changes is recorded where a file says."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.helpers import ROOT, ended

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.helpers import Done

RECIPE = re.compile(r"^## The command line\n.*?^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("by", ["option", "variable"])
def test_the_recipe_records_changes(tmp_path: Path, url: str, by: str) -> None:
    """The file of docs/logging.md, as it stands but for where it writes."""
    found = RECIPE.search((ROOT / "docs" / "logging.md").read_text())
    assert found is not None
    config = tmp_path / "log.json"
    log = tmp_path / "audit.log"
    assert found[1].count('"/var/log/basicauth.log"') == 1
    config.write_text(found[1].replace("/var/log/basicauth.log", str(log)))
    words = ("--log-config", str(config)) if by == "option" else ()
    env = {"BASICAUTH_BACKEND": url} | ({} if words else {"BASICAUTH_LOG_CONFIG": str(config)})

    for command in (("create", "--client-id", "ci"), ("rotate", "ci"), ("list",), ("delete", "ci")):
        done = ended(*words, "keys", *command, env=env)
        assert (done.status, done.err) == (0, "")

    lines = log.read_text().splitlines()
    assert [line.partition(" event=")[2] for line in lines] == [
        "'key.created' client_id='ci'",
        "'key.rotated' client_id='ci'",
        "'key.deleted' client_id='ci'",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} event=", line) for line in lines)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no object"),
        ("{}", "cannot be used"),
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
