"""The form for a new key."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidKey
from ..keys.validation import check_client_id, check_expires_at, check_name, check_scopes, parse_duration
from .strings import LIFETIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORM_FIELDS: Final = ("name", "scopes", "expires", "until", "client_id")


def parse_new_key(
    values: Mapping[str, str], generated_id: str, now: datetime
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arguments for ``Backend.create``, and error messages by field."""
    checks: dict[str, Callable[[], Any]] = {
        "name": lambda: check_name(values["name"].strip()),
        "scopes": lambda: check_scopes(values["scopes"].replace(",", " ").split()),
        "expires": lambda: _parse_expiry(values["expires"], values["until"], now),
        "client_id": lambda: check_client_id(values["client_id"].strip() or generated_id),
    }
    fields, errors = {}, {}
    for name, check in checks.items():
        try:
            fields["expires_at" if name == "expires" else name] = check()
        except InvalidKey as exc:
            errors[name] = str(exc)
    return fields, errors


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
