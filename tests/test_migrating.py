"""``docs/migrating.md``: its apps, before and after, serve the same clients, and its commands work.

Blocks that start with a file name (``# app.py``) are files. Each app runs in a process of its own, under a
real server. ``tests/test_docs.py`` runs only the blocks in ``python``: those in ``py`` use other packages, or
are not complete by themselves.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.waiting import LIMIT_S, free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "migrating.md").read_text()
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

FASTAPI = ("-m", "uvicorn", "app:app", "--log-level=warning", "--port={port}")
FLASK = ("-m", "waitress", "--listen=127.0.0.1:{port}", "app:app")
DJANGO = ("-m", "waitress", "--listen=127.0.0.1:{port}", "--call", "django.core.wsgi:get_wsgi_application")

# Written by Apache's htpasswd 2.4, with -B, -m and -s.
HTPASSWD = """\
alice:$2y$05$TVL6zvinrjTVLkKZFka89.mhvQpBvkMIrT1yeeAv8f1sZtJRJ9kZi
bob:$apr1$QaqqQvR2$4tZLmZhHK0g.sX9D6HTF5/
carol:{SHA}zgsrdx99RowBQZGNrqcE4OWtRds=
"""


def section(*headings: str) -> str:
    """The text under a chapter's heading, or under a heading in it."""
    text = PAGE
    for level, heading in enumerate(headings, 2):
        start = f"\n{'#' * level} {heading}\n"
        assert text.count(start) == 1, heading
        text = re.split(rf"^#{{2,{level}}} ", text.partition(start)[2], flags=re.MULTILINE)[0]
    return text


def blocks(text: str, *languages: str) -> list[str]:
    """The code of the blocks in these languages."""
    return [textwrap.dedent(code) for _, language, code in BLOCK.findall(text) if language in languages]


def write_files(folder: Path, text: str) -> None:
    """Write each block to the file that its first line names, and append those that change a part of it."""
    found = blocks(text, "py", "python")
    assert found
    for code in found:
        change, name = re.match(r"# (in )?(\w+\.py)\n", code).groups()
        with (folder / name).open("a" if change else "w") as file:
            file.write(code)


