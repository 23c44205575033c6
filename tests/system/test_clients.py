"""Ordinary HTTP clients and Prometheus, with a server that serves the metrics of ``prometheus_client``."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

from tests.system.real.serving import Key, check_life_of_a_key, serving
from tests.waiting import LIMIT_S, free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.system.real.serving import Running

SCHEMES = ("basic", "bearer", "header:x-api-key")
APP = "prometheus_client:make_asgi_app"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("clients")
    with serving(APP, directory, BASICAUTH_SCHEMES=",".join(SCHEMES)) as running:
        yield running


def header(scheme: str, key: Key) -> dict[str, str]:
    return (
        {"X-API-Key": key.token} if scheme.startswith("header:") else {"Authorization": f"Bearer {key.token}"}
    )


def curl(url: str, scheme: str, key: Key) -> int:
    """The status that curl gets."""
    options = {
        "basic": ("-u", f"{key.client_id}:{key.secret}"),
        "bearer": ("-H", f"Authorization: Bearer {key.token}"),
        "header:x-api-key": ("-H", f"X-API-Key: {key.token}"),
    }[scheme]
    words = ["curl", "--silent", "--output", "-", "--write-out", "\n%{http_code}", *options, url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    body, _, status = done.stdout.rpartition("\n")
    assert ("process_cpu_seconds_total" in body) == (status == "200")
    return int(status)


def use_httpx(url: str, scheme: str, key: Key) -> int:
    options: dict[str, Any] = {"headers": header(scheme, key)}
    if scheme == "basic":
        options = {"auth": (key.client_id, key.secret)}
    return httpx.get(url, trust_env=False, timeout=LIMIT_S, **options).status_code


def use_requests(url: str, scheme: str, key: Key) -> int:
    with requests.Session() as session:
        session.trust_env = False
        if scheme == "basic":
            session.auth = (key.client_id, key.secret)
        else:
            session.headers.update(header(scheme, key))
        return session.get(url, timeout=LIMIT_S).status_code


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("client", [curl, use_httpx, use_requests])
def test_the_life_of_a_key(running: Running, client: Callable[[str, str, Key], int], scheme: str) -> None:
    def use(key: Key) -> None:
        status = client(running.url, scheme, key)
        if status == 401:
            raise PermissionError
        assert status == 200

    check_life_of_a_key(running.keys, use, PermissionError)


def test_the_challenges_are_in_the_order_of_the_setting(running: Running) -> None:
    response = httpx.get(running.url, trust_env=False)

    assert response.headers.get_list("www-authenticate") == [
        'Basic realm="api", charset="UTF-8"',
        'Bearer realm="api"',
    ]


PROMETHEUS = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: app
    metrics_path: /
    {credentials}
    static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param("authorization: {{type: Bearer, credentials_file: {file}}}", id="authorization"),
        pytest.param("basic_auth: {{username: {client_id}, password_file: {file}}}", id="basic_auth"),
    ],
)
def test_prometheus(running: Running, credentials: str, tmp_path: Path) -> None:
    """It reads the file before each scrape, so a rotation needs no reload."""
    issued = running.keys.create()
    by_token = credentials.startswith("authorization")
    file = tmp_path / "credentials"
    file.write_text(issued.token if by_token else issued.secret)
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        PROMETHEUS.format(
            credentials=credentials.format(file=file, client_id=issued.client_id),
            target=running.url.removeprefix("http://"),
        )
    )
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt-get install --no-install-recommends prometheus"
    port = free_port()
    words = [
        *(program, f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
    ]
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(words, cwd=tmp_path, stdout=output, stderr=output) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LIMIT_S) as client,
    ):
        try:
            wait_until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            wait_until(lambda: client.get("/-/ready").status_code == 200)

            def health() -> tuple[str, str]:
                data = json.loads(client.get("/api/v1/targets").content)["data"]
                found = [(each["health"], each["lastError"]) for each in data["activeTargets"]]
                return found[0] if found else ("unknown", "")

            def scrapes() -> int:
                """How many scrapes there were since the start that got a response with metrics."""
                query = {"query": "sum(count_over_time(process_cpu_seconds_total[1h]))"}
                result = client.get("/api/v1/query", params=query).json()["data"]["result"]
                return int(result[0]["value"][1]) if result else 0

            wait_until(lambda: health() == ("up", ""))
            for overlap_s in (3600, 0):
                rotated = running.keys.rotate(issued.client_id, overlap_s=overlap_s)
                file.write_text(rotated.token if by_token else rotated.secret)
                before = scrapes()
                wait_until(lambda before=before: scrapes() > before + 1)
                wait_until(lambda: health() == ("up", ""))
            running.keys.revoke(issued.client_id)
            wait_until(lambda: health() == ("down", "server returned HTTP status 401 Unauthorized"))
        finally:
            process.terminate()
