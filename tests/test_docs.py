"""The documents say what is so: their code runs, their tables are made from the code."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from basicauth_mw import errors
from basicauth_mw.minting import PATTERN
from basicauth_mw.settings import FIELDS, Option

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What the README's curl lines use, for machines without it.
CURL = """#!{python}
import sys, urllib.request, urllib.error, base64
arguments = sys.argv[1:]
user = arguments[arguments.index("-u") + 1]
request = urllib.request.Request(arguments[-1])
request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
try:
    print(urllib.request.urlopen(request).read().decode(), end="")
except urllib.error.HTTPError as answer:
    print(answer.read().decode(), end="")
"""


def python_blocks() -> list[object]:
    return [
        pytest.param(code, id=f"{path.name}-{number}")
        for path in DOCS
        for number, (language, code) in enumerate(BLOCK.findall(path.read_text()), 1)
        if language == "python"
    ]


@pytest.mark.parametrize("code", python_blocks())
def test_python_block_runs(code: str, tmp_path: Path) -> None:
    """Every Python block runs as it stands, in a process of its own, with a key in the environment."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ["BASICAUTH_KEYS"] = "demo:p@55w0rd"

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr


def test_first_screen(tmp_path: Path) -> None:
    """The README's first three blocks do what they show: a key, an app, a 200 and a 401 with its body."""
    (_, install), (_, app), (_, requests) = BLOCK.findall(README)[:3]
    assert README[: README.index("invalid_credentials")].count("\n") < 30
    (tmp_path / "app.py").write_text(app)
    commands = tmp_path / "bin"
    commands.mkdir()
    if shutil.which("curl") is None:
        (commands / "curl").write_text(CURL.format(python=sys.executable))
        (commands / "curl").chmod(0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ["PATH"] = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def shell(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip, export, create, copy = (line.removeprefix("$ ") for line in install.splitlines())
    assert pip.startswith("pip install")
    assert copy.startswith("export ID=id_... SECRET=sk_...")
    name, _, value = export.removeprefix("export ").partition("=")
    environ[name] = value
    printed = shell(create)
    environ["ID"], environ["SECRET"] = (
        re.search(rf"\b{prefix}_[0-9A-Za-z]{{49}}\b", printed)[0] for prefix in ("id", "sk")
    )
    assert re.fullmatch(PATTERN, environ["SECRET"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve, *rest = requests.splitlines()
    assert serve == "$ uvicorn app:app &"
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"],
        cwd=tmp_path,
        env=environ,
    )
    try:
        wait_for_port(port)
        for command, expected in zip(rest[::2], rest[1::2], strict=True):
            answer = shell(
                command.removeprefix("$ ").replace(":8000", f":{port}").replace("curl", "curl -s", 1)
            )
            pattern = re.escape(expected).replace(re.escape("..."), "[0-9a-f]+")
            assert re.fullmatch(pattern, answer.rstrip("\n"))
    finally:
        server.terminate()
        server.wait(10)


def wait_for_port(port: int) -> None:
    give_up_at = time.monotonic() + 20
    while time.monotonic() < give_up_at:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server did not come up")


def row(option: Option) -> str:
    default = option.default
    if option.name == "slow_hash_workers":
        shown = "CPUs, at most 4"
    elif default is None or default in ("", ()):
        shown = ""
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = f"`{default}`" if isinstance(default, str) else f"{default:g}"
    return f"| `{option.env}` | {shown} | {option.help} |"


def test_settings_table() -> None:
    """The README lists every setting with its default and its help, in order, and nothing else."""
    table = README.partition("<!-- settings:")[2].partition("<!-- end of settings -->")[0]

    assert [row(option) for option in FIELDS] == table.strip().splitlines()[3:]


def test_every_answer_is_listed() -> None:
    """The README's table of answers has every code that an error of ours can give a client."""
    listed = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", README, re.MULTILINE))
    codes = {
        (str(kind.status), kind.code)
        for name in errors.__all__
        if (kind := getattr(errors, name)).status is not None
    }

    assert listed == codes | {("500", "internal_error"), ("504", "timeout")}


def test_links() -> None:
    """Every relative link leads to a file."""
    for path in DOCS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