class Site:
    """A folder with the files of an app, and an environment for its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BASICAUTH_", "DJANGO_"))
        }
        self.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ["BASICAUTH_BACKEND"] = "sqlite:///keys.db"
        self.environ["PYTHONPATH"] = str(ROOT)

    def run(self, command: str, status: int = 0) -> str:
        """Run a command; return what it printed."""
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def serving(self, server: tuple[str, ...]) -> Iterator[httpx.Client]:
        """Serve the app; return a client for it."""
        port = free_port()
        arguments = [argument.format(port=port) for argument in server]
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, env=self.environ, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, (self.folder / "server.log").read_text()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                yield client
        finally:
            process.terminate()
            process.wait(LIMIT_S)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def assert_refuses_strangers(client: httpx.Client, method: str, path: str) -> None:
    """A request without credentials, and ones with wrong credentials, get a 401 with a Basic challenge."""
    wrong = [None, ("ci", "wrong"), ("stranger", "correct horse"), ("ci", ""), ("", "")]
    for auth in wrong:
        refused = client.request(method, path, auth=auth)
        assert (refused.status_code, auth) == (401, auth)
        assert refused.headers["WWW-Authenticate"].startswith("Basic")


# --- htpasswd


def test_htpasswd(site: Site) -> None:
    """A bcrypt user keeps the password; those with other hashes get a secret."""
    (site.folder / "users.htpasswd").write_text(HTPASSWD)
    chapter = section("nginx and Apache: htpasswd")
    first, second = (code.replace("/etc/nginx/", "") for code in blocks(chapter, "sh"))

    printed = site.run(first, status=1)
    assert "line 2: " in printed
    assert "Apache MD5 (apr1)" in printed
    assert "line 3: " in printed
    assert "unsalted SHA-1" in printed

    printed = site.run(second, status=1)
    assert "'alice' is taken" in printed, "it is reported and unchanged"
    new = (site.folder / "new-secrets.txt").read_text().splitlines()
    secrets = dict(line.split(":") for line in new)
    assert secrets.keys() == {"bob", "carol"}

    write_files(site.folder, section("FastAPI's HTTPBasic", "After"))
    with site.serving(FASTAPI) as client:
        for name, secret in {**secrets, "alice": "correct horse"}.items():
            response = client.get("/me", auth=(name, secret))
            assert (response.status_code, response.json()) == (200, {"hello": name})
        for name, old in {"bob": "battery staple", "carol": "p@55w0rd"}.items():
            assert client.get("/me", auth=(name, old)).status_code == 401


# --- FastAPI and Flask: the clients do not change


def run_steps(site: Site, chapter: str) -> None:
    """Write the CSV file of a chapter, and run its commands."""
    steps = section(chapter, "Steps")
    (csv,) = blocks(steps, "csv")
    (commands,) = blocks(steps, "sh")
    (site.folder / "users.csv").write_text(csv)
    (site.folder / "users.csv").chmod(0o600)
    assert site.run(commands) == "imported 2 keys\n"
    assert not (site.folder / "users.csv").exists()


@pytest.mark.parametrize("state", ["Before", "After"])
def test_fastapi(site: Site, state: str) -> None:
    chapter = "FastAPI's HTTPBasic"
    write_files(site.folder, section(chapter, state))
    if state == "After":
        run_steps(site, chapter)

    with site.serving(FASTAPI) as client:
        for name, password in {"ci": "correct horse", "backup": "battery staple"}.items():
            response = client.get("/me", auth=(name, password))
            assert (response.status_code, response.json()) == (200, {"hello": name})
        assert client.get("/status").json() == {"status": "up"}
        assert_refuses_strangers(client, "GET", "/me")
        assert client.get("/openapi.json").status_code == (401 if state == "After" else 200)
        expected = 401 if state == "Before" else 200
        site.run("printf 'zoé,motdépasse\n' | basicauth-mw keys import -")
        assert client.get("/me", auth=("zoé", "motdépasse")).status_code == expected


@pytest.mark.parametrize("state", ["Before", "After"])
def test_flask(site: Site, state: str) -> None:
    chapter = "Flask-HTTPAuth"
    write_files(site.folder, section(chapter, state))
    if state == "After":
        run_steps(site, chapter)
    add_view_of_either_role(site, state)

    with site.serving(FLASK) as client:
        ci, editor = ("ci", "correct horse"), ("editor", "battery staple")
        for auth in (ci, editor):
            assert client.get("/api/me", auth=auth).json() == {"hello": auth[0]}
            assert client.get("/api/feed", auth=auth).json() == {"for": auth[0]}
        assert client.post("/api/reports", auth=editor).json() == {"by": "editor"}
        assert client.post("/api/reports", auth=ci).status_code == 403
        assert client.get("/").json() == {"open": True}
        assert client.get("/api/feed").json() == {"for": "everyone"}
        assert_refuses_strangers(client, "GET", "/api/me")
        assert_refuses_strangers(client, "POST", "/api/reports")
        either = [client.get("/api/either", auth=auth).status_code for auth in (ci, editor)]
        assert either == [403, 200]
        wrong = client.get("/api/feed", auth=("ci", "wrong"))
        if state == "Before":
            assert wrong.json() == {"for": "everyone"}
        else:
            assert wrong.status_code == 401


def add_view_of_either_role(site: Site, state: str) -> None:
    """Add a view with the code that the table has for a list of roles."""
    table = section("Flask-HTTPAuth", "Steps")
    ((roles, condition),) = re.findall(r"`(role=.+)`: one of them \| `(if .+)` in the view", table)
    decorator, statement = (
        (f"@auth.login_required({roles})", "") if state == "Before" else ("", f"    {condition}")
    )
    lines = [
        "from basicauth_mw import InsufficientScope",
        '@app.get("/api/either")',
        decorator,
        "def either():",
        statement,
        "    return {}",
    ]
    with (site.folder / "app.py").open("a") as app:
        app.write("\n".join(lines))


def test_hashes_of_werkzeug_are_refused(site: Site) -> None:
    """A hash is not imported as a password, which would let in anyone who has read the old table."""
    from werkzeug.security import generate_password_hash

    methods = {"ci": "scrypt", "editor": "pbkdf2:sha256:1000"}
    rows = [f"{name},{generate_password_hash('x', method)}" for name, method in methods.items()]
    (site.folder / "users.csv").write_text("\n".join(["username,password", *rows]))

    printed = site.run("basicauth-mw keys import users.csv", status=1)

    assert "line 2: hashes of this kind are not accepted" in printed
    assert "line 3: hashes of this kind are not accepted" in printed
    assert "imported 0 keys" in printed


# --- REST framework: old and new clients at the same time

DRF = "REST framework's BasicAuthentication"
DRF_API_KEY = "djangorestframework-api-key"


@pytest.fixture
def django_site(site: Site) -> Site:
    site.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    del site.environ["BASICAUTH_BACKEND"]  # it is in the settings
    return site


def prepare(site: Site, chapter: str, data: str) -> str:
    """Write the app as it was, and run ``data`` in it; return what that printed."""
    write_files(site.folder, section(chapter, "Before"))
    with (site.folder / "settings.py").open("a") as settings:  # Django's advice for tests: a fast hash
        settings.write('PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]\n')
    (site.folder / "data.py").write_text(f"import django\ndjango.setup()\n{textwrap.dedent(data)}")
    site.run("python -m django migrate")
    return site.run("python data.py")


def transition(site: Site, chapter: str) -> dict[str, str]:
    """Follow the steps of a chapter; return the token of each client."""
    steps = section(chapter, "Steps")
    write_files(site.folder, steps)
    (commands,) = blocks(steps, "sh")
    assert site.run(commands) == ""
    tokens = site.folder / "tokens.txt"
    assert tokens.stat().st_mode & 0o077 == 0
    found = dict(line.split(" ") for line in tokens.read_text().splitlines())
    site.run(commands)
    assert tokens.read_text() == "", "repeated, it changes nothing"
    site.run("python -W error -m django check")
    return found


USERS = """
    from django.contrib.auth.models import User
    User.objects.create_user("ci", password="correct horse")
    User.objects.create_user("boss", password="battery staple", is_staff=True)
    User.objects.create_user("left", password="long gone", is_active=False)
