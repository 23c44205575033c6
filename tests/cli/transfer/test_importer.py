"""Exports and imports between backends, and how unusual streams are read."""

from __future__ import annotations

import csv
import io
import logging
import os
import stat
import sys
import threading
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import bcrypt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.cli._echo import CommandError
from basicauth_mw.cli.transfer.exporter import export_file, export_keys
from basicauth_mw.cli.transfer.import_formats import split_row
from basicauth_mw.cli.transfer.importer import BATCH, ImportReport, import_keys
from basicauth_mw.cli.transfer.input_file import MAX_LINE_BYTES, InputFile
from basicauth_mw.cli.transfer.jsonl import load_line
from basicauth_mw.errors import BackendUnavailable, InvalidKey, MissingExtra, ReadOnlyBackend
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_secret, salt_of, verify_password
from basicauth_mw.keys.model import Change, Key, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.redis_server import RedisServer

PEPPERS = Settings(pepper=("new", "old"), backend_deadline_s=5)


class RecordingReport(ImportReport):
    """Records the reports."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, str] = {}
        self.passes: list[tuple[str, int | None, int]] = []

    def on_start(self, work: str, size: int | None) -> None:
        self.passes.append((work, size, 0))

    def on_progress(self, size: int) -> None:
        work, total, done = self.passes.pop()
        self.passes.append((work, total, done + size))

    def on_refused(self, line: int, reason: str) -> None:
        super().on_refused(line, reason)
        self.lines[line] = reason


def imported(backend: Backend, data: bytes, **options: bool) -> RecordingReport:
    report = RecordingReport()
    import_keys(backend, InputFile(io.BytesIO(data)), report, **options)
    return report


def exported(backend: Backend) -> bytes:
    out = io.BytesIO()
    export_keys(backend, out, lambda _count: None)
    return out.getvalue()


@pytest.fixture
def backend() -> Backend:
    return open_backend("memory:", settings=Settings())


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Backend]:
    with open_backend(f"sqlite:///{tmp_path}/a.db", settings=PEPPERS, create=True) as opened:
        yield opened


# --- round trips

GENERATED = [generate("sk") for _ in range(3)]
PASSWORD = "correct horse battery staple"
ARGON2 = hash_secret(PASSWORD)
HASHER = Hasher([pepper.encode() for pepper in PEPPERS.pepper])

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
MINUTES = MOMENTS.map(lambda moment: moment.replace(second=0, microsecond=0))
# Valid client IDs, names and metadata.
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
IDS = TEXTS.filter(lambda text: text and ":" not in text)
SALTS = st.text("ABCabc_-", min_size=16, max_size=16)


@st.composite
def keys(draw: st.DrawFn) -> Key:
    """Any valid key; its secrets are the first of ``GENERATED``, and perhaps ``PASSWORD``."""
    salt = draw(SALTS)
    hashes = [HASHER.digest_secret(secret, salt=salt) for secret in GENERATED[: draw(st.integers(0, 3))]]
    hashes += [ARGON2] if draw(st.booleans()) else []
    made = draw(st.lists(MOMENTS, min_size=len(hashes), max_size=len(hashes), unique=True))
    return Key(
        draw(IDS),
        name=draw(TEXTS),
        scopes=draw(st.frozensets(st.sampled_from(["read", "write", "a:b"]))),
        created_at=draw(MOMENTS),
        expires_at=draw(st.none() | MOMENTS),
        revoked_at=draw(st.none() | MOMENTS),
        disabled=draw(st.booleans()),
        metadata=draw(st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3)),
        secrets=tuple(
            Secret(hashed, at, draw(st.none() | MOMENTS), draw(st.none() | MINUTES))
            for hashed, at in zip(hashes, made, strict=True)
        ),
    )


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(some=st.lists(keys(), min_size=1, max_size=5, unique_by=lambda key: key.client_id))
def test_a_round_trip_loses_nothing(some: list[Key], redis_server: RedisServer) -> None:
    """From SQLite to Redis and back: equal keys, and their secrets still match."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        urls = (
            f"sqlite:///{folder}/a.db",
            redis_server.url(f"test-{token_hex(8)}"),
            f"sqlite:///{folder}/b.db",
        )
        first, *others = (
            stack.enter_context(open_backend(url, settings=PEPPERS, create=True)) for url in urls
        )
        assert first.add(some) == [None] * len(some)
        text = exported(first)
        for other in others:
            assert not imported(other, text).refused
            assert exported(other) == text
            text = exported(other)
        last = others[-1]
        assert list(last.iter_keys()) == list(first.iter_keys())
        for key in some:
            stored = last.get(key.client_id)
            assert stored is not None
            assert stored.secrets == key.secrets
            for number, secret in enumerate(key.secrets):
                if secret.hash == ARGON2:
                    assert verify_password(PASSWORD, stored.secrets[number].hash)
                else:
                    assert last.hasher.verify_digest(GENERATED[number], stored.secrets) == secret


