"""The documentation matches the code: its examples run, and its tables list what the code has."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import errors
from basicauth_mw.auth.authenticator import _AUDITED
from basicauth_mw.keys.generated_secrets import PATTERN, SecretShape, classify, generate
from basicauth_mw.settings import FIELDS, SettingField
from tests.console import Reader
from tests.forking import Forker

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "tests" / "TRUST.md",
]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# Appended to a block: every app in it that a server could load, by name or from a factory, must refuse a
# request without a key: on every path, or on those that a comment in the block names. An app is recognized by
# the parameters of its call.
ONLY = re.compile(r"# only (/\S+)/\* needs a key")
CHECK_APPS = """

def _check_apps(names, paths):
    import asyncio, inspect

    def kind_of(found):
        called = found if inspect.isfunction(found) else getattr(type(found), "__call__", None)
        is_part = type(found).__name__ == "APIRouter"  # which FastAPI includes in an app
        if is_part or inspect.isclass(found) or not inspect.isfunction(called):
            return None
        parameters = [name for name in inspect.signature(called).parameters if name != "self"]
        if len(parameters) == 2 and parameters[1] == "start_response":
            return "WSGI"
        return "ASGI" if parameters == ["scope", "receive", "send"] else None

    async def status_of(app, path):
        sent = []
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}
        async def send(message):
            sent.append(message)
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": "GET", "scheme": "http", "path": path, "raw_path": path.encode(),
            "query_string": b"EIO=4&transport=polling", "root_path": "", "headers": [],
            "client": ("192.0.2.1", 1), "server": ("127.0.0.1", 80), "state": {}, "extensions": {},
        }
        await app(scope, receive, send)
        return sent[0]["status"]

    def call(app, path):
        from wsgiref.util import setup_testing_defaults
        environ = {"PATH_INFO": path, "QUERY_STRING": "EIO=4&transport=polling", "REMOTE_ADDR": "192.0.2.1"}
        setup_testing_defaults(environ)
        seen = []
        b"".join(app(environ, lambda status, headers, exc_info=None: seen.append(status)))
        return int(seen[0][:3])

    found = 0
    for name, app in names.items():
        if name in ("create_app", "make_app") and not inspect.signature(app).parameters:
            app = app()  # as `flask run` does
        if (kind := kind_of(app)) is not None:
            found += 1
            for path in paths:
                status = asyncio.run(status_of(app, path)) if kind == "ASGI" else call(app, path)
                assert status == 401, f"{name}: {path}: {status} without a key"
    return found


_APPS = _check_apps(dict(globals()), PATHS)
"""


def with_check(code: str) -> str:
    """A block with the check of its apps."""
    paths = [f"{folder}/hello" for folder in ONLY.findall(code)] or ["/hello", "/socket.io/", "/admin/"]
    return code + CHECK_APPS.replace("PATHS", repr(paths))


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GATEWAYS = [("gateways", path) for path in (ROOT / "examples" / "gateways").iterdir() if path.is_file()]
DEPLOY = [
    ("deployment", ROOT / "examples" / "deploy" / name)
    for name in (
        *("Dockerfile", "alerts.yml", "app.py", "app.service", "compose.yaml", "kubernetes.yaml"),
        *("compose.postgres.yaml", "make-secrets.sh"),
    )
]


def python_blocks() -> list[object]:
    return [
        *(
            pytest.param(path.read_text(), id=f"examples/{path.name}")
            for path in EXAMPLES
            if "django" not in path.name
        ),
        *_python_blocks(),
    ]


def _python_blocks() -> list[object]:
    return [
        pytest.param(code, id=f"{path.name}-{number}")
        for path in DOCS
        for number, (language, code) in enumerate(BLOCK.findall(path.read_text()), 1)
        if language == "python"
    ]


@pytest.mark.parametrize(("page", "path"), [*sorted(GATEWAYS), *DEPLOY], ids=lambda each: Path(each).name)
def test_example_is_shown(page: str, path: Path) -> None:
    """The documentation has each file as it is; ``tests/gateways`` and ``tests/system`` run them."""
    document = (ROOT / "docs" / f"{page}.md").read_text()
    assert path.read_text() in [code for _, code in BLOCK.findall(document)]


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with Forker() as forker:
        yield forker


@pytest.mark.parametrize("code", python_blocks())
def test_python_block_runs(code: str, forker: Forker, tmp_path: Path) -> None:
    """Every Python block and example runs unchanged, and leaves no app that allows requests without a key."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ["BASICAUTH_KEYS"] = "demo:p@55w0rd"
    environ["METRICS_PORT"] = "0"  # any free one

    status, printed = forker.run(with_check(code), tmp_path, environ)

    assert status == 0, printed