"""


def password_client_opens(client: httpx.Client, path: str, name: str, password: str) -> bool:
    """Whether a client that sends a password only after a Basic challenge opens a page."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, str(client.base_url), name, password)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    try:
        with opener.open(f"{str(client.base_url).rstrip('/')}{path}") as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


def test_rest_framework(django_site: Site) -> None:
    """Before, during and after the transition, the app accepts its clients, and refuses all others."""
    site = django_site
    prepare(site, DRF, USERS)
    unknown = {"ci": encode("ci:unknown"), "boss": encode("boss:unknown")}
    with site.serving(DJANGO) as client:
        check_rest_framework(client, unknown, old=True, new=False)
    tokens = transition(site, DRF)
    assert tokens.keys() == {"ci", "boss"}
    with site.serving(DJANGO) as client:
        check_rest_framework(client, tokens, old=True, new=True)
    old_views = (site.folder / "views.py").read_text()
    write_files(site.folder, section(DRF, "After"))
    with site.serving(DJANGO) as client:
        check_rest_framework(client, tokens, old=False, new=True)

    # The class that finds the Django user, with views that need one.
    (site.folder / "views.py").write_text(old_views.replace(' | HasScopes("reports:read")', ""))
    with (site.folder / "settings.py").open("a") as settings:
        settings.write(
            'REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"] = ["authentication.KeyUserAuthentication"]\n'
        )
    with site.serving(DJANGO) as client:
        check_rest_framework(client, tokens, old=False, new=True)
        with closing(sqlite3.connect(site.folder / "db.sqlite3")) as database, database:
            database.execute("UPDATE auth_user SET is_active = 0 WHERE username = 'boss'")
        for name, status in {"ci": 200, "boss": 401}.items():
            assert client.get("/api/me", headers={"X-API-Key": tokens[name]}).status_code == status


