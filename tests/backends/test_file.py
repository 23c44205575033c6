"""``file:``: formats, changes of the file in all the ways that programs make them, and broken files."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from heapq import nsmallest
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt
import pytest
import yaml

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.backends.file import CHANGES_KEPT, FileStore
from basicauth_mw.errors import BackendUnavailable, ConfigurationError
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from tests.auth.test_work import work as work
from tests.backends.servers_in_process import AsgiClient, WsgiClient
from tests.runtime.test_fork import child_ends_well
from tests.tracebacks import variables_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.auth.test_work import Work
    from tests.backends.servers_in_process import Client

SEEN_WITHIN_S = 1.0
SLACK_S = 2.0  # for a busy machine
DOCS = Path(__file__).parents[2] / "docs" / "backends.md"
HASHER = Hasher(volatile=True)
ARGON2 = hash_password("correct horse")
BCRYPT = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()
SECRET = generate("sk")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write(path: Path, text: str | bytes) -> None:
    """Replace the file by renaming, as most programs do."""
    new = path.with_name("new")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    new.rename(path)


def logged(caplog: pytest.LogCaptureFixture, path: Path) -> list[logging.LogRecord]:
    """What was logged, except about other files: a store that another test has closed may finish a poll."""
    about_another = re.compile(f"the key file (?!{re.escape(str(path))} )")
    return [each for each in caplog.records if not about_another.match(each.getMessage())]


def opens(store: FileStore, client_id: str, secret: str) -> bool:
    key = store.get(client_id)
    return key is not None and HASHER.verify_digest(secret, key.secrets) is not None


# --- formats


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        pytest.param(f"a:{SECRET}\nb:a password\n", {"a": SECRET, "b": "a password"}, id="lines"),
        pytest.param("a:1,2\r\n\r\n# b:2\r\nc:3:4", {"a": "1,2", "c": "3:4"}, id="comment and CRLF"),
        pytest.param("\ufeffgröße:пароль\n", {"größe": "пароль"}, id="BOM and unicode"),
        pytest.param('{"a": "1", "b c": {"secret": " 2 "}}', {"a": "1", "b c": " 2 "}, id="json"),
        pytest.param('\ufeff\n { "a" :\n"1" }\n', {"a": "1"}, id="json with spaces"),
    ],
)
def test_secrets_in_plain_text(path: Path, text: str, pairs: dict[str, str]) -> None:
    write(path, text)
    store = FileStore(f"file:{path}")

    assert [key.client_id for key in store.scan("", "", 10)] == sorted(pairs)
    for client_id in pairs:
        for other, secret in pairs.items():
            assert opens(store, client_id, secret) == (client_id == other)
    assert store.get("unknown") is None
    assert store.changes(None).has_password_hashes is False


@pytest.mark.parametrize(
    "stored", [ARGON2, BCRYPT, BCRYPT.replace("$2b$", "$2y$")], ids=["argon2", "bcrypt", "2y"]
)
@pytest.mark.parametrize(
    "form",
    ["# users\n\na:{}\n", "a:{}:a comment\n", "x:a password\na:{}\n", '{{"a": "{}"}}', "?htpasswd a:{}"],
)
def test_hashes(path: Path, stored: str, form: str) -> None:
    """They are stored unchanged, and are not valid secrets themselves."""
    write(path, form.removeprefix("?htpasswd ").format(stored))
    store = FileStore(f"file://{path}" + ("?format=htpasswd" if form.startswith("?") else ""))
    key = store.get("a")

    assert key is not None
    assert [secret.hash for secret in key.secrets] == [stored]
    assert store.changes(None).has_password_hashes is True


def test_fields_of_a_json_object(path: Path) -> None:
    fields = {"secret": SECRET, "name": "CI", "scopes": ["w", "r"], "expires_at": "2030-01-31T14:00:00+02:00"}
    write(path, json.dumps({"ci": fields}))
    key = FileStore(f"file:{path}?format=json").get("ci")

    assert key is not None
    assert (key.name, key.scopes) == ("CI", {"r", "w"})
    assert key.expires_at is not None
    assert key.expires_at.isoformat() == "2030-01-31T12:00:00+00:00"


@pytest.mark.proves("F36")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "contains no key", id="empty"),
        pytest.param("# a:canary\n", "contains no key", id="comments only"),
        pytest.param("a:1\ncanary\n", "line 2: is not id:secret", id="no colon"),
        pytest.param("\n\na: canary\n", "line 3: has a space next to the colon", id="space"),
        pytest.param("a:canary,b:2", "line 1: mixes commas and lines", id="commas"),
        pytest.param("a:1\na:canary", "line 2: the client ID occurs twice", id="twice"),
        pytest.param(f"a:sk_{'0' * 49}", "line 1: the secret looks generated", id="mistyped"),
        pytest.param(b"a:1\nb:canary\xff\n", "line 2: not UTF-8", id="encoding"),
        pytest.param(b"a:1\nb:canary\0\n", "line 2: not text", id="binary"),
        pytest.param("a:" + "canary" * 50_000, "line 1: longer than", id="long line"),
        pytest.param("a:$apr1$canary\n", "line 1: hashes of this kind are not accepted", id="apr1"),
        pytest.param(
            f"a:{BCRYPT}\nb:canary\n",
            "line 2: plain text, or an unsupported hash",
            id="plain text in htpasswd",
        ),
        pytest.param("a:rqXexS6ZhobKA\n", "line 1: may be a secret or an old hash", id="perhaps DES"),
        pytest.param("[\n", "line 1: is not id:secret", id="list"),
        pytest.param('{"a": "canary"', "is not a valid JSON object after entry 1", id="truncated JSON"),
        pytest.param('{"a": "1",}', "is not a valid JSON object after entry 1", id="trailing comma"),
        pytest.param('{"a": "1"} x', "is not a valid JSON object after entry 1", id="text after JSON"),
        pytest.param('{1: "canary"}', "is not a valid JSON object after entry 0", id="number as id"),
        pytest.param('{"a": ' + "[" * 100_000, "is not a valid JSON object", id="deep JSON"),
        pytest.param('{"a": "1", "b": 5}', "entry 2: is neither a secret nor an object", id="number"),
        pytest.param(
            '{"a": {"secret": "canary", "x": 1}}', "entry 1: an object must have secret", id="field"
        ),
        pytest.param(b'{"a": "canary\xff"}', "is not UTF-8", id="encoding of JSON"),
    ],
)
def test_an_invalid_file_is_an_outage(path: Path, text: str | bytes, says: str) -> None:
    """At startup too. The error names the line and the reason, and shows nothing of the file."""
    write(path, text)
    store = FileStore(f"file:{path}")
    store.keeps_s = 30
    with pytest.raises(BackendUnavailable) as problem:
        store.get("a")

    assert says in str(problem.value)
    assert "canary" not in str(problem.value)
    assert "canary" not in variables_of(problem.value, but=__file__)
    assert str(problem.value).startswith(f"the key file {path} ")
    assert store.is_stale


def test_every_invalid_line_is_named(path: Path) -> None:
    write(path, "a\nb:2\nc:\n")
    with pytest.raises(BackendUnavailable, match=r"line 1: is not id:secret; line 3: a secret has 1 to"):
        FileStore(f"file:{path}").get("b")
    write(path, "a\n" * 1000)
    with pytest.raises(BackendUnavailable, match=r"line 20: is not id:secret; and more$"):
        FileStore(f"file:{path}").get("b")


@pytest.mark.parametrize(
    "url",
    [
        *("file:", "file:keys", "file://canary/keys", "file:///", "file:/dir/", "file:/keys%00"),
        *("file:/keys?format=yaml", "file:/keys?other=1", "file:/keys?format", "file:/keys?format=json&x=1"),
    ],
)
def test_an_invalid_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="file:") as problem:
        open_backend(url, settings=Settings())
    assert "canary" not in str(problem.value)


def test_a_relative_path_gets_its_absolute_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if there is such a file: another text may be a secret."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my keys").write_text("a:1")
    for url in ("file:my keys", "file:./my%20keys", "file://my%20keys?format=lines"):
        with pytest.raises(ConfigurationError, match=f": use file:{tmp_path}/my%20keys$"):
            FileStore(url)
    for url in ("file:canary", f"file:{'canary' * 1000}"):
        with pytest.raises(ConfigurationError, match=r"on this machine$"):
            FileStore(url)


def test_the_path_may_be_encoded(tmp_path: Path) -> None:
    (tmp_path / "a b?").write_text("a:1")
    assert opens(FileStore(f"file://{tmp_path}/a%20b%3F"), "a", "1")


def test_the_kubernetes_example(path: Path) -> None:
    """The backend names the file that the secret is mounted as, and its content is valid."""
    text = DOCS.read_text(encoding="utf-8")
    block = re.search(r"<!-- kubernetes: .*?```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    secret, deployment = yaml.safe_load_all(block[1])
    pod = deployment["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (variable,), (mount,) = container["env"], container["volumeMounts"]

    assert volume == {"name": mount["name"], "secret": {"secretName": secret["metadata"]["name"]}}
    (name,) = secret["stringData"]
    assert variable == {"name": "BASICAUTH_BACKEND", "value": f"file:{mount['mountPath']}/{name}"}
    assert (
        deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    )
    write(path, secret["stringData"][name])
    assert [key.client_id for key in FileStore(f"file:{path}").scan("", "", 10)] == ["ci"]


@pytest.mark.proves("X1", "X3")
@pytest.mark.parametrize("with_hash", [False, True])
def test_every_refusal_takes_the_same_work(path: Path, work: Work, *, with_hash: bool) -> None:
    """Whatever the file says about the ID, if anything."""
    keys = {
        "generated": {"secret": generate("sk"), "scopes": ["read", "write"]},
        "password": {"secret": "a password"},
        "expired": {"secret": SECRET, "expires_at": "2001-01-01T00:00:00Z"},
    }
    if with_hash:
        keys["hash"] = {"secret": ARGON2}
    write(path, json.dumps(keys))
    with AsgiClient(f"file:{path}") as client:
        status(client, "unknown", "another password")  # makes the hash that unknown IDs are verified against
        for secret in (generate("sk"), SECRET, "another password"):
            done = set()
            for client_id in (*keys, "unknown"):
                work.since()
                assert status(client, client_id, secret) == 401
                done.add(tuple(sorted(work.since().items())))
            assert len(done) == 1
            assert dict(*done).get("password_hashes", 0) == (with_hash and secret == "another password")


# --- changes


def edit_in_place(path: Path, text: str) -> None:
    with path.open("r+") as file:
        file.truncate()
        file.write(text)


def swap_data_link(path: Path, text: str) -> None:
    """As Kubernetes updates a mounted secret: keys -> ..data/keys, and ..data -> ..generation."""
    generation = path.parent / f"..{time.monotonic_ns()}"
    generation.mkdir()
    (generation / "keys").write_text(text)
    (path.parent / "..tmp").symlink_to(generation.name)
    (path.parent / "..tmp").rename(path.parent / "..data")
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        path.symlink_to("..data/keys")


def keep_time_and_size(path: Path, text: str) -> None:
    """As ``cp -p`` and ``rsync -t`` do."""
    found = path.stat()
    path.write_text(text)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


WAYS = [edit_in_place, write, swap_data_link, keep_time_and_size]


@pytest.fixture(params=[AsgiClient, WsgiClient])
def client(request: pytest.FixtureRequest, path: Path) -> Iterator[Client]:
    path.write_text("old:a password-1\nkept:a password-2\n")
    with request.param(f"file:{path}", cache_ttl_s=3600) as client:
        yield client


def status(client: Client, client_id: str, secret: str) -> int:
    return client.request(encode_basic(client_id, secret)).status


@pytest.mark.proves("F24")
@pytest.mark.parametrize("change", WAYS)
def test_a_change_is_seen_within_a_second(
    client: Client, path: Path, change: Callable[[Path, str], None]
) -> None:
    """Cached keys that are gone are refused, new ones work, and the cache entry of every other key stays."""
    if change is swap_data_link:
        swap_data_link(path, path.read_text())
    wait_until(lambda: status(client, "old", "a password-1") == 200)
    assert status(client, "kept", "a password-2") == 200
    assert status(client, "new", "a password-3") == 401

    change(path, "new:a password-3\nkept:a password-2\n")
    began = time.monotonic()
    wait_until(lambda: status(client, "old", "a password-1") == 401)
    assert time.monotonic() < began + SEEN_WITHIN_S + SLACK_S
    assert status(client, "new", "a password-3") == 200
    looked_up = len(client.lookups)
    assert status(client, "kept", "a password-2") == 200
    assert len(client.lookups) == looked_up


def test_a_change_within_one_tick_of_a_coarse_clock(
    client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT stores times to two seconds, some network file systems to one; the size stays the same."""

    def coarse(self: FileStore) -> tuple[int, ...]:
        *identity, changed, changed_inode = original(self)
        return *identity, *(time - time % (2 * 10**9) for time in (changed, changed_inode))

    original = FileStore._stat
    monkeypatch.setattr(FileStore, "_stat", coarse)
    store = client.backend.store
    for number in (3, 4, 5, 6):
        edit_in_place(path, f"old:a password-{number}\nkept:a password-2\n")
        wait_until(lambda: opens(store, "old", f"a password-{number}"))  # noqa: B023
    wait_until(lambda: store._signature == store._stat())
    assert status(client, "old", "a password-6") == 200
    assert status(client, "old", "a password-5") == 401


