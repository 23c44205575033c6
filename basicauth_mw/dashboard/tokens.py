"""Page tokens: proof that a form was made here, for this principal, for this act, and not long ago.

A browser sends Basic credentials by itself, whichever site a form came from. So each form holds an HMAC over
who may send it, where to, and when it was made. Its key is made from the caller's own credentials: then every
worker process agrees on it with nothing to share or configure, and it ends with the secret. Whoever could
compute it knows those credentials already. A secret that a person chose is stretched first, so that it
cannot be guessed from the token of a saved page.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final

from ..keys.generated_secrets import SecretShape, classify
from .problems import OldToken, PageProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..keys.credentials import Credentials

LIFE_S: Final = 3600.0
_EARLY_S: Final = 60.0  # the clocks of several hosts

_TOKEN: Final = re.compile(r"([0-9a-f]{1,16})\.([0-9A-Za-z_]{0,100})\.([0-9a-f]{64})")
_MEMORY: Final = {"n": 2**14, "r": 8, "p": 1}


class PageTokens:
    """Makes and checks the tokens of one caller.

    Args:
        caller: The credentials that were proved.
        peppers: Of the settings: with one, credentials alone do not make a token.
    """

    def __init__(self, caller: Credentials, peppers: Sequence[str] = ()) -> None:
        material = caller.secret.encode()
        if classify(caller.secret) is not SecretShape.GENERATED:
            material = hashlib.scrypt(material, salt=b"basicauth_mw page token", **_MEMORY)
        pepper = peppers[0].encode() if peppers else b""
        digest = hashlib.blake2b(material, key=hashlib.sha256(pepper).digest(), person=b"basicauth_mw/pg")
        digest.update(b"\0" + caller.client_id.encode())
        self._key = digest.digest()

    def make(self, act: str, subject: str, carried: str, now: float) -> str:
        """A token for the form that does ``act`` to the key ``subject``, if to any.

        ``carried`` comes back from ``check``: letters, digits and ``_``. ``now``: seconds since the epoch.
        """
        at = f"{int(now):x}"
        return f"{at}.{carried}.{self._mac(act, subject, at, carried)}"

    def check(self, token: str, act: str, subject: str, now: float) -> str:
        """What the token of a form carries.

        Raises:
            PageProblem: It was not made for this.
            OldToken: It was, but too long ago.
        """
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            raise PageProblem(403, "bad-token")
        at, carried, mac = parts.groups()
        if not hmac.compare_digest(mac, self._mac(act, subject, at, carried)):
            raise PageProblem(403, "bad-token")
        age_s = now - int(at, 16)
        if not -_EARLY_S <= age_s <= LIFE_S:
            raise OldToken
        return carried

    def _mac(self, *parts: str) -> str:
        # The length before each part: no two lists of parts are the same message.
        message = b"".join(b"%d:%b" % (len(part := each.encode()), part) for each in parts)
        return hmac.new(self._key, message, "sha256").hexdigest()
