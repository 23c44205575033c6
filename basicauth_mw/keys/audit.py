"""Log one structured record for every change of a key and every refusal, to ``basicauth_mw.audit``.

A record carries an attribute ``basicauth``: a dict of ``event``, ``client_id``, ``reason``, ``detail``,
``scheme``, ``address``, ``request_id`` and ``actor``. It never contains a secret, a hash, or a token.
"""

from __future__ import annotations

import logging
from typing import Final

from .generated_secrets import is_secret

logger = logging.getLogger("basicauth_mw.audit")

MAX_CHARACTERS: Final = 255


def is_enabled(reason: str | None = None) -> bool:
    """Whether refusals for this reason are logged, or (None) changes of keys."""
    return logger.isEnabledFor(logging.DEBUG if reason == "missing" else logging.INFO)


def record(
    event: str,
    *,
    client_id: str | None = None,
    reason: str | None = None,
    detail: str | None = None,
    scheme: str | None = None,
    address: str | None = None,
    request_id: str | None = None,
    actor: str | None = None,
) -> None:
    """Log one event.

    Args:
        event: ``key.created``, ``auth.refused`` and the like.
        client_id: ID of the key, as the client sent it; it is escaped and truncated.
        reason: Why a request was refused; one of a fixed set.
        detail: Why credentials were malformed; one of a fixed set.
        scheme: How refused credentials were sent; an entry of the ``schemes`` setting.
        address: The address of the client, as reported by the server.
        request_id: ID of the request.
        actor: Who changed a key: a client ID, or a user of the operating system.
    """
    if not is_enabled(reason):
        return
    fields = {
        "event": event,
        "client_id": sanitize(client_id),
        "reason": reason,
        "detail": detail,
        "scheme": scheme,
        "address": sanitize(address),
        "request_id": request_id,
        "actor": sanitize(actor),
    }
    text = " ".join(f"{name}={value!r}" for name, value in fields.items() if value is not None)
    level = logging.DEBUG if reason == "missing" else logging.INFO
    logger.log(level, "%s", text, extra={"basicauth": fields})


def sanitize(text: str | None) -> str | None:
    """Make text from a client safe to log: at most 255 characters, without control characters.

    A generated secret that was sent as a client ID by mistake is cut to its prefix.
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
