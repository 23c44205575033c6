"""CSRF tokens: each proves that a form came from this dashboard, for this user, action and key.

Browsers send Basic credentials by themselves, whichever site a form came from. So each form carries an HMAC
over its action, its key and the time. The HMAC key is derived from the user's own credentials: all worker
processes agree on it without shared state, it changes with the secret, and only someone who has the
credentials can compute it. A password is stretched first, so that it cannot be guessed from the token in a
saved page.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final

from ..keys.generated_secrets import SecretShape, classify
from .problems import FormProblem, PageProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..keys.authorization_header import Credentials

LIFETIME_S: Final = 3600.0
_CLOCK_SKEW_S: Final = 60.0  # between hosts

_TOKEN: Final = re.compile(r"([0-9a-f]{1,16})\.([0-9A-Za-z_]{0,100})\.([0-9a-f]{64})")
_SCRYPT_COST: Final = {"n": 2**14, "r": 8, "p": 1}


class CsrfTokens:
    """Makes and checks the tokens of the user with these credentials."""

    def __init__(self, credentials: Credentials, peppers: Sequence[str] = ()) -> None:
        material = credentials.secret.encode()
        if classify(credentials.secret) is not SecretShape.GENERATED:
            material = hashlib.scrypt(material, salt=b"basicauth_mw page token", **_SCRYPT_COST)
        pepper = peppers[0].encode() if peppers else b""
        digest = hashlib.blake2b(material, key=hashlib.sha256(pepper).digest(), person=b"basicauth_mw/pg")
        digest.update(b"\0" + credentials.client_id.encode())
        self._key = digest.digest()

    def make(self, action: str, subject: str, payload: str, now: float) -> str:
        """Make a token for an action on the key ``subject``; ``payload``: letters, digits and ``_``."""
        issued_at = f"{int(now):x}"
        return f"{issued_at}.{payload}.{self._mac(action, subject, issued_at, payload)}"

    def check(self, token: str, action: str, subject: str, now: float) -> str:
        """Return the payload; raises ``FormProblem`` if it has expired, else ``PageProblem``."""
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            raise PageProblem(403, "bad-token")
        issued_at, payload, mac = parts.groups()
        if not hmac.compare_digest(mac, self._mac(action, subject, issued_at, payload)):
            raise PageProblem(403, "bad-token")
        if not -_CLOCK_SKEW_S <= now - int(issued_at, 16) <= LIFETIME_S:
            raise FormProblem(403, "expired-token")
        return payload

    def _mac(self, *parts: str) -> str:
        # Each part follows its length, so that different lists never give the same message.
        message = b"".join(b"%d:%b" % (len(part := each.encode()), part) for each in parts)
        return hmac.new(self._key, message, "sha256").hexdigest()
