"""One structured record for every change of a key and every refusal, on the logger ``basicauth_mw.audit``.

A record carries an attribute ``basicauth``: a dict of ``event``, ``client_id``, ``reason``, ``detail``,
``address``, ``request_id`` and ``actor``. It never holds a secret, a hash, or the Authorization field.
"""

from __future__ import annotations

import logging
from typing import Final

from .generated_secrets import is_secret

logger = logging.getLogger("basicauth_mw.audit")

MAX_CHARACTERS: Final = 255


def is_wanted(reason: str | None = None) -> bool:
    """Whether anybody listens to refusals for this reason, or (None) to changes of keys."""
    return logger.isEnabledFor(_level(reason))


def record(
    event: str,
    *,
    client_id: str | None = None,
    reason: str | None = None,
    detail: str | None = None,
    address: str | None = None,
    request_id: str | None = None,
    actor: str | None = None,
) -> None:
    """Write one event.

    Args:
        event: ``key.created``, ``auth.refused`` and the like.
        client_id: Whose; as claimed, so it is escaped and cut.
        reason: Of a refusal, one of a closed set.
        detail: Of malformed credentials, which mistake; one of a closed set.
        address: The client's, as the server told it.
        request_id: Of the request.
        actor: Who changed a key: a client id, or a user of the operating system.
    """
    if not is_wanted(reason):
        return
    facts = {
        "event": event,
        "client_id": printable(client_id),
        "reason": reason,
        "detail": detail,
        "address": printable(address),
        "request_id": request_id,
        "actor": printable(actor),
    }
    text = " ".join(f"{name}={value!r}" for name, value in facts.items() if value is not None)
    logger.log(_level(reason), "%s", text, extra={"basicauth": facts})


def _level(reason: str | None) -> int:
    return logging.DEBUG if reason == "missing" else logging.INFO


def printable(text: str | None) -> str | None:
    """What a client sent, fit for a log: at most 255 characters, nothing that moves a cursor or a line.

    A minted secret in the place of a client id (somebody took the one for the other) is cut to its prefix.
    """
    if text is not None and is_secret(text):
        return f"{text.rpartition('_')[0]}_..."
    if text is None or (text.isprintable() and len(text) <= MAX_CHARACTERS):
        return text
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text[:MAX_CHARACTERS]
    )
    return escaped[:MAX_CHARACTERS]
