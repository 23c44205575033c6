"""The files in ``examples/deploy`` work: the image in a sandbox in place of a container, with the settings of
the compose file and of the manifests for Kubernetes; the systemd unit; the alerts; the dashboard.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import kubernetes_validate
import pytest
import yaml

from tests.console import Reader
from tests.postgres_server import TRUST, PostgresServer
from tests.redis_server import find_binary, find_port
from tests.release.test_deploy_files import expressions
from tests.system.container import Image, build
from tests.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
LIMIT_S = 20.0


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    return folder


@pytest.fixture(scope="module")
def image(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(DEPLOY, tmp_path_factory.mktemp("image"), wheels)


class Container:
    """A running container; its address is another one than in the image."""

    def __init__(self, image: Image, port: int, **options: Any) -> None:
        self.image, self.port, self.options = image, port, options

    def sandbox(self, *command: str) -> list[str]:
        here = [word.replace("0.0.0.0", "127.0.0.1").replace("8000", str(self.port)) for word in command]
        return self.image.sandbox(*here, **self.options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=LIMIT_S, **options)

    def is_healthy(self) -> bool:
        return not subprocess.run(self.sandbox(*self.image.health), capture_output=True).returncode


@contextmanager
def running(
    image: Image,
    log: Path,
    environment: Mapping[str, str],
    mounts: Mapping[str, Path],
    user: int,
    volumes: Mapping[str, Path] | None = None,
) -> Iterator[Container]:
    container = Container(
        image, free_port(), environment=environment, mounts=mounts, user=user, volumes=volumes
    )
    with log.open("wb") as output:
        server = subprocess.Popen(container.sandbox(*image.command), stdout=output, stderr=output)
    try:
        wait_until(lambda: container.is_healthy() or server.poll() is not None)
        assert server.poll() is None, log.read_text()
        yield container
    finally:
        server.terminate()
        server.wait(LIMIT_S)


@pytest.mark.parametrize("user", [None, 1_000_650_000], ids=["user-of-the-image", "any-user"])
def test_image(image: Image, user: int | None, tmp_path: Path) -> None:
    """It serves as a user without an account, who cannot write anything."""
    uid = image.user if user is None else user
    environment = {"BASICAUTH_BACKEND": "env:", "BASICAUTH_KEYS": "demo:p@55w0rd"}
    with running(image, tmp_path / "log", environment, {}, uid) as container:
        assert container.get("/hello", auth=("demo", "p@55w0rd")).json() == {"hello": "demo"}
        assert container.get("/hello", auth=("demo", "wrong")).status_code == 401
        assert container.get("/metrics/").status_code == 401
        assert "basicauth_circuit_open 0.0" in container.get("/metrics/", auth=("demo", "p@55w0rd")).text
        assert container.get("/ready").status_code == 204
        assert run(*container.sandbox("id", "-u")) == f"{uid}\n"
        for folder in ("/app", "/tmp", "/"):
            written = subprocess.run(container.sandbox("touch", f"{folder}/x"), capture_output=True)
            assert b"Read-only file system" in written.stderr


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder that ``make-secrets.sh`` creates."""
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    run(tmp_path / "make-secrets.sh")
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    return tmp_path / "secrets"


@contextmanager
def composed(image: Image, services: dict[str, Any], secrets: Path) -> Iterator[Container]:
    """The app of a compose file, in which a new key works, and ``check`` finds no problem."""
    app = services["app"]
    mounts = {f"/run/secrets/{name}": secrets / name for name in app["secrets"]}
    uid = int(app["user"].partition(":")[0])
    with running(image, secrets.with_name("log"), app["environment"], mounts, uid) as container:
        create = container.sandbox("basicauth-mw", "keys", "create", "--name", "ci", "--json")
        key = json.loads(run(*create))
        response = container.get("/hello", auth=(key["client_id"], key["secret"]))
        assert response.json() == {"hello": key["client_id"]}
        checked = json.loads(run(*container.sandbox("basicauth-mw", "check", "--json")))
        assert checked["problems"] == []
        assert container.get("/ready").status_code == 204
        yield container


