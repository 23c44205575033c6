"""Import and export on a terminal, interrupted, on a full disk, and with many keys."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.keys.model import Key
from tests.cli.helpers import LIMIT_S, ROOT, Done, ended, fill, install_third_party_store, process, put
from tests.cli.transfer.helpers import FLAT_WITHIN_KIB, generated_lines, keys_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_progress_is_shown_on_a_terminal_only(
    url: str, other: str, file: Path, tmp_path: Path, terminal: tuple[int, int]
) -> None:
    file.write_bytes(generated_lines(1500))
    exported = tmp_path / "export"
    ours, theirs = terminal
    os.set_blocking(ours, False)
    stdout = subprocess.DEVNULL

    for words, work in (
        (("import", str(file), "--backend", url), b"importing"),
        (("export", str(exported), "--backend", url), b"exporting"),
        (("import", str(exported), "--backend", other), b"checking"),
        (("import", str(exported), "--backend", other, "--json"), b""),
    ):
        with process("keys", *words, stdout=stdout, stderr=theirs, env={"TERM": "xterm"}) as child:
            shown = _shown(ours, child)
        assert child.returncode == 0
        assert work in shown
        assert bool(work) == bool(shown)
    piped = ended("keys", "import", str(exported), "--backend", f"{other}2")
    assert (piped.status, piped.out, piped.err) == (0, "imported 1500 keys\n", "")


def _shown(terminal: int, child: subprocess.Popen[bytes]) -> bytes:
    """The output of a program on the terminal until it ends."""
    shown = b""

    def is_done() -> bool:
        nonlocal shown
        has_ended = child.poll() is not None
        try:
            shown += os.read(terminal, 1_000_000)
        except BlockingIOError:
            return has_ended
        return False

    wait_until(is_done)
    return shown


def test_an_export_to_a_terminal_has_no_bar(url: str, terminal: tuple[int, int]) -> None:
    put(url, Key("a"))
    ours, theirs = terminal

    with process("keys", "export", "--backend", url, stdout=theirs, stderr=theirs) as child:
        child.communicate(timeout=LIMIT_S)

    assert json.loads(os.read(ours, 10_000))["client_id"] == "a"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_import_reports_its_progress(url: str, number: int) -> None:
    put(url, Key("z"))
    with process("keys", "import", "-", "--backend", url, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(generated_lines(2500))
        child.stdin.flush()
        wait_until(lambda: len(keys_of(url)) == 2001)  # two batches; the command waits for more input
        child.send_signal(number)
        out, err = child.communicate(timeout=LIMIT_S)

    assert (child.returncode, out) == (130, b"")
    assert err == b"stopped after importing 2000 keys; the import can be repeated\n"
    assert len(keys_of(url)) == 2001


@pytest.mark.parametrize(("presses", "imported"), [(1, 1000), (2, 0)])
def test_a_batch_that_is_being_written_is_finished_and_counted(
    cli: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    file: Path,
    presses: int,
    imported: int,
) -> None:
    """Ctrl-C waits for the end of the batch; a second one does not."""
    file.write_bytes(generated_lines(1500))
    install_third_party_store(
        tmp_path,
        monkeypatch,
        "import os, signal",
        f"left = {presses}",
        "def get(self, client_id): return None",
        "def put(self, record, expect_version):",
        "    if Strange.left:",
        "        Strange.left -= 1",
        "        Strange.os.kill(Strange.os.getpid(), Strange.signal.SIGINT)",
        "    return True",
        "delete = scan = changes = close = lambda *arguments: None",
    )

    done = cli("keys", "import", str(file), "--backend", "strange:")

    assert (done.status, done.out) == (130, "")
    assert done.err == f"stopped after importing {imported} keys; the import can be repeated\n"


def test_an_import_whose_output_is_closed_counts_its_keys(url: str, file: Path) -> None:
    """Not only the keys that it could print."""
    file.write_bytes(generated_lines(1500))

    with process("keys", "import", str(file), "--json", "--backend", url) as child:
        assert child.stdout is not None
        child.stdout.close()
        _, err = child.communicate(timeout=LIMIT_S)

    assert child.returncode == 1
    assert err == b"stopped after importing 1000 keys; the import can be repeated\n"
    assert len(keys_of(url)) == 1000


def test_a_killed_import_leaves_complete_keys(url: str, file: Path) -> None:
    put(url, Key("z"))
    file.write_bytes(generated_lines(20_000))

    with process("keys", "import", str(file), "--backend", url) as child:
        wait_until(lambda: len(keys_of(url)) > 1000)
        child.kill()

    left = keys_of(url)
    assert 1000 < len(left) < 20_000
    assert all(len(key.secrets) == 1 for key in left if key.client_id != "z")


def test_a_killed_export_leaves_the_earlier_one(url: str, file: Path) -> None:
    fill(url, 20_000)
    file.write_text('{"v":1}')

    with process("keys", "export", str(file), "--backend", url) as child:
        wait_until(lambda: any(each.stat().st_size for each in _temporary(file)))
        child.kill()

    assert file.read_text() == '{"v":1}'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_export_leaves_nothing_else(url: str, file: Path, number: int) -> None:
    fill(url, 20_000)
    file.unlink()

    with process("keys", "export", str(file), "--backend", url) as child:
        wait_until(lambda: any(each.stat().st_size for each in _temporary(file)))
        child.send_signal(number)
        out, err = child.communicate(timeout=LIMIT_S)

    assert (child.returncode, out, err) == (130, b"", b"")
    assert not file.exists()
    assert not list(_temporary(file))


def _temporary(file: Path) -> Iterator[Path]:
    return file.parent.glob(f".{file.name}.*")


def test_a_full_disk_leaves_the_earlier_export(url: str, file: Path) -> None:
    fill(url, 6000)
    file.write_text('{"v":1}')

    done = ended("keys", "export", str(file), "--backend", url, preexec_fn=_no_file_over_1_mb)

    done.failed_with(f"{file}: file too large")
    assert file.read_text() == '{"v":1}'
    assert not list(_temporary(file))


def test_a_full_disk_during_an_import(url: str, file: Path) -> None:
    """One line, and the number of complete keys that it reports."""
    file.write_bytes(generated_lines(5000))

    done = ended("keys", "import", str(file), "--backend", url, preexec_fn=_no_file_over_1_mb)

    assert (done.status, done.out) == (1, "")
    report, error = done.err.splitlines()
    assert report == f"stopped after importing {len(keys_of(url))} keys; the import can be repeated"
    assert error.startswith("error: ")


def test_a_pipe_that_cannot_be_spooled(url: str, file: Path, cli: Callable[..., Done]) -> None:
    """An export from a pipe is spooled, which needs disk space."""
    fill(url, 6000)
    cli("keys", "export", str(file))

    done = ended(
        *("keys", "import", "-", "--backend", url),
        stdin=file.read_bytes(),
        preexec_fn=_no_file_over_1_mb,
    )

    done.failed_with("too large")


def _no_file_over_1_mb() -> None:
    # Not less: coverage's data file of the process must fit as well.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def test_an_export_to_a_full_disk_is_one_line(url: str) -> None:
    fill(url, 200)

    with Path("/dev/full").open("wb") as full:
        done = ended("keys", "export", "--backend", url, stdout=full)

    done.failed_with("no space left")


def peak_kib(*arguments: str, **options: Any) -> int:
    """The peak memory of a command line."""
    code = (
        "import re, sys; from basicauth_mw.cli.app import run; status = run(sys.argv[1:]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr); "
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=6 * LIMIT_S,
        check=True,
        **options,
    )
    return int(done.stderr)


def test_memory_does_not_grow_with_the_number_of_keys(
    url: str, other: str, file: Path, tmp_path: Path
) -> None:
    """Twenty thousand keys take as much as one thousand: from a file, to a file, and through a pipe."""
    exported = tmp_path / "export"

    def peaks(count: int) -> list[int]:
        file.write_bytes(generated_lines(count))
        names = [f"{each}-{count}" for each in (url, other)]
        found = [
            peak_kib("keys", "import", str(file), "--backend", names[0]),
            peak_kib("keys", "export", str(exported), "--backend", names[0]),
        ]
        with subprocess.Popen(["cat", exported], stdout=subprocess.PIPE) as cat:
            found.append(peak_kib("keys", "import", "-", "--backend", names[1], stdin=cat.stdout))
        return found

    few = peaks(1000)
    many = peaks(20_000)

    assert all(much - little < FLAT_WITHIN_KIB for much, little in zip(many, few, strict=True)), (few, many)


def test_a_new_secret_that_could_not_be_printed_is_named(url: str, file: Path) -> None:
    file.write_text("".join(f"user{number}:{{SHA}}x\n" for number in range(50)))
    with Path("/dev/full").open("wb") as full:
        done = ended("keys", "import", str(file), "--new-secrets", "--backend", url, stdout=full)

    assert done.status == 1
    named, *_ = done.err.splitlines()
    assert named.startswith("the new secret of 'user0' was not printed")
    assert "keys rotate" in named
    assert [key.client_id for key in keys_of(url)] == ["user0"], "no other secret is lost"
