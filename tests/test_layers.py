"""The order of the modules: each imports only from those above it, and no heavy library is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "basicauth_mw"
ROOT = Path(__file__).parents[1] / PACKAGE

# From the bottom up. A module imports only from lines above its own; modules on one line do not import each
# other. A name that ends in /* is a folder whose modules may import each other.
LAYERS = [
    ["errors"],
    ["runtime"],
    ["runtime.tracebacks"],
    # settings: the configuration values
    ["settings.parsers", "settings.sources"],
    ["settings.model"],
    ["settings"],
    # runtime: threads, forks, optional imports; knows no keys and no requests
    ["runtime.extras", "runtime.fork", "runtime.deadline"],
    [
        "runtime.background",
        "runtime.batches",
        "runtime.pool",
        "runtime.single_flight",
        "runtime.thread_local",
    ],
    # keys: values and the rules for them
    ["keys"],
    ["keys.model", "keys.escaping"],
    ["keys.scopes", "keys.authorization_header", "keys.generated_secrets"],
    ["keys.validation", "keys.audit"],
    ["keys.hashing.formats"],
    ["keys.hashing.password"],
    ["keys.hashing.digest"],
    ["keys.hashing"],
    ["keys.lifecycle"],
    ["keys.filters"],
    ["keys.imported_keys", "keys.key_lists"],
    # backends: stores, and what works over any store
    ["backends.base"],
    ["backends.codec"],
    ["backends.history"],
    ["backends.sqlite"],
    ["backends.sqlite.files"],
    ["backends.sqlite.forks", "backends.sqlite.wal", "backends.sqlite.search"],
    ["backends.sqlite.schema"],
    ["backends.sqlite.last_used", "backends.sqlite.connections", "backends.sqlite.setup"],
    ["backends.sqlite.checks"],
    ["backends.sqlite.store"],
    ["backends.redis.url", "backends.redis.errors"],
    ["backends.redis.cluster"],
    ["backends.redis.connections", "backends.redis.scripts"],
    ["backends.redis.clients"],
    ["backends.redis.commands"],
    ["backends.redis.checks"],
    ["backends.redis.store"],
    ["backends.redis"],
    ["backends.postgres.url", "backends.postgres.errors"],
    ["backends.postgres.libpq"],
    ["backends.postgres.schema", "backends.postgres.clients"],
    ["backends.postgres.store"],
    ["backends.postgres"],
    ["backends.listed"],
    ["backends.memory", "backends.env", "backends.file"],
    ["backends"],
    [
        "backends.writes",
        "backends.change_feed",
        "backends.shared_failures",
        "backends.passwords",
        "backends.availability",
    ],
    ["backends.usage"],
    ["backends.reader", "backends.search"],
    ["backends.readable"],
    ["backends.backend"],
    # auth: the decision on a request, without I/O
    ["auth"],
    ["auth.request_adapters"],
    ["auth.client_address"],
    ["auth.schemes", "auth.path_rules", "auth.throttle", "auth.refusal_stats"],
    ["auth.problems", "auth.cache"],
    ["auth.verifier", "auth.frameworks"],
    ["auth.runner", "auth.configuration"],
    ["auth.authenticator"],
    ["auth.discovery"],
    # responses: how a response reaches the server
    ["responses"],
    ["responses.asgi_send", "responses.wsgi_guard"],
    ["responses.asgi_guard"],
    ["responses.asgi_errors"],
    # the public modules
    ["asgi", "wsgi"],
    ["metrics"],
    [""],  # the package itself: the public names
    ["serve", "forward_auth", "integrations/*", "dashboard/*", "testing/*"],
    ["cli/*"],
    ["__main__"],
]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}

HEAVY = [
    "fastapi",
    "starlette",
    "flask",
    "werkzeug",
    "django",
    "redis",
    "psycopg",
    "pydantic",
    "argon2",
    "bcrypt",
    "typer",
    "rich",
    "sqlite3",
    "asyncio",
    "prometheus_client",
]


def module_name(path: Path, root: Path) -> str:
    """Dotted name below the package: ``backends.base``, ``backends`` for a folder, empty for the package."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    """The entry of LAYERS that covers a module."""
    folder = f"{module.partition('.')[0]}/*"
    return folder if folder in LEVELS else module


def imports_of(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and target of every import of the package itself, anywhere in the file."""
    modules = {module_name(each, root) for each in root.rglob("*.py")}
    here = module_name(path, root)
    folder = here.split(".") if path.name == "__init__.py" else here.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                if top == PACKAGE:
                    yield node.lineno, rest
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                above = [part for part in folder if part]
                base = [*above[: len(above) - node.level + 1], *(node.module or "").split(".")]
                source = ".".join(part for part in base if part)
            else:
                top, _, source = (node.module or "").partition(".")
                if top != PACKAGE:
                    continue
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                yield node.lineno, inner if inner in modules else source


