"""Stores that fail, unreadable records, and what logs and tracebacks contain."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Key, Settings
from basicauth_mw.dashboard.listing import ROWS
from basicauth_mw.errors import BackendUnavailable, InvalidKey, UnreadableRecord
from tests.dashboard.conftest import SECRET, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable


class Faulty:
    """A store whose methods raise the exceptions in ``fails``."""

    volatile = True  # the backend hashes for this process

    def __init__(self, store: Any) -> None:
        self.store = store
        self.fails: dict[str, Exception] = {}

    def _do(self, name: str, *arguments: Any) -> Any:
        if exc := self.fails.get(name):
            raise exc
        return getattr(self.store, name)(*arguments)

    def get(self, client_id: str, /) -> Any:
        return self._do("get", client_id)

    def put(self, record: Key, /, expect_version: int | None) -> Any:
        return self._do("put", record, expect_version)

    def delete(self, client_id: str, /) -> Any:
        return self._do("delete", client_id)

    def scan(self, prefix: str, after: str, limit: int) -> Any:
        return self._do("scan", prefix, after, limit)

    def changes(self, since: str | None) -> Any:
        return self._do("changes", since)

    def close(self) -> None: ...


@pytest.fixture
def faulty(backend: Backend) -> Faulty:
    return Faulty(backend.store)


def test_an_outage_during_a_change(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    """The key is unchanged, and the page says where to look."""
    keys = Backend(faulty, settings=Settings())
    keys.create(client_id="ci")
    admin = visitor(keys=keys)
    before = keys.get("ci")
    rotate, revoke, new = (
        admin.form("/key/rotate", id="ci"),
        admin.form("/key/revoke", id="ci"),
        admin.form("/new"),
    )
    faulty.fails = {"put": BackendUnavailable("canary")}

    for path, form in (
        ("/key/rotate", {**rotate, "overlap": "24h"}),
        ("/key/revoke", revoke),
        ("/new", {**new, "expires": "never"}),
    ):
        response = admin.post(path, form)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert "completely or not at all" in response.text
        assert "Look at the key" in response.text
        assert "canary" not in response.text
        assert not SECRET.search(response.text)
    faulty.fails = {}
    assert keys.get("ci") == before
    assert admin.post("/key/rotate", {**rotate, "overlap": "24h"}).status_code == 200


def test_an_outage_during_a_lookup(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    admin = visitor(keys=faulty)
    admin.get("/")
    faulty.fails = {"scan": BackendUnavailable("x"), "get": BackendUnavailable("x")}

    for path in ("/", "/activity", "/key?id=x"):
        response = admin.request("GET", path)
        assert response.status_code == 503
        assert "is unavailable" in response.text


def test_an_unreadable_record_is_listed_and_can_be_deleted(
    visitor: Callable[..., Visitor], backend: Backend
) -> None:
    class Damaged(Faulty):
        def get(self, client_id: str, /) -> Any:
            if client_id == "b":
                raise UnreadableRecord("the record is damaged", client_id="b")
            return super().get(client_id)

        def scan(self, prefix: str, after: str, limit: int) -> Any:
            found = super().scan(prefix, after, limit)
            if any(key.client_id == "b" for key in found):
                raise UnreadableRecord("the record is damaged", client_id="b")
            return found

    for client_id in ("a", "b", "c", *(f"c{number:02}" for number in range(ROWS))):
        backend.create(client_id=client_id, name=f"name of {client_id}")
    admin = visitor(keys=Damaged(backend.store))

    page = admin.get("/").text
    assert page.index("name of a") < page.index("the record is damaged") < page.index("name of c")
    assert 'rel="next"' in page
    assert "the record is damaged" in admin.get("/", after="a").text
    for number in range(ROWS - 1):  # now it is the first one of the next page
        backend.create(client_id=f"a{number:02}")
    page = admin.get("/").text
    assert 'rel="next"' in page
    assert "damaged" not in page
    assert "the record is damaged" in admin.get("/key", id="b").text
    assert admin.get("/key/rotate", id="b").text.count("<form") == 0
    assert admin.get("/activity").status_code == 200
    deleted = admin.post("/key/delete", admin.form("/key/delete", id="b"))
    assert deleted.status_code == 303
    assert backend.get("b") is None


def test_an_unreadable_record_without_an_id(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    admin = visitor(keys=faulty)
    faulty.fails = {"scan": UnreadableRecord("canary of the record")}

    response = admin.get("/")

    assert response.status_code == 500
    assert "cannot be read" in response.text


def test_a_store_that_becomes_read_only(visitor: Callable[..., Visitor], faulty: Faulty) -> None:
    from basicauth_mw.errors import ReadOnlyBackend

    admin = visitor(keys=faulty)
    faulty.fails = {"put": ReadOnlyBackend("it is a replica")}

    response = admin.create(name="x")

    assert response.status_code == 409
    assert "it is a replica" in response.text


def test_other_refusals_of_the_backend_are_shown(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.create(client_id="ci")
    form = admin.form("/key/disable", id="ci")

    def refuse(_client_id: str, *, actor: str) -> None:
        raise InvalidKey("not on a Sunday")

    monkeypatch.setattr(backend, "disable", refuse)
    response = admin.post("/key/disable", form)

    assert response.status_code == 422
    assert "not on a Sunday" in response.text


def test_the_audit_log_names_the_user(
    admin: Visitor, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    (me,) = backend.iter_keys()
    caplog.set_level("INFO", "basicauth_mw.audit")

    admin.create(client_id="ci")
    admin.post("/key/rotate", {**admin.form("/key/rotate", id="ci"), "overlap": "0"})
    for act in ("disable", "enable", "revoke", "delete"):
        admin.post(f"/key/{act}", admin.form(f"/key/{act}", id="ci"))

    events_logged = [
        each.__dict__["basicauth"] for each in caplog.records if each.name == "basicauth_mw.audit"
    ]
    events = ("created", "rotated", "disabled", "enabled", "revoked", "deleted")
    assert [(each["event"], each["client_id"], each["actor"]) for each in events_logged] == [
        (f"key.{event}", "ci", me.client_id) for event in events
    ]


def test_secrets_are_never_in_logs_or_urls(admin: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    created = admin.create(name="x")
    (secret,) = {*SECRET.findall(created.text)}

    assert created.status_code == 200
    assert "location" not in created.headers
    assert secret not in caplog.text
    assert secret not in "".join(part.partition('"')[0] for part in created.text.split('href="'))
    assert secret not in "".join(part.partition('"')[0] for part in created.text.split('value="'))


def test_tracebacks_do_not_contain_the_credential(
    admin: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error monitors record the variables of every frame, and the contents of mappings."""
    assert admin.authorization is not None
    form = {**admin.form("/new"), "expires": "never"}
    monkeypatch.setattr(backend, "create", lambda **_: 1 // 0)
    with pytest.raises(ZeroDivisionError) as raised:
        admin.post("/new", form)

    seen = 0
    for frame, _ in traceback.walk_tb(raised.tb):
        if "basicauth_mw/dashboard/" in frame.f_code.co_filename:
            for value in frame.f_locals.values():
                listed = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
                assert admin.authorization not in listed
                seen += 1
    assert seen > 10