def test_commands_that_set_keys_select_the_backend() -> None:
    """A command with ``BASICAUTH_KEYS`` works in a shell that has exported another ``BASICAUTH_BACKEND``."""
    lines = [line for path in DOCS for line in path.read_text().splitlines()]
    commands = [line for line in lines if re.search(r"BASICAUTH_KEYS=.*(uvicorn|flask run)", line)]

    assert len(commands) >= 4
    assert all("BASICAUTH_BACKEND=env: " in command for command in commands)


def chapter(heading: str) -> str:
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def page(name: str) -> str:
    return (ROOT / name).read_text()


# Commands that are followed, and how many there are at least.
FOLLOWED = {
    "README.md": (README.partition("\n## ")[0], 12),
    "README.md: FastAPI": (chapter("FastAPI and Starlette"), 3),
    "README.md: Flask": (chapter("Flask"), 4),
    "README.md: Keys": (chapter("Keys"), 11),
    "docs/cli.md": (page("docs/cli.md"), 2),
    "docs/dashboard.md": (page("docs/dashboard.md"), 3),
    "docs/gateways.md": (page("docs/gateways.md"), 5),
    "docs/keys.md": (page("docs/keys.md"), 14),
    "docs/schemes.md": (page("docs/schemes.md"), 6),
    "docs/tutorial.md": (page("docs/tutorial.md"), 21),
}
# Tests that run the commands of other pages, or do what they do.
TESTED_BY = {
    "CONTRIBUTING.md": ".ci/run",
    "docs/apps.md": "tests/system/test_large_apps.py",
    "docs/deployment.md": "tests/system/test_deploy.py",
    "docs/logging.md": "tests/cli/test_logs.py",
    "docs/migrating.md": "tests/test_migrating.py",
    "docs/testing.md": "tests/test_docs.py",
}


def test_all_commands_are_run() -> None:
    """A page with commands is followed, or names the tests that run them."""
    with_commands = {
        str(path.relative_to(ROOT))
        for path in DOCS
        if re.search(r"^ *```(?:console|sh|bash)$", path.read_text(), re.MULTILINE)
    }
    assert with_commands == {name.partition(":")[0] for name in FOLLOWED} | TESTED_BY.keys()
    assert all((ROOT / tests).exists() for tests in TESTED_BY.values())
    targets = re.findall(r"^([a-z-]+):.*##", page("Makefile"), re.MULTILINE)
    named = {target for path in DOCS for target in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text())}
    assert named <= {*targets}


@pytest.mark.parametrize("name", FOLLOWED)
def test_commands_print_what_is_shown(name: str, tmp_path: Path) -> None:
    """A reader who saves the files and runs the commands of a page in order sees the output shown."""
    text, at_least = FOLLOWED[name]
    with Reader(tmp_path) as reader:
        assert reader.follow(text) >= at_least


def test_first_screen() -> None:
    """The README shows a 200 and a 401 within 14 lines."""
    assert README[: README.index("invalid_credentials")].count("\n") < 14


def test_generated_secret_format() -> None:
    """The expression in docs/keys.md is the package's, and its function recognizes generated secrets."""
    text = (ROOT / "docs" / "keys.md").read_text()
    assert f"```text\n{PATTERN}\n```" in text
    (snippet,) = [code for _, code in BLOCK.findall(text) if "def is_generated" in code]
    names: dict[str, Any] = {}
    exec(snippet, names)
    for prefix in ("sk", "id", "acme_live", "x" * 32):
        secret = generate(prefix)
        assert re.fullmatch(PATTERN, secret)
        assert names["is_generated"](secret)
        for place in range(len(prefix) + 1, len(secret)):
            changed = secret[:place] + ("a" if secret[place] != "a" else "b") + secret[place + 1 :]
            assert classify(changed) is SecretShape.BAD_CHECKSUM
            assert not names["is_generated"](changed)


# --- docs/logging.md

LOGGING = (ROOT / "docs" / "logging.md").read_text()

# Events that a recipe must record.
AUDITED = """
from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.wsgi import BasicAuthMiddleware
keys = open_backend("memory:", settings=Settings())
keys.create(client_id="ci")
keys.rotate("ci")
environ = {"HTTP_AUTHORIZATION": encode_basic("ci", "wrong"), "REMOTE_ADDR": "192.0.2.1", "PATH_INFO": "/"}
BasicAuthMiddleware(None, keys, settings=Settings())(environ, lambda status, headers: None)
"""


