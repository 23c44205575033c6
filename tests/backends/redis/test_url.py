"""Valid and invalid Redis URLs; errors show no password."""

from __future__ import annotations

import pytest

from basicauth_mw.backends.redis.cluster import Node
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import ConfigurationError


@pytest.mark.parametrize(
    "url",
    [
        "redis:",
        "http://h",
        "redis://",
        "redis:///0",
        "redis://:hunter2@h:port/0",
        "redis://:hunter2@h:99999/0",
        "redis://:hunter2@[::1/0",
        "redis://:hun#ter2@h/0",
        "redis://h/0#hunter2",
        "redis://:hunter2@h/zero",
        "redis://:hunter2@h/0/1",
        "redis://:hunter2@h/0?db=1",
        "redis://:hunter2@h?db=x",
        "redis://:hunter2@h?prefix=",
        "redis://:hunter2@h?prefix={x}",
        "redis://:hunter2@h?prefix=a&prefix=b",
        "redis://:hunter2@h?socket_timeout=100",
        "redis://:hunter2@h?decode_responses=1",
        "redis://:hunter2@h?retry_on_timeout=1",
        "redis://:hunter2@h?hunter2",
        "redis://:hunter2@h/0\n",
        "rediss://:hunter2@h/0?ssl_cert_reqs=hunter2",
        "unix://",
        "unix://host/path.sock",
        "redis://:hunter2@h?ssl_cert_reqs=none",
        "redis://:hunter2@h,i",
        "redis+sentinel://",
        "redis+sentinel://:hunter2@h",
        "redis+sentinel://:hunter2@h,,i/name",
        "redis+sentinel://:hunter2@h:26379/two words",
        "redis+sentinel://:hunter2@h:26379/name/hunter2",
        "redis+sentinel://:hunter2@h:26379/name/1?db=1",
        "redis+sentinel://:hunter2@h:port/name",
        "redis+sentinel://:hunter2@h/name?sentinel_password=a&sentinel_password=hunter2",
        "redis+sentinel://:hunter2@h/name?ssl_cert_reqs=none",
        "rediss+sentinel://:hunter2@h/name?ssl_cert_reqs=hunter2",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@h:7000,",
        "redis+cluster://:hunter2@h:7000,i:hunter2",
        "redis+cluster://:hunter2@h/1",
        "redis+cluster://:hunter2@h?db=1",
        "redis+cluster://:hunter2@h/name",
        "redis+cluster://:hunter2@h?sentinel_password=hunter2",
        "redis+cluster://:hunter2@h?ssl_cert_reqs=none",
        "redis+other://:hunter2@h",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    """The error does not contain the password."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(url)
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_all_problems_of_a_url_are_reported_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisStore("redis+sentinel://h,,i/a b/x?ssl_cert_reqs=none&prefix=&db=x&nope=1&db=y")
    assert len(caught.value.problems) == 10


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "REDIS://h:6379/0",
        "redis://user:p%40ss%2F%23%25@h:6379/15?prefix=app:auth",
        "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false",
        "unix:///tmp/redis.sock",
        "unix://user:pass@/tmp/redis.sock?db=1&prefix=x",
        "redis://[::1]:6379/0",
        "redis+sentinel://h/mymaster",
        "redis+sentinel://user:p%40ss%2C%2F@h:1,[::1]:2,i/my-master.1/3?prefix=x&sentinel_password=p%40ss",
        "rediss+sentinel://h/mymaster?ssl_cert_reqs=none&ssl_check_hostname=false&sentinel_username=u",
        "redis+cluster://h",
        "redis+cluster://user:p%40ss%2C%2F@h:7000,[::1]:7001,i/?prefix=x",
        "REDISS+CLUSTER://h:7000,i:7001/0?ssl_cert_reqs=required",
    ],
)
def test_urls_that_are_accepted(url: str) -> None:
    """No server is needed, since the constructor does not connect."""
    store = RedisStore(url)
    assert "p@ss" not in repr(store)
    store.close()


def test_the_driver_reads_the_password_as_it_was_written() -> None:
    store = RedisStore("redis://us%25er:p%40s%20s%2F%23%25@h:1/3?prefix=x")
    options = store._redis._connector.pool(Node(), timeout_s=1).connection_kwargs
    assert (options["username"], options["password"]) == ("us%er", "p@s s/#%")
    assert (options["host"], options["port"], options["db"]) == ("h", 1, 3)