def test_compose_with_redis(image: Image, secrets: Path, tmp_path: Path) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    port = find_port()
    backend = secrets / "backend"
    backend.write_text(backend.read_text().replace("redis:6379", f"127.0.0.1:{port}"))
    command = services["redis"]["command"].replace("/run/secrets", str(secrets))
    command = command.replace("/data", str(tmp_path)).replace("redis-server", find_binary())
    redis = subprocess.Popen([*command.split(), "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        cli = f"{Path(find_binary()).with_name('redis-cli')} -p {port}"
        health = services["redis"]["healthcheck"]["test"].replace("redis-cli", cli)
        wait_until(lambda: not subprocess.run(["sh", "-c", health]).returncode)
        with composed(image, services, secrets) as container:
            redis.terminate()
            redis.wait(LIMIT_S)
            wait_until(lambda: container.get("/ready").status_code == 503)
            assert container.get("/health").status_code == 204
    finally:
        redis.kill()
        redis.wait()


def test_compose_with_postgres(image: Image, secrets: Path) -> None:
    services = yaml.safe_load((DEPLOY / "compose.postgres.yaml").read_text())["services"]
    user = services["postgres"]["environment"]["POSTGRES_USER"]
    with PostgresServer() as server:
        password = (secrets / "postgres_password").read_text()
        server.execute(f"ALTER ROLE {user} PASSWORD '{password}'")  # as the image does, with its database
        server.execute(f"CREATE DATABASE {user}")
        server.allow(f"host {user} all 127.0.0.1/32 scram-sha-256\n{TRUST}")
        server.reload()
        backend = secrets / "backend_postgres"
        backend.write_text(backend.read_text().replace("@postgres/", f"@127.0.0.1:{server.port}/"))
        with composed(image, services, secrets):
            pass


def test_kubernetes(image: Image, tmp_path: Path) -> None:
    """The container of the Deployment passes its probes, and uses a Secret as it is and as it is changed."""
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    (described,) = deployment["spec"]["template"]["spec"]["containers"]
    (volume,) = deployment["spec"]["template"]["spec"]["volumes"]
    (mount,) = described["volumeMounts"]
    environment = {variable["name"]: variable["value"] for variable in described["env"]}
    secret = tmp_path / "secret"  # as the kubelet writes it: links to a folder that it replaces
    (secret / "1").mkdir(parents=True)
    (secret / "1" / "keys").write_text("demo:p@55w0rd")
    (secret / "1" / "keys").chmod(volume["secret"]["defaultMode"])
    (secret / "..data").symlink_to("1")
    (secret / "keys").symlink_to("..data/keys")
    with running(
        image, tmp_path / "log", environment, {mount["mountPath"]: secret}, 1_000_650_000
    ) as container:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container.get(described[probe]["httpGet"]["path"]).status_code == 204
        assert container.get("/hello", auth=("demo", "p@55w0rd")).status_code == 200
        (secret / "2").mkdir()
        (secret / "2" / "keys").write_text("demo:another")
        (secret / "new").symlink_to("2")
        (secret / "new").rename(secret / "..data")
        wait_until(lambda: container.get("/hello", auth=("demo", "p@55w0rd")).status_code == 401)
        assert container.get("/hello", auth=("demo", "another")).status_code == 200


@pytest.mark.parametrize("source", ["index", "clone"])
def test_tutorial(source: str, wheels: Path, tmp_path: Path) -> None:
    """A reader of the tutorial gets a container that serves the app, with the keys in a folder outside."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    (start,) = re.findall(r"^docker run .*?[^\\]$", text, re.MULTILINE | re.DOTALL)
    environment = dict(re.findall(r" -e (\w+)=(\S+)", start))
    ((outside, inside),) = re.findall(r' -v "\$PWD/(\w+):(/\w+)"', start)
    assert '--user "$(id -u)" --read-only' in start
    folder, images = tmp_path / "tutorial", tmp_path / "images"
    folder.mkdir()
    images.mkdir()
    with Reader(folder) as reader:
        reader.follow(text)
        auth = ("ci", reader.environ["SECRET"])
    if source == "clone":
        (commands,) = re.findall(r"^pip wheel .*?(?=^```)", text, re.MULTILINE | re.DOTALL)
        commands = commands.replace("PATH-OF-THE-CLONE", str(ROOT)).replace(
            "pip ", f"{sys.executable} -m pip "
        )
        run("bash", "-ec", commands, cwd=folder)
        wheels = images  # none there
    volumes = {inside: folder / outside}

    image = build(folder, images, wheels)
    with running(image, tmp_path / "log", environment, {}, os.getuid(), volumes) as container:
        assert container.get("/hello", auth=auth).json() == {"hello": "Nightly build"}
        assert container.get("/hello").status_code == 401
        assert "ci  active" in run(*container.sandbox("basicauth-mw", "keys", "list"))


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_kubernetes_manifests(version: str) -> None:
    for manifest in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_systemd_unit(tmp_path: Path) -> None:
    """It is valid, and exposes little."""
    program = tmp_path / "uvicorn"
    program.touch(0o755)
    text = (DEPLOY / "app.service").read_text()
    unit = tmp_path / "app.service"
    unit.write_text(re.sub(r"(?<=ExecStart=)\S+", str(program), text))

    assert run("systemd-analyze", "verify", unit) == ""
    run("systemd-analyze", "security", "--offline=yes", "--threshold=20", unit)


def test_alerts() -> None:
    run("promtool", "check", "rules", "alerts.yml", cwd=DEPLOY)
    run("promtool", "test", "rules", "alerts_test.yml", cwd=DEPLOY)


def test_dashboard(tmp_path: Path) -> None:
    """Prometheus parses its expressions."""
    rules = [
        {"record": f"expression_{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run("promtool", "check", "rules", "rules.yml", cwd=tmp_path)