def test_a_missing_pepper_is_reported(sqlite: Backend, backend: Backend) -> None:
    """The keys would never work, so it is reported early."""
    sqlite.create()

    with pytest.raises(CommandError):
        import_keys(backend, InputFile(io.BytesIO(exported(sqlite))), report := RecordingReport())

    assert "pepper" in report.lines[1]
    assert not report.imported


def test_one_audit_record_per_export(
    sqlite: Backend, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    sqlite.create(client_id="a")
    sqlite.create(client_id="b")
    caplog.clear()

    export_file(sqlite, tmp_path / "e", lambda _count: None)

    (event,) = [record.basicauth for record in caplog.records]  # type: ignore[attr-defined]
    assert event["event"] == "key.exported"


def test_one_audit_record_per_imported_key(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    imported(backend, f"a,{generate('sk')}\nb,{generate('sk')}\na,{generate('sk')}\n".encode())

    events = [record.basicauth for record in caplog.records]  # type: ignore[attr-defined]
    assert [(each["event"], each["client_id"]) for each in events] == [
        ("key.imported", "a"),
        ("key.imported", "b"),
    ]


def test_the_last_line_of_an_export_counts_them(sqlite: Backend) -> None:
    now = datetime.now(UTC)
    sqlite.add([Key(f"{number:04}", created_at=now) for number in range(1200)])

    counted: list[int] = []
    out = io.BytesIO()
    assert export_keys(sqlite, out, counted.append) == 1200

    ends = [load_line(line)[1] for line in out.getvalue().decode().splitlines()]
    assert ends == [None] * 1199 + [1200]
    assert sum(counted) == 1200


def test_a_secret_is_not_accepted_as_an_id_and_not_repeated(backend: Backend) -> None:
    """With swapped columns, the ID would be the secret."""
    secret, long = generate("sk"), "\u202e" * 80
    lines = "".join(f"{client_id},{generate('sk')}\n" for client_id in (secret, secret, long, long))

    report = imported(backend, lines.encode())

    assert list(report.lines) == [1, 2, 4]
    for line in (1, 2):
        assert secret[3:] not in report.lines[line]
        assert "generated secret" in report.lines[line]
    assert report.lines[4].isprintable()


# --- import


def test_progress_covers_every_byte(backend: Backend) -> None:
    generated = "".join(f"{number},{generate('sk')}\n" for number in range(2500)).encode()

    assert imported(backend, generated).passes == [("importing", len(generated), len(generated))]


def test_an_export_is_read_twice(sqlite: Backend, tmp_path: Path) -> None:
    """From the start both times, from a pipe as well; it may be larger than one read."""
    now = datetime.now(UTC)
    sqlite.add([Key(f"{number:05}", name="n" * 200, created_at=now) for number in range(5000)])
    text = exported(sqlite)

    for number, piped in enumerate((False, True)):
        with open_backend(f"sqlite:///{tmp_path}/{number}.db", settings=PEPPERS, create=True) as other:
            report = RecordingReport()
            import_keys(other, InputFile(Pipe(text) if piped else io.BytesIO(text)), report)
            assert exported(other) == text
        size = len(text)
        checked = None if piped else size
        assert report.passes == [("checking", checked, size), ("importing", size, size)]


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_where: int) -> int:
        raise OSError("a pipe cannot seek")

    tell = seek


def test_a_stream_is_read_from_its_current_position(sqlite: Backend) -> None:
    sqlite.create(client_id="a")
    text = exported(sqlite)
    stream = io.BytesIO(b"what came before\n" + text)
    stream.readline()

    report = RecordingReport()
    import_keys(sqlite, InputFile(stream), report)

    assert (report.unchanged, report.refused) == (1, 0)
    assert [total for _, total, _ in report.passes] == [len(text)] * 2


@pytest.mark.parametrize("stream", [io.BytesIO, Pipe])
def test_an_entry_may_follow_many_comments(backend: Backend, stream: type[io.BytesIO]) -> None:
    text = b"# users of the wiki, and when they were last seen\n\n" * 3000 + b"good:$2y$04$" + b"." * 53

    report = RecordingReport()
    import_keys(backend, InputFile(stream(text)), report)

    assert (report.imported, report.refused) == (1, 0)


@pytest.mark.parametrize(
    ("line", "lines"), [(b"#" * (MAX_LINE_BYTES - 1) + b"\n", 4), (b"\n", 16_132)], ids=["long", "blank"]
)
def test_comments_before_the_first_entry_are_limited(backend: Backend, line: bytes, lines: int) -> None:
    """The format must be given then; with it, any number of comments is accepted."""
    text = line * 2 * lines + b"good:$2y$04$" + b"." * 53

    with pytest.raises(CommandError, match=rf"in the first {lines} lines, .* --format export\|csv\|htpasswd"):
        InputFile(io.BytesIO(text))

    report = RecordingReport()
    import_keys(backend, InputFile(io.BytesIO(text), format="htpasswd"), report)
    assert (report.imported, report.refused) == (1, 0)


@pytest.mark.parametrize("text", [b"", b"\n", b"# comment\n" * 2000], ids=["empty", "blank", "comments"])
def test_nothing_to_import(text: bytes) -> None:
    with pytest.raises(CommandError, match="no keys"):
        InputFile(io.BytesIO(text))


def test_lines_are_reported_in_their_order(backend: Backend) -> None:
    """Whether they are refused when they are read, hashed or written."""
    backend.create(client_id="taken")
    reported: list[object] = []

    class Order(ImportReport):
        def on_imported(self, key: Key, secret: str | None) -> None:
            reported.append(key.client_id)

        def on_refused(self, line: int, reason: str) -> None:
            reported.append(line)

    lines = ["slow,a password", "bad", f"taken,{generate('sk')}", f"long,{'x' * 1025}"]
    lines += [f"fast,{generate('sk')}", "taken,a password"]
    import_keys(backend, InputFile(io.BytesIO("\n".join(lines).encode())), Order())

    assert reported == ["slow", 2, 3, 4, "fast", 6]


def test_passwords_are_hashed_in_parallel(sqlite: Backend) -> None:
    """In a few threads, which end with the import."""
    text = "".join(f"{number},password {number}\n" for number in range(50))

    assert imported(sqlite, text.encode()).imported == 50

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("basicauth-import")]
    assert all(key.secrets[0].hash.startswith("$argon2id$") for key in sqlite.iter_keys())


