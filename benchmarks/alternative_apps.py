"""The protected apps of ``alternatives``, as users would write them, and the keys that all of them have.

Run as a program, it writes the keys to the directory that ``BENCH_DIRECTORY`` names.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import threading
from contextlib import closing
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import asgi_apps
import wsgi_apps
from asgi_apps import SECRET

from basicauth_mw import Key, Secret, Settings, open_backend
from basicauth_mw.keys.hashing import Hasher

KEYS = 1_000
PASSWORD = "a password of a person"
API_KEY = f"prefix{0:02}.{SECRET}"
DIRECTORY = Path(os.environ.get("BENCH_DIRECTORY", "."))


def client_id(number: int) -> str:
    return f"client-{number:04}"


# --- the keys


def write_keys() -> None:
    """Write the same clients for every package. All have one secret, so that it is hashed once."""
    import argon2

    password_hash = argon2.PasswordHasher().hash(PASSWORD)
    ids = [client_id(number) for number in range(KEYS)]
    for name, stored in (("sha256", sha256(SECRET.encode()).hexdigest()), ("argon2", password_hash)):
        with closing(sqlite3.connect(DIRECTORY / f"{name}.db")) as connection:
            connection.execute("CREATE TABLE clients (client_id TEXT PRIMARY KEY, hash TEXT) WITHOUT ROWID")
            connection.executemany("INSERT INTO clients VALUES (?, ?)", [(each, stored) for each in ids])
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
    hasher = Hasher()
    for name, stored in (("ours", hasher.digest_secret(SECRET)), ("ours-argon2", hasher.hash(PASSWORD))):
        with closing(open_backend(f"sqlite:///{DIRECTORY}/{name}.db", create=True)) as backend:
            scopes = frozenset({"read"})
            backend.store.add([Key(each, scopes=scopes, secrets=(Secret(stored),)) for each in ids])
    set_up_django()
    from django.contrib.auth.hashers import make_password
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from rest_framework_api_key.models import APIKey

    call_command("migrate", verbosity=0)
    password = make_password(PASSWORD)
    User.objects.bulk_create([User(username=each, password=password) for each in ids])
    hashed = APIKey.objects.key_generator.hash(API_KEY)
    keys = [(f"prefix{number:02}" if number < 100 else f"key{number:05}") for number in range(KEYS)]
    APIKey.objects.bulk_create(
        [APIKey(id=f"{prefix}.{hashed}", prefix=prefix, hashed_key=hashed, name="bench") for prefix in keys]
    )


# --- how users would verify


class Clients:
    """Hashes in a SQLite file, with a connection per thread."""

    def __init__(self, name: str) -> None:
        self._path = DIRECTORY / f"{name}.db"
        self._local = threading.local()

    def hash_of(self, client_id: str) -> str | None:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = sqlite3.connect(self._path)
        row = connection.execute("SELECT hash FROM clients WHERE client_id = ?", (client_id,)).fetchone()
        return row[0] if row else None


@cache
def with_sha256():
    """SQLite and SHA-256, with a dummy for unknown IDs."""
    clients, dummy = Clients("sha256"), "0" * 64

    def verify(client_id: str, secret: str) -> bool:
        stored = clients.hash_of(client_id)
        is_equal = hmac.compare_digest(sha256(secret.encode()).hexdigest(), stored or dummy)
        return is_equal and stored is not None

    return verify


@cache
def with_argon2():
    """SQLite and Argon2id with the defaults of argon2-cffi, and a dummy for unknown IDs."""
    import argon2

    clients, hasher = Clients("argon2"), argon2.PasswordHasher()
    dummy = hasher.hash("dummy")

    def verify(client_id: str, secret: str) -> bool:
        if not client_id:  # Flask-HTTPAuth calls this without credentials too
            return False
        stored = clients.hash_of(client_id)
        try:
            hasher.verify(stored or dummy, secret)
        except argon2.exceptions.VerifyMismatchError:
            return False
        return stored is not None

    return verify


def ours(module, app, name: str = "ours", **overrides):
    backend = open_backend(f"sqlite:///{DIRECTORY}/{name}.db", settings=Settings())
    return module.ours(app, backend, **overrides)


# --- FastAPI


def fastapi_ours():
    return ours(asgi_apps, asgi_apps.fastapi())


def fastapi_ours_uncached():
    return ours(asgi_apps, asgi_apps.fastapi(), cache_ttl_s=0)


def fastapi_ours_argon2():
    return ours(asgi_apps, asgi_apps.fastapi(), "ours-argon2")


def fastapi_sha256():
    return asgi_apps.fastapi(with_sha256(), threads=True)


def fastapi_argon2():
    return asgi_apps.fastapi(with_argon2(), threads=True)


def fastapi_starlette():
    return asgi_apps.starlette(asgi_apps.fastapi(), with_sha256())


# --- Flask


def flask_ours():
    return ours(wsgi_apps, wsgi_apps.flask())


def flask_ours_uncached():
    return ours(wsgi_apps, wsgi_apps.flask(), cache_ttl_s=0)


def flask_sha256():
    return wsgi_apps.flask(with_sha256())


def flask_argon2():
    return wsgi_apps.flask(with_argon2())


# --- Django REST framework


def set_up_django() -> None:
    import logging

    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="benchmark",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DIRECTORY / "django.db"}},
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "rest_framework",
            "rest_framework_api_key",
        ],
        ROOT_URLCONF=ModuleType("no_urls"),
        LOGGING_CONFIG=None,
    )
    django.setup()
    logging.getLogger("django.request").setLevel(logging.ERROR)  # no line for each refusal


def drf(authentication: list[type], permissions: list[type]):
    """A Django app with one view of Django REST framework."""
    from django.core.wsgi import get_wsgi_application
    from django.urls import path
    from rest_framework.renderers import JSONRenderer
    from rest_framework.response import Response
    from rest_framework.views import APIView

    class Hello(APIView):
        authentication_classes = authentication
        permission_classes = permissions
        renderer_classes = (JSONRenderer,)

        def get(self, request):
            return Response({"hello": "world"})

    from django.conf import settings

    vars(settings.ROOT_URLCONF)["urlpatterns"] = [path("", Hello.as_view())]
    return get_wsgi_application()


def drf_bare():
    set_up_django()
    return drf([], [])


def drf_ours():
    set_up_django()
    return ours(wsgi_apps, drf([], []))


def drf_basic():
    set_up_django()
    from rest_framework.authentication import BasicAuthentication
    from rest_framework.permissions import IsAuthenticated

    return drf([BasicAuthentication], [IsAuthenticated])


def drf_api_key():
    set_up_django()
    from rest_framework_api_key.permissions import HasAPIKey

    return drf([], [HasAPIKey])


if __name__ == "__main__":
    write_keys()
