"""``keys import`` of an export that is damaged or truncated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.transfer.helpers import generated_lines, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.helpers import Done


def test_every_truncation_is_noticed(cli: Callable[..., Done], file: Path, other: str, export: bytes) -> None:
    """In the middle of a line, between two lines, and at the start."""
    ends = [0, 1, 4, len(export) // 2, len(export) - 3]
    ends += [index + shift for index, byte in enumerate(export) if byte == 10 for shift in (0, 1)][:4]

    for end in ends:
        for words, stdin in ((str(file), b""), ("-", export[:end])):
            file.write_bytes(export[:end])
            done = cli("keys", "import", words, "--backend", other, stdin=stdin)
            assert (done.status, done.out) == (1, ""), end
    assert not Path(other.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (lambda lines: [lines[0], lines[2]], 2, "some are missing"),
        (lambda lines: [*lines, lines[0]], 4, "cut off"),
        (lambda lines: [lines[0], b"{}\n", *lines[1:]], 2, "not a key"),
        (lambda lines: [lines[0], lines[1].replace(b"$bamw1$0", b"$bamw1$00000000"), lines[2]], 2, "pepper"),
        (lambda lines: [lines[0].replace(b'"a"', b'"a:b"'), *lines[1:]], 1, "colon"),
        (lambda lines: [lines[0].replace(b"T", b" ", 1), *lines[1:]], 1, "created_at"),
        (lambda lines: [lines[0].replace(b'"v":1', b'"v":1,"x":1'), *lines[1:]], 1, "unknown field"),
        (lambda lines: [b"x" * 300_000 + b"\n", *lines], 1, "longer"),
        (lambda lines: [b"[" * 10_000 + b"\n", *lines], 1, "nested too deep"),
        (lambda lines: [lines[0].replace(b'"v":1', b'"v":1,"v":1'), *lines[1:]], 1, "same name"),
        (lambda lines: [lines[0].replace(b"{}", b'{"a":1,"a":1}'), *lines[1:]], 1, "same name"),
    ],
)
def test_one_bad_line_stops_all_of_an_export(
    cli: Callable[..., Done],
    file: Path,
    other: str,
    export: bytes,
    change: Callable[[list[bytes]], list[bytes]],
    line: int,
    reason: str,
) -> None:
    file.write_bytes(b"".join(change(export.splitlines(keepends=True))))

    done = cli("keys", "import", str(file), "--format", "export", "--backend", other)

    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"error: line {line}: ")
    assert reason in done.err.splitlines()[0]
    assert "nothing was imported" in done.err.splitlines()[-1]
    assert not Path(other.removeprefix("sqlite:///")).exists()


def test_the_rest_of_an_export_can_be_imported(
    cli: Callable[..., Done], file: Path, other: str, export: bytes
) -> None:
    file.write_bytes(export[:-10])

    done = cli("keys", "import", str(file), "--partial", "--backend", other)

    assert (done.status, done.out) == (1, "imported 2 keys\n")
    assert "error: line 3: not JSON" in done.err


def test_a_missing_part_of_an_export_is_reported(
    cli: Callable[..., Done], file: Path, other: str, export: bytes
) -> None:
    """Truncated between two lines, or with a line missing: the rest is imported, and the loss is reported."""
    lines = export.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]))

    done = cli("keys", "import", str(file), "--partial", "--backend", other)

    assert (done.status, done.out) == (1, "imported 2 keys\n")
    assert done.err.splitlines()[0] == "error: line 3: missing: the file was cut off"
    file.write_bytes(lines[0] + lines[2])
    done = cli("keys", "import", str(file), "--partial", "--backend", other)
    assert (done.status, done.out) == (1, "imported 1 key; already present: 1\n")
    assert done.err.splitlines()[0] == "error: line 2: the last line of 3, but there are 2: some are missing"
    file.write_bytes(export)
    assert cli("keys", "import", str(file), "--partial", "--backend", other).status == 0


@pytest.mark.parametrize(
    "text",
    ["id,secret\n", "x:y,z\n", "x,{SHA}abc\n", f"x,{'y' * 1025}\n", "x:$2y$99$broken\n", '{"v":1}\n'],
)
def test_an_empty_import_creates_no_file(
    cli: Callable[..., Done], database: Path, file: Path, text: str
) -> None:
    file.write_text(text)

    cli("keys", "import", str(file), "--partial")

    assert not database.exists()


def test_an_invalid_key_creates_no_file(
    cli: Callable[..., Done], file: Path, other: str, export: bytes
) -> None:
    file.write_bytes(export.splitlines(keepends=True)[0].replace(b'"a"', b'"a:b"'))

    done = cli("keys", "import", str(file), "--partial", "--backend", other)

    assert (done.status, done.out) == (1, "imported 0 keys\n")
    assert "line 1: a client ID must not contain a colon" in done.err
    assert not Path(other.removeprefix("sqlite:///")).exists()


def test_a_backend_in_memory_is_refused(cli: Callable[..., Done], file: Path) -> None:
    file.write_bytes(generated_lines(1))
    line = "the keys in memory: are lost when this command ends: use a backend that stores them"

    cli("keys", "import", str(file), "--backend", "memory:").failed_with(line)
    cli("keys", "create", "--backend", "memory:").failed_with(line)


def test_exports_can_be_joined(cli: Callable[..., Done], file: Path, other: str, export: bytes) -> None:
    """With Windows line ends and blank lines; keys that are already present are not an error."""
    file.write_bytes(export.replace(b"\n", b"\r\n") + b"\r\n" + export)

    done = cli("keys", "import", str(file), "--backend", other)

    assert (done.status, done.out, done.err) == (0, "imported 3 keys; already present: 3\n", "")


def test_an_import_can_be_run_again(cli: Callable[..., Done], file: Path, url: str, export: bytes) -> None:
    """Identical keys are unchanged; a different key with the same ID is an error."""
    assert cli("keys", "import", str(file)).out == "imported 0 keys; already present: 3\n"
    cli("keys", "update", "b", "--name", "changed")
    cli("keys", "delete", "c")
    before = keys_of(url)[:2]

    done = cli("keys", "import", str(file))

    assert (done.status, done.out) == (1, "imported 1 key; already present: 1\n")
    assert done.err.splitlines()[0] == "error: line 2: its client ID 'b' is taken"
    assert keys_of(url)[:2] == before