def test_a_missing_library_ends_an_import(sqlite: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)

    with pytest.raises(MissingExtra):
        imported(sqlite, b"a,a password\n")
    assert list(sqlite.iter_keys()) == []


def test_a_store_that_fails_during_an_import(sqlite: Backend) -> None:
    """The keys that were written before are counted."""
    text = "".join(f"{number},{generate('sk')}\n" for number in range(BATCH + 1)).encode()

    class Failing(MemoryStore):
        def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
            if record.client_id == str(BATCH):
                raise BackendUnavailable("gone")
            return super().put(record, expect_version)

        def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
            return [self.put(record, None) for record in records]

    report = ImportReport()
    with pytest.raises(BackendUnavailable):
        import_keys(Backend(Failing(), settings=Settings()), InputFile(io.BytesIO(text)), report)
    assert report.imported == BATCH


def test_a_read_only_store_is_refused_before_reading() -> None:
    class Store:
        def get(self, client_id: str) -> Key | None:
            return None

    with pytest.raises(ReadOnlyBackend):
        imported(Backend(Store(), settings=Settings()), b"a,b\n")


def test_an_overlong_line_costs_no_memory(backend: Backend) -> None:
    """It is skipped to its end, however long, and the next line is read normally."""
    text = b"a" * (5 * MAX_LINE_BYTES) + b"\nb," + generate("sk").encode() + b"\n"

    report = RecordingReport()
    import_keys(backend, InputFile(io.BytesIO(text), format="csv"), report)

    assert list(report.lines) == [1]
    first = next(InputFile(io.BytesIO(text), format="csv").lines())
    assert len(first[1]) == MAX_LINE_BYTES + 1
    assert report.imported == 1