def check_rest_framework(client: httpx.Client, tokens: dict[str, str], *, old: bool, new: bool) -> None:
    passwords = {"ci": "correct horse", "boss": "battery staple"}
    for name, password in passwords.items():
        accepted = client.get("/api/me", auth=(name, password))
        assert (accepted.status_code == 200) is old
        assert not old or accepted.json() == {"hello": name}
        assert not old or password_client_opens(client, "/api/me", name, password)
        accepted = client.get("/api/me", headers={"X-API-Key": tokens[name]})
        assert (accepted.status_code == 200) is new
        assert not new or accepted.json() == {"hello": name}
    for name, status in {"ci": 403, "boss": 200}.items():
        if old:
            found = client.get("/api/reports", auth=(name, passwords[name]))
            assert found.status_code == status
        if new:
            found = client.get("/api/reports", headers={"X-API-Key": tokens[name]})
            assert found.status_code == status

    for path in ("/api/me", "/api/reports"):
        refused = [
            client.get(path),
            client.get(path, auth=("ci", "wrong")),
            client.get(path, auth=("left", "long gone")),
            client.get(path, headers={"Authorization": "Basic !"}),
            client.get(path, headers={"X-API-Key": encode("ci:wrong")}),
            client.get(path, headers={"X-API-Key": ""}),
            client.get(path, headers={"Authorization": f"Basic {tokens['ci']}"}),
        ]
        assert [each.status_code for each in refused] == [401] * len(refused)
        assert all("WWW-Authenticate" in each.headers for each in refused)
    if new:  # a wrong key is refused, whatever else the request has
        wrong = {"X-API-Key": encode("ci:wrong")}
        assert client.get("/api/me", auth=("ci", passwords["ci"]), headers=wrong).status_code == 401
    if old and new:
        found = [client.get(path, auth=("ci", passwords["ci"])) for path in ("/api/", "/api", "/api/;/me")]
        assert [each.status_code for each in found] == [404, 401, 401], "optional paths match narrowly"
        both = client.get("/api/me", auth=("ci", passwords["ci"]), headers={"X-API-Key": tokens["ci"]})
        assert both.status_code == 200