def test_a_changed_secret_replaces_the_old_one(client: Client, path: Path) -> None:
    assert status(client, "old", "a password-1") == 200
    write(path, "old:a password-9\nkept:a password-2\n")
    wait_until(lambda: status(client, "old", "a password-1") == 401)
    assert status(client, "old", "a password-9") == 200


def test_only_changed_keys_are_announced(path: Path) -> None:
    write(path, "a:1\nb:2\nc:3\n")
    store = FileStore(f"file:{path}")
    cursor = store.changes(None).cursor
    write(path, "# the order does not matter\nc:3\nb:4\nd:5\n")
    store.poll()

    changes = store.changes(cursor)
    assert (sorted(changes.client_ids), changes.incomplete) == (["a", "b", "d"], False)
    assert store.changes(changes.cursor).client_ids == ()
    for number in range(20):
        write(path, f"a:{number}\n")
        store.poll()
    assert store.changes(cursor).incomplete
    write(path, "".join(f"{number}:1\n" for number in range(CHANGES_KEPT)))
    cursor = store.changes(None).cursor
    store.poll()
    assert store.changes(cursor).incomplete


def test_keys_that_are_removed_while_they_are_listed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "a:1\nb:2\nc:3\n")
    store = FileStore(f"file:{path}")

    def sort_and_change(limit: int, ids: Iterable[str]) -> list[str]:
        found = nsmallest(limit, ids)
        write(path, "a:1\n")
        store.poll()
        return found

    monkeypatch.setattr("basicauth_mw.backends.listed.nsmallest", sort_and_change)
    assert [key.client_id for key in store.scan("", "", 2)] == ["a", "b"]
    assert [key.client_id for key in store.scan("", "", 2)] == ["a"]