def test_a_line_without_end_has_no_format() -> None:
    with Path("/dev/zero").open("rb") as endless, pytest.raises(CommandError, match="line 1 is longer"):
        InputFile(endless)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ('{"v":1}', "export"),
        ("\ufeff{}", "export"),
        ("\n\n  \n{}", "export"),
        ("id,secret", "csv"),
        ('"a","b:c"', "csv"),
        ("a,b:c", "csv"),
        ("user:x", "htpasswd"),
        ("# a, comment\nuser:x", "htpasswd"),
        ("user:$argon2id$v=19$m=1,t=2,p=1$a$b", "htpasswd"),
        ("a,b:$2y$05$x", "htpasswd"),
    ],
)
def test_the_format_is_detected_from_the_content(head: str, expected: str) -> None:
    assert InputFile(io.BytesIO(head.encode())).format == expected


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_imported(data: bytes) -> None:
    """An import of garbage raises CommandError or nothing."""
    backend = open_backend("memory:", settings=Settings())
    for format in (None, "export", "csv", "htpasswd"):  # noqa: A001
        with suppress(CommandError):
            import_keys(backend, InputFile(io.BytesIO(data), format=format), ImportReport())


def test_an_export_is_on_the_disk_before_it_appears(
    sqlite: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is synced before the rename: after a power cut there is the old export or the new one."""
    sqlite.create()
    done: list[tuple[str, int, int]] = []
    fsync, replace = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        done.append(("fsync", found.st_ino, 0 if stat.S_ISDIR(found.st_mode) else found.st_size))
        fsync(descriptor)

    def recording_replace(new: Path, path: Path) -> Path:
        done.append(("replace", new.stat().st_ino, new.stat().st_size))
        return replace(new, path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", recording_fsync)
        patched.setattr(Path, "replace", recording_replace)
        export_file(sqlite, tmp_path / "e", lambda _count: None)

    found = (tmp_path / "e").stat()
    whole = (found.st_ino, found.st_size)
    assert done == [("fsync", *whole), ("replace", *whole), ("fsync", tmp_path.stat().st_ino, 0)]


def test_a_failed_export_leaves_no_file(sqlite: Backend, tmp_path: Path) -> None:
    sqlite.create()

    def fail(_count: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        export_file(sqlite, tmp_path / "e", fail)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith((".e", "e"))] == []


# --- the fast paths of an import


@given(st.text(st.sampled_from("ab ,\"\r'#\t;é"), max_size=30).filter(bool))
def test_a_line_is_split_as_csv_is(text: str) -> None:
    """With and without quotes, the values are those of the standard library, or there are none."""
    try:
        (expected,) = csv.reader([text], strict=True)
    except csv.Error:
        with pytest.raises(InvalidKey):
            split_row(text)
    else:
        assert split_row(text) == expected


def test_a_value_that_is_too_long_is_named_as_such() -> None:
    with pytest.raises(InvalidKey, match="far longer"):
        split_row(f"id,{'x' * (csv.field_size_limit() + 1)}")


def test_every_imported_secret_has_its_own_salt(backend: Backend) -> None:
    """Even if salts are generated in batches; and each key is found by its secret."""
    secrets = {f"id{number:04}": generate("sk") for number in range(BATCH + 2)}
    text = "".join(f"{client_id},{secret}\n" for client_id, secret in secrets.items())
    report = ImportReport()

    import_keys(backend, InputFile(io.BytesIO(text.encode())), report)

    assert report.imported == len(secrets)
    keys = list(backend.iter_keys())
    assert len({salt_of(key.secrets) for key in keys}) == len(secrets)
    for key in keys:
        assert backend.hasher.verify_digest(secrets[key.client_id], key.secrets) is not None


def test_a_bad_id_is_reported_whatever_its_secret_is(backend: Backend) -> None:
    """It is checked once, with the rest of the key or before its secret is hashed."""
    reported: list[tuple[int, str]] = []

    class RefusalReport(ImportReport):
        def on_refused(self, line: int, reason: str) -> None:
            reported.append((line, reason))

    wrong = generate("sk")[:-1]
    secrets = [
        generate("sk"),
        hash_secret(generate("sk")),
        "password",
        wrong + ("a" if wrong[-1] != "a" else "b"),
    ]
    text = "".join(f"{'x' * 256},{secret}\n" for secret in secrets)
    import_keys(backend, InputFile(io.BytesIO(text.encode())), RefusalReport())

    assert reported == [(line, "a client ID has 1 to 255 bytes; this one has 256") for line in range(1, 5)]


@pytest.mark.parametrize(
    "text",
    [
        "secret,id\n{secret},ci\n",
        "Secret,Client_ID\r\n{secret},ci\r\n",
        "name,secret,id,scopes,expires_at\nCI,{secret},ci,read write,2030-01-31T12:00:00Z\n",
        '"expires","scopes","api_key","user","label"\n2030-01-31T13:00:00+01:00,write read,{secret},ci,CI\n',
        "\ufeffid,name,secret,scope\nci,,{secret},\n",
    ],
    ids=["swapped", "swapped-case-crlf", "all", "all-other-names", "bom-and-empty-columns"],
)
def test_a_header_gives_the_order_of_the_columns(backend: Backend, text: str) -> None:
    secret = generate("sk")
    report = imported(backend, text.format(secret=secret).encode())
    assert (report.imported, report.refused) == (1, 0)
    key = backend.get("ci")
    assert key is not None
    assert backend.get(secret) is None
    if "label" in text or "expires_at" in text:
        assert (key.name, key.scopes) == ("CI", {"read", "write"})
        assert key.expires_at == datetime(2030, 1, 31, 12, tzinfo=UTC)
    else:
        assert (key.name, key.scopes, key.expires_at) == ("", frozenset(), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,secret,colour\n", "a header may name"),
        ("id,secret,name,label\n", "each once"),
        ("id,secret,expires_at\nci,{secret},tomorrow\n", "expires_at must be a time"),
        ("id,secret,expires_at\nci,{secret},2030-01-01T00:00:00\n", "timezone"),
        ("id,secret,name\nci,{secret}\n", "expected the columns id,secret,name"),
        ("id,secret,scopes\nci,{secret},a\\b\n", "scope"),
    ],
)
def test_a_row_that_does_not_fit_its_header(backend: Backend, text: str, said: str) -> None:
    report = imported(backend, text.format(secret=generate("sk")).encode())
    assert (report.imported, report.refused) == (0, 1)
    assert said in str(report.lines)


def test_an_htpasswd_with_a_line_in_another_encoding(backend: Backend) -> None:
    """That line is reported, wherever it is, and the rest is imported."""
    hashed = bcrypt.hashpw(b"a password of some length", bcrypt.gensalt(4)).decode()
    for prefix in ("$2a$", "$2b$", "$2y$"):
        name = prefix.strip("$")
        lines = f"caf\u00e9:{hashed}\n".encode("latin-1") + f"{name}:{prefix}{hashed[4:]}\n".encode()
        report = imported(backend, lines)
        assert (report.imported, list(report.lines)) == (1, [1])
        assert "UTF-8" in report.lines[1]
        key = backend.get(name)
        assert key is not None
        assert verify_password("a password of some length", key.secrets[0].hash)
        assert not verify_password("another password", key.secrets[0].hash)


def test_an_export_does_not_follow_a_dangling_link(sqlite: Backend, tmp_path: Path) -> None:
    """Another user may have created the link."""
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(CommandError, match="does not exist"):
        export_file(sqlite, link, lambda _count: None)
    assert not (tmp_path / "nowhere.jsonl").exists()