def encode(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


def test_passwords_of_django_that_can_be_imported(site: Site) -> None:
    """Argon2 and bcrypt, without Django's prefix; with it, and PBKDF2, a hash is refused."""
    make_hashes = """
        import django
        from django.conf import settings
        from django.contrib.auth.hashers import make_password

        names = ("Argon2PasswordHasher", "BCryptPasswordHasher", "PBKDF2PasswordHasher")
        settings.configure(PASSWORD_HASHERS=[f"django.contrib.auth.hashers.{name}" for name in names])
        for algorithm in ("argon2", "bcrypt", "pbkdf2_sha256"):
            print(make_password("correct horse", hasher=algorithm))
    """
    (site.folder / "hashes.py").write_text(textwrap.dedent(make_hashes))
    argon2, bcrypt, pbkdf2 = site.run("python hashes.py").splitlines()

    def import_users(*users: tuple[str, str], status: int = 0) -> str:
        rows = [f'{name},"{hashed}"\n' for name, hashed in users]
        (site.folder / "users.csv").write_text("".join(["username,password\n", *rows]))
        return site.run("chmod 600 users.csv; basicauth-mw keys import users.csv", status=status)

    printed = import_users(("a", argon2), ("b", bcrypt), ("c", pbkdf2), status=1)
    assert printed.count("hashes of this kind are not accepted") == 3
    printed = import_users(("a", argon2.removeprefix("argon2")), ("b", bcrypt.removeprefix("bcrypt$")))
    assert printed == "imported 2 keys\n"

    write_files(site.folder, section("FastAPI's HTTPBasic", "After"))
    with site.serving(FASTAPI) as client:
        for name, hashed in {"a": argon2, "b": bcrypt}.items():
            assert client.get("/me", auth=(name, "correct horse")).json() == {"hello": name}
            assert client.get("/me", auth=(name, hashed)).status_code == 401


OLD_KEYS = """
    from datetime import timedelta
    from django.utils import timezone
    from rest_framework_api_key.models import APIKey
    now = timezone.now()
    print(APIKey.objects.create_key(name="nightly")[1])
    print(APIKey.objects.create_key(name="until", expiry_date=now + timedelta(hours=1))[1])
    print(APIKey.objects.create_key(name="revoked", revoked=True)[1])
    print(APIKey.objects.create_key(name="expired", expiry_date=now - timedelta(hours=1))[1])
    print(APIKey.objects.get(name="nightly").hashed_key)
"""


def test_rest_framework_api_key(django_site: Site) -> None:
    """Old and new keys work during the transition, and only those; the import refuses the old hashes."""
    site = django_site
    nightly, until, revoked, expired, hashed = prepare(site, DRF_API_KEY, OLD_KEYS).splitlines()
    keys = {"nightly": nightly, "until": until, "revoked": revoked, "expired": expired}
    unknown = dict.fromkeys(("nightly", "until"), encode("ci:unknown"))
    with site.serving(DJANGO) as client:
        check_api_keys(client, keys, unknown, old=True, new=False)

    tokens = transition(site, DRF_API_KEY)
    assert tokens.keys() == {"nightly", "until"}
    with site.serving(DJANGO) as client:
        check_api_keys(client, keys, tokens, old=True, new=True)

    site.run("python -m django migrate rest_framework_api_key zero")
    write_files(site.folder, section(DRF_API_KEY, "After"))
    with site.serving(DJANGO) as client:
        check_api_keys(client, keys, tokens, old=False, new=True)

    site.environ["BASICAUTH_BACKEND"] = "sqlite:///keys.db"
    listed = [json.loads(line) for line in site.run("basicauth-mw keys list --json").splitlines()]
    assert {key["name"]: bool(key["expires_at"]) for key in listed} == {"nightly": False, "until": True}
    assert hashed == f"sha512$${hashlib.sha512(nightly.encode()).hexdigest()}", "as the chapter says"
    printed = site.run(f"echo 'ci,{hashed}' | basicauth-mw keys import -", status=1)
    assert "unsalted SHA-512" in printed


def check_api_keys(
    client: httpx.Client, keys: dict[str, str], tokens: dict[str, str], *, old: bool, new: bool
) -> None:
    refusal = 401 if new else 403
    for name, token in tokens.items():
        accepted = client.get("/api/me", headers={"Authorization": f"Api-Key {keys[name]}"})
        assert accepted.status_code == (200 if old else refusal)
        assert not old or accepted.json() == {"hello": name}
        accepted = client.get("/api/me", headers={"X-API-Key": token})
        assert accepted.status_code == (200 if new else refusal)
        assert not new or accepted.json() == {"hello": name}
    key = keys["nightly"]
    strangers = [
        {},
        {"Authorization": f"Api-Key {keys['revoked']}"},
        {"Authorization": f"Api-Key {keys['expired']}"},
        {"Authorization": f"Api-Key {key[:-1]}"},
        {"Authorization": "Api-Key"},
        {"Authorization": f"Api-Key {tokens['nightly']}"},
        {"X-API-Key": key},
        {"X-API-Key": encode(key.replace(".", ":"))},
        {"X-API-Key": ""},
    ]
    refused = [client.get("/api/me", headers=headers) for headers in strangers]
    assert [each.status_code for each in refused] == [refusal] * len(refused)
    if new:
        assert all("WWW-Authenticate" in each.headers for each in refused)
        wrong = {"Authorization": f"Api-Key {key}", "X-API-Key": encode("ci:wrong")}
        assert client.get("/api/me", headers=wrong).status_code == 401, "whatever else the request has"
