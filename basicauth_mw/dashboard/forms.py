"""What was typed into the form for a new key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidKey
from ..keys.validation import check_client_id, check_expires_at, check_name, check_scopes
from .wording import LIVES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TYPED: Final = ("name", "scopes", "expires", "until", "client_id")

_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2})?")
_SEPARATORS: Final = re.compile(r"[\s,]+")


def new_key(values: Mapping[str, str], minted: str, now: datetime) -> tuple[dict[str, Any], dict[str, str]]:
    """What the fields mean, as arguments of ``Backend.create``, and what is wrong with them, by field.

    Args:
        values: All of ``TYPED``.
        minted: The client id, unless one was chosen.
        now: The time.
    """
    scopes = [*filter(None, _SEPARATORS.split(values["scopes"]))]
    checks: dict[str, Callable[[], Any]] = {
        "name": lambda: check_name(values["name"].strip()),
        "scopes": lambda: check_scopes(scopes),
        "expires": lambda: _expiry(values["expires"], values["until"], now),
        "client_id": lambda: check_client_id(values["client_id"].strip() or minted),
    }
    fields, errors = {}, {}
    for name, check in checks.items():
        try:
            fields["expires_at" if name == "expires" else name] = check()
        except InvalidKey as exc:
            errors[name] = str(exc)
    return fields, errors


def _expiry(choice: str, until: str, now: datetime) -> datetime | None:
    if choice == "never":
        return None
    if choice in LIVES:
        return now + timedelta(seconds=LIVES[choice][1])
    if choice != "until":
        raise InvalidKey("choose one of these")
    if not _MOMENT.fullmatch(until):
        raise InvalidKey("give the date and the time, in UTC: 2030-01-31T12:00")
    try:
        moment = datetime.fromisoformat(until).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidKey("there is no such moment in the calendar") from None
    return check_expires_at(moment, now=now)