def recipe(heading: str) -> str:
    """Return the Python block under a heading of docs/logging.md."""
    ((_, code),) = BLOCK.findall(LOGGING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0])
    return str(code)


def run_recipe(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + AUDITED],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_json_recipe(tmp_path: Path) -> None:
    run_recipe(recipe("JSON lines"), tmp_path)

    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["key.created", "key.rotated", "auth.refused"]
    for line in lines:
        assert list(line) == [
            "time",
            "event",
            "client_id",
            "reason",
            "detail",
            "scheme",
            "address",
            "request_id",
            "actor",
        ]
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert (lines[2]["client_id"], lines[2]["reason"], lines[2]["address"]) == (
        "ci",
        "wrong_secret",
        "192.0.2.1",
    )


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_syslog_recipe(tmp_path: Path, kind: str) -> None:
    """A syslog server gets one datagram per record."""
    code = recipe("syslog")
    assert code.count('("127.0.0.1", 514)') == 1
    family = socket.AF_INET if kind == "udp" else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0) if kind == "udp" else str(tmp_path / "log"))
        server.settimeout(20)
        run_recipe(code.replace('("127.0.0.1", 514)', repr(server.getsockname())), tmp_path)
        created, rotated, refused = (server.recv(65536).decode() for _ in range(3))

    authpriv_info = "<86>"  # RFC 5424, section 6.2.1: 10 * 8 + 6
    head = rf"{authpriv_info}basicauth_mw\[\d+\]: "
    assert re.fullmatch(rf"{head}event='key.created' client_id='ci'\0", created)
    assert re.fullmatch(rf"{head}event='key.rotated' client_id='ci'\0", rotated)
    assert re.fullmatch(
        rf"{head}event='auth.refused' client_id='ci' reason='wrong_secret' scheme='basic' "
        r"address='192.0.2.1' request_id='[0-9a-f]+'\0",
        refused,
    )


def test_every_event_is_listed() -> None:
    """docs/logging.md lists exactly the events and reasons that are in the code."""
    source = "".join(path.read_text() for path in (ROOT / "basicauth_mw").rglob("*.py"))
    table = LOGGING.partition("| event |")[2].partition("\n\n")[0]
    kinds = r"(?:key|auth)\.[a-z]+"

    assert set(re.findall(rf"`({kinds})`", table)) == set(re.findall(rf'"({kinds})"', source))
    reasons = set(re.findall(r"`([a-z_]+)`", table)) - {"reason"}
    assert reasons == set(_AUDITED) | {"insufficient_scope"}


def test_testing_guide(tmp_path: Path) -> None:
    """The tests in docs/testing.md run and pass."""
    text = (ROOT / "docs" / "testing.md").read_text()
    blocks = [code for language, code in BLOCK.findall(text) if language == "python"]
    for number, code in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(code)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")},
            "BASICAUTH_KEYS": "demo:p@55w0rd",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def row(option: SettingField) -> str:
    default = option.default
    if option.name == "slow_hash_workers":
        shown = "CPUs, at most 4"
    elif default is None or default in ("", ()):
        shown = ""
    elif isinstance(default, tuple):
        shown = f"`{','.join(default)}`"
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = f"`{default}`" if isinstance(default, str) else f"{default:g}"
    shown_help = option.help.replace("<", "&lt;")
    return f"| `{option.env}` | {shown} | {shown_help} |"


def test_settings_table() -> None:
    """docs/settings.md lists every setting with its default and its help, in order, and nothing else."""
    text = (ROOT / "docs" / "settings.md").read_text()
    table = text.partition("<!-- settings:")[2].partition("<!-- end of settings -->")[0]

    assert [row(option) for option in FIELDS] == table.strip().splitlines()[3:]


def test_every_code_is_listed() -> None:
    """docs/errors.md lists every code that an error of the package can give a client."""
    text = (ROOT / "docs" / "errors.md").read_text()
    listed = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text, re.MULTILINE))
    codes = {
        (str(kind.status), kind.code)
        for name in errors.__all__
        if (kind := getattr(errors, name)).status is not None
    }

    assert listed == codes | {("500", "internal_error"), ("504", "timeout")}


