"""What was typed into the form for a new key. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidKey
from ..rules import check_client_id, check_expires_at, check_name, check_scopes
from .wording import LIVES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TYPED: Final = ("name", "scopes", "expires", "until", "client_id")

_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2})?")
_SEPARATORS: Final = re.compile(r"[\s,]+")


class Mistyped(Exception):
    """Some fields are wrong.

    Args:
        errors: What is wrong, by field.
    """

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__()
        self.errors = errors


@dataclass(frozen=True, slots=True)
class NewKey:
    """What ``Backend.create`` takes."""

    name: str
    scopes: frozenset[str]
    expires_at: datetime | None
    client_id: str


def new_key(values: Mapping[str, str], minted: str, now: datetime) -> NewKey:
    """What the fields mean.

    Args:
        values: All of ``TYPED``.
        minted: The client id, unless one was chosen.
        now: The time.

    Raises:
        Mistyped: Names every field that is wrong.
    """
    errors: dict[str, str] = {}

    def tried(name: str, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except InvalidKey as exc:
            errors[name] = str(exc)

    scopes = [*filter(None, _SEPARATORS.split(values["scopes"]))]
    fields = NewKey(
        name=tried("name", lambda: check_name(values["name"].strip())),
        scopes=tried("scopes", lambda: check_scopes(scopes)),
        expires_at=tried("expires", lambda: _expiry(values["expires"], values["until"], now)),
        client_id=tried("client_id", lambda: check_client_id(values["client_id"].strip() or minted)),
    )
    if errors:
        raise Mistyped(errors)
    return fields


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