def test_a_file_that_is_being_written_is_not_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A writer that pauses for less than a tenth of a second is waited for."""
    write(path, "a:1\nb:2\n")
    with open_backend(f"file:{path}", settings=Settings()) as backend:
        assert backend.get("b")
        with path.open("w") as file:
            for part in ("a:1\nb:", "2\nc", ":3\n"):
                file.write(part)
                file.flush()
                time.sleep(0.05)
                assert backend.get("b")
        wait_until(lambda: backend.get("c"))
    assert logged(caplog, path) == []


def test_lookups_do_not_wait_for_a_large_file(path: Path) -> None:
    """While a file is read, the keys of before are used, and the event loop runs."""
    lines = [f"client-{number:06}:{generate('sk')}\n" for number in range(20_000)]
    write(path, "first:a password-1\n")
    with AsgiClient(f"file:{path}") as client:
        assert status(client, "first", "a password-1") == 200
        write(path, "second:a password-2\n" + "".join(lines))
        statuses = []
        while (found := status(client, "second", "a password-2")) == 401:
            statuses.append(found)
            assert client.request(encode_basic("first", "wrong")).took_s < SLACK_S
        assert (found, len(statuses) > 1) == (200, True)


def test_no_step_of_reading_blocks_other_threads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the CPU time between two points at which another thread can run."""
    text = "".join(f"client-{number:06}:{generate('sk')}\n" for number in range(30_000))
    write(path, text)
    store = FileStore(f"file:{path}")
    steps = []

    def in_steps(self: FileStore, items: Iterable[object], pause_s: float) -> Iterator[object]:
        for item in original(self, items, pause_s):
            steps.append(time.thread_time())
            yield item

    original = FileStore._in_steps
    monkeypatch.setattr(FileStore, "_in_steps", in_steps)
    for changed in (text.replace("client-000001", "client-x"), text.replace("client", "other")):
        write(path, changed)
        steps.append(time.thread_time())
        store.poll()
        steps.append(time.thread_time())
    assert store.get("other-000002")
    assert max(after - before for before, after in pairwise(steps)) < 0.05


