"""Requests to paste into a shell."""

import shlex

from ..keys.credentials import encode_basic


def curl_line(url: str, client_id: str, secret: str, *options: str) -> str:
    """A ``curl`` command that sends the credentials.

    Args:
        url: Where to.
        client_id: Half of the credentials; checked to be sendable.
        secret: The other half.
        *options: More words, put before the credentials.

    Raises:
        InvalidKey: The credentials cannot be sent.
    """
    authorization = encode_basic(client_id, secret)
    pair = f"{client_id}:{secret}"
    if pair.isascii():
        credentials = ["-u", pair]  # curl hides the value of -u from process lists
    else:
        credentials = ["-H", f"Authorization: {authorization}"]  # means the same in every locale
    return shlex.join(["curl", *options, *credentials, url])
