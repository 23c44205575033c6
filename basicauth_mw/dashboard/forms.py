"""The forms for a new key and for the fields of a key."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidKey
from ..keys.validation import (
    check_client_id,
    check_expires_at,
    check_metadata,
    check_name,
    check_scopes,
    parse_duration,
    parse_metadata,
)
from .problems import FormProblem
from .strings import LIFETIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..keys.model import Key

NEW_FIELDS: Final = ("name", "scopes", "expires", "until", "client_id")
EDIT_FIELDS: Final = ("name", "scopes", "expires", "until", "metadata")
UNCHANGED: Final = "unchanged"  # the choice for an expiry that stays
_INDENTED: Final = 8192  # longer metadata is shown on one line: a form is limited


def parse_new_key(read: Callable[[str], str], generated_id: str, now: datetime) -> dict[str, Any]:
    """Return the arguments for ``Backend.create``.

    Raises:
        FormProblem: Fields are invalid.
    """
    checks = _checks(read, now)
    checks["client_id"] = lambda: check_client_id(read("client_id").strip() or generated_id)
    return _run(checks, "not-created")


def shown_fields(key: Key) -> dict[str, str]:
    """Return the fields that can be edited, as the form shows them."""
    metadata = dict(key.metadata)
    text = json.dumps(metadata, ensure_ascii=False, default=str, indent=2)
    if len(text.encode("utf-8", "backslashreplace")) > _INDENTED:
        text = json.dumps(metadata, ensure_ascii=False, default=str)
    return {
        "name": key.name,
        "scopes": " ".join(sorted(key.scopes)),
        "expires": "" if key.expires_at is None else key.expires_at.astimezone(UTC).isoformat(),
        "metadata": text if metadata else "",
    }


def parse_edited_key(typed: Mapping[str, str], shown: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """Return the arguments for ``Backend.update``.

    Fields that are as shown are omitted: they may hold what this package would refuse, such as a past expiry.

    Raises:
        FormProblem: Fields are invalid.
    """
    checks = _checks(typed.__getitem__, now)
    checks["metadata"] = lambda: check_metadata(parse_metadata(typed["metadata"].strip() or "{}"))
    return _run({name: check for name, check in checks.items() if is_edited(name, typed, shown)}, "not-saved")


def is_edited(name: str, typed: Mapping[str, str], shown: Mapping[str, str]) -> bool:
    """Whether a value differs from what the form showed."""
    return typed[name] != (UNCHANGED if name == "expires" else shown[name])


def _checks(read: Callable[[str], str], now: datetime) -> dict[str, Callable[[], Any]]:
    return {
        "name": lambda: check_name(read("name").strip()),
        "scopes": lambda: check_scopes(read("scopes").replace(",", " ").split()),
        "expires": lambda: _parse_expiry(read("expires"), read("until"), now),
    }


def _run(checks: Mapping[str, Callable[[], Any]], problem: str) -> dict[str, Any]:
    fields, errors = {}, {}
    for name, check in checks.items():
        try:
            fields["expires_at" if name == "expires" else name] = check()
        except InvalidKey as exc:
            errors[name] = str(exc)
    if errors:
        raise FormProblem(422, problem, errors=errors)
    return fields


def _parse_expiry(choice: str, until: str, now: datetime) -> datetime | None:
    if choice == "never":
        return None
    if choice in LIFETIMES:
        return now + timedelta(seconds=parse_duration(choice) or 0)
    if choice != "until":
        raise InvalidKey("choose one of these options")
    try:
        moment = datetime.strptime(f"{until}+0000", "%Y-%m-%dT%H:%M%z")
    except ValueError:
        raise InvalidKey("enter a calendar date and time in UTC, such as 2030-01-31T12:00") from None
    return check_expires_at(moment, now=now)