def upward_arrows(root: Path) -> list[str]:
    """Every import that points up or sideways, and every module that is not in LAYERS."""
    found = []
    for path in sorted(root.rglob("*.py")):
        here = layer_of(module_name(path, root))
        if here not in LEVELS:
            found.append(f"{path.relative_to(root)} is not in LAYERS: say where it belongs")
            continue
        for line, target in imports_of(path, root):
            there = layer_of(target)
            if there == here and here.endswith("/*"):
                continue
            if LEVELS.get(there, len(LAYERS)) >= LEVELS[here]:
                found.append(f"{path.relative_to(root)}:{line} imports {target or PACKAGE}")
    return found


def test_no_import_points_upward() -> None:
    """Each module imports only from lines above its own, in functions and for type checkers too."""
    assert upward_arrows(ROOT) == []


def test_every_layer_is_listed_once() -> None:
    """The list is an order: no name is in it twice."""
    names = [name for names in LAYERS for name in names]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        pytest.param("errors.py", "from .settings import Settings", id="from-module"),
        pytest.param("errors.py", "from . import settings", id="from-package"),
        pytest.param("errors.py", "from . import __version__", id="from-package-itself"),
        pytest.param("errors.py", "import basicauth_mw.keys.model", id="absolute"),
        pytest.param("errors.py", "import basicauth_mw", id="package"),
        pytest.param("errors.py", "from basicauth_mw import settings", id="absolute-from-package"),
        pytest.param("errors.py", "from basicauth_mw.settings import Settings", id="absolute-from-module"),
        pytest.param("errors.py", "def f():\n    from .settings import Settings", id="in-a-function"),
        pytest.param(
            "errors.py", "if TYPE_CHECKING:\n    from .settings import Settings", id="for-type-checkers"
        ),
        pytest.param(
            "errors.py", "try:\n    from .settings import Settings\nexcept ImportError: pass", id="in-a-try"
        ),
        pytest.param("backends/memory.py", "from .backend import Backend", id="above-the-folder"),
        pytest.param("backends/memory.py", "from . import open_store", id="own-folder"),
        pytest.param("backends/memory.py", "from .env import EnvStore", id="neighbor"),
        pytest.param("backends/memory.py", "from ..asgi import BasicAuthMiddleware", id="far-above"),
        pytest.param("backends/base.py", "from .codec import load_key", id="next-line"),
        pytest.param("backends/__init__.py", "from .backend import Backend", id="folder-itself"),
        pytest.param("cli/keys.py", "from .. import __main__", id="from-a-folder"),
        pytest.param("unlisted.py", "", id="not-in-the-list"),
    ],
)
def test_an_upward_import_is_found(file: str, source: str, tmp_path: Path) -> None:
    """In every form of import; so is a module that is not in the list."""
    known = ["__init__", "errors", "settings", "wsgi", "asgi", "__main__"]
    backends = ("__init__", "base", "codec", "memory", "env", "backend")
    for name in [*known, *(f"backends/{each}" for each in backends)]:
        path = tmp_path / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert upward_arrows(tmp_path / PACKAGE) == []

    changed = tmp_path / PACKAGE / file
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(source)
    assert len(upward_arrows(tmp_path / PACKAGE)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        pytest.param("settings.py", "from . import errors", id="from-package"),
        pytest.param("settings.py", "import basicauth_mw.errors", id="absolute"),
        pytest.param("settings.py", "import json, asyncio\nfrom os import path", id="elsewhere"),
        pytest.param(
            "backends/memory.py", "from ..errors import KeyExists\nfrom .base import Store", id="folder"
        ),
        pytest.param("backends/__init__.py", "from .memory import MemoryStore", id="folder-itself"),
        pytest.param(
            "cli/keys.py", "from . import app\nfrom .app import main\nfrom .. import __version__", id="cli"
        ),
    ],
)
def test_a_downward_import_is_allowed(file: str, source: str, tmp_path: Path) -> None:
    """Imports from lower layers, and from other packages, are allowed."""
    for name in (
        "__init__",
        "errors",
        "settings",
        "backends/__init__",
        "backends/base",
        "backends/memory",
        "cli/app",
    ):
        path = tmp_path / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / PACKAGE / file).write_text(source)

    assert upward_arrows(tmp_path / PACKAGE) == []


def test_no_integration_imports_another() -> None:
    """Each can be deleted alone: shared code is in modules with an underscore."""
    shared, own = set(), set()
    for path in (ROOT / "integrations").rglob("*.py"):
        integration = path.relative_to(ROOT / "integrations").parts[0].removesuffix(".py")
        for line, target in imports_of(path, ROOT):
            folder, _, other = target.partition(".")
            neighbor = other.partition(".")[0]
            if folder == "integrations" and neighbor.startswith("_"):
                shared.add(neighbor)
            elif folder == "integrations":
                assert neighbor == integration, f"{path.relative_to(ROOT)}:{line} imports {target}"
                own.add(neighbor)
    assert shared == {"_common", "_openapi"}
    assert own == {"django"}, "the only integration of several modules"


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.asgi", f"{PACKAGE}.wsgi"])
def test_imports_are_light(module: str) -> None:
    """No framework, driver, hash library or event loop is imported before it is needed."""
    code = (
        f"import sys; before = set(sys.modules); import {module}; from {PACKAGE} import *; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert PACKAGE in loaded
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)
