"""Postgres URLs."""

from __future__ import annotations

import pytest

from basicauth_mw.backends.postgres.url import parse_url
from basicauth_mw.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.delenv("PGPORT", raising=False)


@pytest.mark.parametrize(
    ("url", "hosts", "schema", "prefix"),
    [
        ("postgresql://", [("", "")], "public", "basicauth"),
        ("postgres://u@h/db", [("h", "")], "public", "basicauth"),
        ("postgresql://h:1,[::1]:2/db?prefix=auth_1", [("h", "1"), ("::1", "2")], "public", "auth_1"),
        ("postgresql://a,b/db?port=7", [("a", "7"), ("b", "7")], "public", "basicauth"),
        ("postgresql:///db?host=/run/pg&schema=keys", [("/run/pg", "")], "keys", "basicauth"),
        ("postgresql://%2Frun%2Fpg:7/db", [("/run/pg", "7")], "public", "basicauth"),
    ],
)
def test_good_urls(url: str, hosts: list[tuple[str, str]], schema: str, prefix: str) -> None:
    target = parse_url(url)
    assert list(target.hosts) == hosts
    assert (target.schema, target.prefix) == (schema, prefix)
    assert target.options["target_session_attrs"] == "primary"
    assert not {"host", "port", "schema", "prefix"} & target.options.keys()


def test_the_environment_names_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every program that uses libpq."""
    monkeypatch.setenv("PGHOST", "a,b")
    monkeypatch.setenv("PGPORT", "7")
    assert parse_url("postgresql:///db").hosts == (("a", "7"), ("b", "7"))
    assert parse_url("postgresql://h/db").hosts == (("h", "7"),)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("canary", "cannot be set"),
        ("canary=1", "cannot be set"),
        ("connect_timeout=1", "cannot be set"),
        ("service=canary", "cannot be set"),
        ("sslmode=require&sslmode=canary", "twice"),
        ("schema=Canary", "lower-case"),
        ("schema=canary.x", "lower-case"),
        ('prefix=canary"', "lower-case"),
        ("prefix=", "lower-case"),
        (f"prefix={'canary' * 7}", "lower-case"),
        ("target_session_attrs=any", "primary"),
        ("target_session_attrs=prefer-standby", "primary"),
        ("port=1,2", "one port for each host"),
        ("user=canary%ff", "cannot be read"),
        ("user=%canary", "cannot be read"),
    ],
)
def test_bad_options(query: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_url(f"postgresql://u:canary@h/db?{query}")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:",
        "postgresql:canary",
        "postgresql:/canary",
        "postgresql://u:can ary@h",
        "postgresql://[canary/",
        "postgresql://u:1@canary@h/db",
        "postgresql://u:canary/1@h/db",
        "postgresql://u:1/canary@h/db",
        "postgresql://u:canary?1@h/db",
        "postgresql://u@h:canary/db",
        "postgresql://h/db?port=canary",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "canary" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    target = parse_url("postgresql://u:canary@h/db?sslpassword=canary")
    assert target.options["password"] == "canary"
    assert "canary" not in repr(target)