def test_map_of_the_code() -> None:
    """CONTRIBUTING.md has one line for each folder and module of the package, each with a description."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    ((_, tree),) = BLOCK.findall(text.partition("<!-- map:")[2].partition("<!-- end of map -->")[0])
    listed, folders = [], [""]
    for line in tree.splitlines()[1:]:
        indent, name = re.fullmatch(r"( +)(\S+) +\S.*", line).groups()
        depth = len(indent) // 2
        del folders[depth:]
        listed.append("".join([*folders, name]))
        if name.endswith("/"):
            folders.append(name)
    package = ROOT / "basicauth_mw"
    modules = [path.relative_to(package) for path in package.rglob("*.py")]
    names = {str(path) for path in modules if path.name != "__init__.py"}
    names |= {f"{path.parent}/" for path in modules if path.name == "__init__.py" and path.parent.name}

    assert sorted(listed) == sorted(names)


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links() -> None:
    """Every relative link leads to a file, and to a heading in it."""
    for path in DOCS:
        for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", path.read_text()):
            there = path.parent / target if target else path
            assert there.exists(), f"{path.name}: {target}"
            assert not anchor or anchor in anchors(there.read_text()), f"{path.name}: {target}#{anchor}"


def test_figures_match_the_results() -> None:
    """The README's figures are those of benchmarks/RESULTS.md."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        figures = importlib.import_module("figures")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    assert figures.update(README, results) == README
    assert figures.BEGIN in README


def test_an_app_is_imported_without_keys(tmp_path: Path) -> None:
    """With the variable from docs/testing.md, an app is imported without keys, and refuses all requests.

    Without the variable, the error names it. All examples and blocks run in one process, each in its own
    module.
    """
    line = next(
        block.removeprefix("$ export ").strip()
        for language, block in BLOCK.findall((ROOT / "docs" / "testing.md").read_text())
        if language == "console"
    )
    name, _, value = line.partition("=")
    (_, app), *_ = [block for block in BLOCK.findall(README) if block[0] == "python"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}

    code = [sys.executable, "-W", "error", "-c", app]
    refused = subprocess.run(code, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert line in refused.stderr
    blocks = [str(code) for each in python_blocks() for code in each.values if "django" not in str(code)]
    together = (
        "import json, prometheus_client, sys, types\n"
        "def run(code):\n"
        "    prometheus_client.REGISTRY = prometheus_client.CollectorRegistry()\n"
        "    module = sys.modules['app'] = types.ModuleType('app')\n"
        "    exec(code, vars(module))\n"
        "    return module._APPS\n"
        "print(json.dumps([run(code) for code in json.load(sys.stdin)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", together],
        input=json.dumps([*map(with_check, blocks)]),
        cwd=tmp_path,
        env={**environ, name: value, "METRICS_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout.splitlines()[-1])) > 20


def test_a_later_file_config_silences_the_audit(tmp_path: Path) -> None:
    """``fileConfig`` silences the audit log, and the argument in docs/logging.md prevents that."""
    ((_, code),) = BLOCK.findall(LOGGING.partition("\n## A later `fileConfig`\n")[2].partition("\n## ")[0])
    without = code.replace(", disable_existing_loggers=False", "").replace("assert not", "assert")
    assert without != code
    for each in (code, without):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", each],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")


COMPARISON = (ROOT / "docs" / "comparison.md").read_text()
SOURCES = re.findall(r"^\| ([A-Z]{2}\d+) \| `([^`]+)` \| (no )?(.+) \|$", COMPARISON, re.MULTILINE)


@pytest.mark.parametrize(("source", "file", "absent", "evidence"), SOURCES, ids=[row[0] for row in SOURCES])
def test_sources_of_the_comparison(source: str, file: str, absent: str, evidence: str) -> None:
    """The released packages contain what docs/comparison.md cites, or do not contain what is not included."""
    package = file.partition("/")[0].removesuffix(".py")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent if package == file.removesuffix(".py") else Path(spec.origin).parents[1]
    text = " ".join((folder / file).read_text().split())
    texts = re.findall(r"`([^`]+)`", evidence)
    assert texts
    for each in texts:
        assert (each.lower() in text.lower()) != bool(absent), each


def test_every_cell_of_the_comparison_has_a_source() -> None:
    table = COMPARISON.partition("\n\n## Sources")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 12
    cited = set()
    for _, ours, *others in rows:
        assert "](" in ours
        for cell in others:
            codes = re.findall(r"\[([A-Z]{2}\d+)\]\(#", cell)
            assert codes or cell == "-", cell
            cited.update(codes)
    assert cited == {source for source, *_ in SOURCES}