# --- outages


def remove(path: Path) -> None:
    path.unlink()


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN = {
    "cut": lambda path: write(path, '{"old": "a password-1", "ke'),
    "typing error": lambda path: write(path, "old a password-1\nkept:a password-2\n"),
    "empty": lambda path: write(path, ""),
    "removed": remove,
    "a directory": replace_by_directory,
}


@pytest.mark.proves("F36", "F25")
@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_the_last_good_keys_are_used_for_a_while(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Then every request gets a 503, until the file is repaired. There is one error in the log."""
    good = "old:a password-1\nkept:a password-2\n"
    write(path, good)
    ttl_s = 1.5
    with AsgiClient(f"file:{path}", cache_ttl_s=ttl_s) as client:
        store = client.backend.store
        assert status(client, "old", "a password-1") == 200
        damage(path)
        began = time.monotonic()
        wait_until(lambda: store.is_stale)
        if time.monotonic() < began + ttl_s / 2:
            assert [status(client, "old", "a password-1"), status(client, "kept", "a password-2")] == [
                200,
                200,
            ]
            assert status(client, "unknown", "a password-1") == 401
        wait_until(lambda: status(client, "kept", "a password-2") == 503)
        assert ttl_s - 0.5 < time.monotonic() - began < ttl_s + SEEN_WITHIN_S + SLACK_S
        wait_until(lambda: status(client, "old", "a password-1") == 503)
        assert status(client, "unknown", "a password-1") == 503

        if path.is_dir():
            path.rmdir()
        write(path, good)
        wait_until(lambda: status(client, "kept", "a password-2") == 200)
        assert not store.is_stale
    errors = [record for record in logged(caplog, path) if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "a password" not in caplog.text


def test_a_repair_in_time_goes_unnoticed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, "a:1\n")
    with open_backend(f"file:{path}", settings=Settings(cache_ttl_s=60)) as backend:
        for text in ("a", "b", "a:1\n"):  # a second error is not logged again
            write(path, text)
            backend.store.poll()
            assert backend.get("a")
    assert [record.levelname for record in logged(caplog, path)] == ["ERROR", "WARNING"]


def test_without_a_cache_a_broken_file_is_an_outage_at_once(path: Path) -> None:
    write(path, "a:1\n")
    with open_backend(f"file:{path}", settings=Settings(cache_ttl_s=0)) as backend:
        assert backend.get("a")
        path.unlink()
        backend.store.poll()
        with pytest.raises(BackendUnavailable, match="No such file"):
            backend.get("a")


@pytest.mark.proves("F36")
def test_a_missing_file_at_startup(path: Path) -> None:
    """Lookups fail until there is a file. None is created."""
    with AsgiClient(f"file:{path}") as client:
        assert status(client, "a", "1") == 503
        assert not path.exists()
        write(path, "a:1\n")
        wait_until(lambda: status(client, "a", "1") == 200)


def test_a_store_that_is_not_closed_ends_its_thread(path: Path) -> None:
    write(path, "a:1\n")
    store = FileStore(f"file:{path}")
    store.get("a")
    thread = store._thread._thread
    assert thread is not None
    del store
    wait_until(lambda: not thread.is_alive())


@pytest.mark.proves("F31")
def test_a_forked_process_reads_the_file_by_itself(path: Path) -> None:
    """Its first lookup finds what has changed before the fork, and its own thread finds later changes."""
    write(path, "a:1\n")
    store = FileStore(f"file:{path}")
    assert opens(store, "a", "1")
    store.close()
    write(path, "a:2\n")

    def work() -> None:
        assert opens(store, "a", "2")
        write(path, "a:3\n")
        wait_until(lambda: opens(store, "a", "3"))

    assert child_ends_well(work)


@pytest.mark.proves("F31")
def test_a_process_forked_during_a_change_has_all_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "a:1\nb:2\n")
    store = FileStore(f"file:{path}")
    original = FileStore._in_steps
    forked: list[bool] = []

    def work() -> None:
        assert opens(store, "a", "3")
        assert opens(store, "b", "4")

    def in_steps(self: FileStore, items: Iterable[object], pause_s: float) -> Iterator[object]:
        for item in original(self, items, pause_s):
            yield item
            if type(items) is type({}.items()) and not forked:  # the first of two keys is replaced
                forked.append(False)
                forked[0] = child_ends_well(work)

    monkeypatch.setattr(FileStore, "_in_steps", in_steps)
    write(path, "a:3\nb:4\n")
    store.poll()
    assert forked == [True]


def test_an_event_loop_is_not_blocked_by_a_refresh(path: Path) -> None:
    """A lookup after a pause, as after SIGSTOP, looks at the file on a thread."""
    write(path, "a:1\n")
    with open_backend(f"file:{path}", settings=Settings()) as backend:
        backend.store._polled_at = float("-inf")
        with pytest.raises(BlockingIOError):
            backend.store.get_record_nowait("a")
        assert asyncio.run(backend.aget("a")) is not None
