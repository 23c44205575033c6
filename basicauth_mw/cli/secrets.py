"""``basicauth-mw keys create`` and ``rotate``: new secrets, each of which is shown once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from typer import echo

from ..backends.backend import Issued
from ..keys.escaping import escape_control
from ..keys.model import utcnow
from ..keys.validation import SHORT_PASSWORD, is_short_password
from ._echo import CommandError, echo_error, echo_json, echo_key, isoformat, key_fields, reason_of
from ._input import parse_expires, parse_seconds, read_secret
from ._options import (
    AsJson,
    BackendUrl,
    ClientId,
    Expires,
    Metadata,
    Name,
    Scopes,
    SecretPrompt,
    SecretStdin,
    open_for,
)
from .tokens import credential_header, curl_command

_EXAMPLE_URL = "http://127.0.0.1:8000/"


def create(
    ctx: typer.Context,
    *,
    name: Name = None,
    scopes: Scopes = None,
    expires: Expires = None,
    client_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The client ID.", show_default="generated")
    ] = None,
    metadata: Metadata = None,
    secret_stdin: SecretStdin = False,
    secret_prompt: SecretPrompt = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and show its secret once.

    The secret is generated unless --secret-stdin or --secret-prompt is given. The key never expires unless
    --expires is given. A missing SQLite file is created.
    """
    expires_at = None if expires is None else parse_expires(expires)
    secret = read_secret(from_stdin=secret_stdin, from_prompt=secret_prompt)
    with open_for(ctx, backend, create=True) as keys:
        issued = keys.create(
            client_id=client_id,
            secret=secret,
            name=name or "",
            scopes=scopes or (),
            expires_at=expires_at,
            metadata=metadata,
        )
        with _reporting_loss(f"the key {issued.client_id} was created", "delete the key and create another"):
            _show(issued, was_typed=secret_prompt, as_json=as_json)


def rotate(
    ctx: typer.Context,
    client_id: ClientId,
    *,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old secrets remain valid: 24h, 7d, 0.")
    ] = "24h",
    secret_stdin: SecretStdin = False,
    secret_prompt: SecretPrompt = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and show it once.

    The old secrets remain valid until the overlap ends. The new one is generated unless --secret-stdin or
    --secret-prompt is given.
    """
    overlap_s = parse_seconds(overlap, "--overlap")
    secret = read_secret(from_stdin=secret_stdin, from_prompt=secret_prompt)
    with open_for(ctx, backend) as keys:
        issued = keys.rotate(client_id, overlap_s=overlap_s, secret=secret)
        with _reporting_loss(f"the key {client_id} was rotated", "rotate the key again"):
            _show(issued, was_typed=secret_prompt, as_json=as_json, note=_overlap_note(issued))


@contextmanager
def _reporting_loss(done: str, remedy: str) -> Iterator[None]:
    """Report an output that failed as a secret that is lost."""
    try:
        yield
    except OSError as exc:
        raise CommandError(
            f"{done}, but its secret could not be shown ({reason_of(exc)}): {remedy}"
        ) from None


def _show(issued: Issued, *, was_typed: bool, as_json: bool, note: str = "") -> None:
    """Print a new secret, except one that was typed at the prompt."""
    if is_short_password(issued.secret):
        echo_error(
            f"warning: a password of fewer than {SHORT_PASSWORD} characters can be guessed: rotate the key "
            "without giving a secret, and one is generated"
        )
    if as_json:
        names = ("secret", "authorization", "token")
        shown = {name: None if was_typed else getattr(issued, name) for name in names}
        echo_json({**key_fields(issued.key), **shown})
        return
    echo_key(issued.key)
    if not was_typed:
        echo(f"{'secret':<10} {escape_control(issued.secret)}")
        echo(f"{'token':<10} {issued.token}")
    if note:
        echo(f"\n{note}")
    if not was_typed:
        echo("\nThe secret will not be shown again. Try it:\n")
        echo(curl_command(_EXAMPLE_URL, issued.client_id, issued.secret))
        header, value = credential_header(issued.client_id, issued.secret)
        is_basic = value == issued.authorization
        pair = f"auth=({issued.client_id!a}, {issued.secret!a})"
        echo(f'httpx.get("{_EXAMPLE_URL}", {pair if is_basic else f"headers={{{header!a}: {value!a}}}"})')
        echo(f"{header}: {value}")


def _overlap_note(issued: Issued) -> str:
    *old, _new = issued.key.secrets
    end = max((secret.expires_at for secret in old if secret.expires_at is not None), default=utcnow())
    end = min(end, issued.key.expires_at or end)
    if end <= utcnow():
        return "The old secret no longer works."
    return f"The old secret works until {isoformat(end)}."
