"""OpenAI's client and a server with its interface: ``api_key`` is a token, and refusals are its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.system.real.serving import Key, check_life_of_a_key, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.redis_server import RedisServer
    from tests.system.real.serving import Running

APP = "tests.system.real.openai_server:app"
MESSAGES: Any = [{"role": "user", "content": "four words to repeat"}]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with serving(APP, tmp_path, BASICAUTH_SCHEMES="bearer") as app:
        yield app


def new_client(running: Running, token: str, *, max_retries: int = 0, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{running.url}/v1",
        api_key=token,
        max_retries=max_retries,
        http_client=openai.DefaultHttpxClient(trust_env=False, **options),
    )


def test_completions_and_models(running: Running) -> None:
    with new_client(running, running.keys.create().token) as client:
        assert [model.id for model in client.models.list()] == ["parrot"]
        completion = client.chat.completions.create(model="parrot", messages=MESSAGES)
        assert completion.choices[0].message.content == "four words to repeat"


def test_the_life_of_a_key(running: Running) -> None:
    """One client object, whose key is replaced while it runs."""
    with new_client(running, "none yet") as client:

        def use(key: Key) -> None:
            client.api_key = key.token
            client.models.list()

        check_life_of_a_key(running.keys, use, openai.AuthenticationError)


def test_a_wrong_key_is_an_authentication_error(running: Running) -> None:
    with (
        new_client(running, "sk-not-one-of-ours") as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.models.list()

    assert raised.value.status_code == 401
    assert raised.value.code == "invalid_credentials"
    assert raised.value.response.headers["www-authenticate"] == 'Bearer realm="api"'


def test_too_many_failures_are_a_rate_limit_error(tmp_path: Path) -> None:
    with serving(APP, tmp_path, BASICAUTH_SCHEMES="bearer", BASICAUTH_THROTTLE="4/minute") as running:
        issued = running.keys.create()
        wrong = Key(issued.client_id, running.keys.create().secret)
        with new_client(running, wrong.token) as client:
            for _ in range(4):
                with pytest.raises(openai.AuthenticationError):
                    client.models.list()
            with pytest.raises(openai.RateLimitError) as raised:
                client.models.list()

    assert raised.value.code == "throttled"
    assert 1 <= int(raised.value.response.headers["retry-after"]) <= 60


def test_a_stream_that_has_begun_ends_properly(running: Running) -> None:
    """A revoked key is refused from the next request on."""
    issued = running.keys.create()
    other = running.keys.create()
    with new_client(running, issued.token) as client:
        stream = client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
        parts = [next(stream).choices[0].delta.content]
        running.keys.revoke(issued.client_id)
        headers = {"Authorization": f"Bearer {other.token}"}
        assert httpx.post(f"{running.url}/continue", headers=headers, trust_env=False).status_code == 200
        parts += [chunk.choices[0].delta.content for chunk in stream]
        assert "".join(str(part) for part in parts) == "four words to repeat"


def test_an_outage_is_an_internal_server_error(tmp_path: Path, own_redis_server: RedisServer) -> None:
    """A client that retries waits as long as ``Retry-After`` says, and succeeds when the store is back."""
    store = own_redis_server.url()
    with serving(
        APP, tmp_path, store=store, BASICAUTH_SCHEMES="bearer", BASICAUTH_CACHE_TTL_S="0"
    ) as running:
        token = running.keys.create().token
        with new_client(running, token) as client:
            client.models.list()
            own_redis_server.freeze()
            with pytest.raises(openai.InternalServerError) as raised:
                client.models.list()
        assert raised.value.status_code == 503
        assert raised.value.code == "backend_unavailable"
        assert 1 <= int(raised.value.response.headers["retry-after"]) <= 5

        statuses: list[int] = []

        def on_response(response: httpx.Response) -> None:
            statuses.append(response.status_code)
            own_redis_server.thaw()

        hooks = {"response": [on_response]}
        with new_client(running, token, max_retries=10, event_hooks=hooks) as client:
            assert [model.id for model in client.models.list()] == ["parrot"]
        assert (statuses[0], statuses[-1]) == (503, 200)
