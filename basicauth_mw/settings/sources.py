"""Find a value in the environment, a mapping, or the file that a ``<NAME>_FILE`` entry names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ENV_PREFIX: Final = "BASICAUTH_"

# A BOM and whitespace around a value are never intended: editors, echo, YAML and Windows add them.
_EDGES: Final = re.compile(r"\A[\s\ufeff]+|[\s\ufeff]+\Z")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Entries with the prefix that other parts of the package read, so they are no misspelled settings.
_NOT_SETTINGS: Final = frozenset({"KEYS", "KEYS_FILE", "APP"})


def read_entry(source: Mapping[str, Any], name: str, *, multiline: bool = False) -> tuple[Any, str] | None:
    """Find a value in the environment or a mapping, under its name or in the file that ``<name>_FILE`` names.

    A byte order mark, whitespace and line breaks are stripped from both ends of text. An empty entry counts
    as unset if the other one is set.

    Args:
        source: The environment, or a mapping like it. A value that is not text is returned unchanged.
        name: Such as ``BASICAUTH_BACKEND``.
        multiline: Whether the value may contain line breaks.

    Returns:
        The value, and the name of the entry that holds it; None if neither entry is set.

    Raises:
        ValueError: Both are set, the file cannot be read, or the text is in quotes or contains a control
            character. The message names the entry and never shows the value.
    """
    file_name = f"{name}_FILE"
    value, file = (strip_edges(source.get(each)) for each in (name, file_name))
    if file is None or file == "":
        return None if value is None else (check_value(value, name, multiline=multiline), name)
    if value is not None and value != "":
        raise ValueError(f"{name} and {file_name} are both set: remove one")
    from pathlib import Path  # most processes read no file, and it takes a tenth of the import

    try:
        text = Path(str(file)).read_text(encoding="utf-8")
    except OSError as exc:
        reason = exc.strerror
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except ValueError:
        reason = "not a path"
    else:
        return check_value(strip_edges(text), file_name, multiline=multiline), file_name
    raise ValueError(f"{file_name}: the file it names cannot be read ({reason}): check the path and its mode")


def strip_edges(value: Any) -> Any:
    """Strip a byte order mark and whitespace from both ends of text; other values are unchanged."""
    return _EDGES.sub("", value) if isinstance(value, str) else value


def check_value(value: Any, entry: str, *, multiline: bool) -> Any:
    """Return a value unchanged.

    Raises:
        ValueError: It is text in quotes, or contains a control character.
    """
    if not isinstance(value, str):
        return value
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        raise ValueError(
            f"{entry} is wrapped in quotes, which a shell removes and docker --env-file keeps: remove them"
        )
    if not multiline and _CONTROLS.search(value):
        raise ValueError(f"{entry} contains a line break or another control character: remove it")
    return value


def misspelled(source: Iterable[object], names: list[str]) -> Iterator[str]:
    """Describe each entry with the prefix that is nearly the name of a setting."""
    known = {*(name.upper() for name in names), *(f"{name.upper()}_FILE" for name in names), *_NOT_SETTINGS}
    for entry in source:
        if not isinstance(entry, str) or not entry.startswith(ENV_PREFIX):
            continue
        name = entry.removeprefix(ENV_PREFIX)
        if name not in known and (hint := did_you_mean(name.lower().removesuffix("_file"), names)):
            yield f"unknown setting {entry}{hint}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error that names similar settings; empty if there are none."""
    from difflib import get_close_matches  # only needed to phrase an error

    near = get_close_matches(name, names, cutoff=0.75)
    hints = " or ".join(f"{each} ({ENV_PREFIX}{each.upper()})" for each in near)
    return f": did you mean {hints}?" if near else ""
