"""``basicauth-mw keys create`` and ``rotate``: new secrets, each shown once."""

from typing import Annotated

import typer

from ..backends.backend import Issued
from ..keys.generated_secrets import SecretShape, classify
from ..keys.model import utcnow
from ..keys.validation import (
    check_expires_at,
    check_metadata,
    check_name,
    check_new_client_id,
    check_scopes,
    check_secret,
)
from ..runtime.extras import require
from ._curl import curl_line
from ._errors import CommandError, reason_of
from ._input import given_secret, parse_expires, parse_metadata, parse_overlap, warn_if_short
from ._options import AsJson, BackendUrl, ClientId, SecretPrompt, SecretStdin, opened
from ._output import flush, inert, key_fields, moment, print_json, print_key, say

_EXAMPLE_URL = "http://127.0.0.1:8000/"


def create(
    ctx: typer.Context,
    *,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="For people, up to 200 characters.", show_default=False)
    ] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="What the key may do; repeatable.", show_default=False),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="90d, 12h, 30m, 45s, 2w, 2030-01-31T12:00:00Z, or never.",
            show_default="never",
        ),
    ] = None,
    client_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The client id.", show_default="minted")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="JSON", help="A JSON object, up to 4 KiB.", show_default=False)
    ] = None,
    secret_stdin: SecretStdin = False,
    secret_prompt: SecretPrompt = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show its secret, this once. A missing SQLite file is made.

    The secret is minted unless --secret-stdin or --secret-prompt is given.
    """
    expires_at = None if expires is None else parse_expires(expires)
    fields = None if metadata is None else parse_metadata(metadata)
    secret = given_secret(from_stdin=secret_stdin, from_prompt=secret_prompt)
    # What would be refused is refused before a file is made for it.
    if client_id is not None:
        check_new_client_id(client_id)
    if secret is not None:
        check_secret(secret)
        if classify(secret) is not SecretShape.GENERATED:
            require("argon2", extra="passwords")
    check_name(name)
    check_scopes(scope or ())
    check_expires_at(expires_at, now=utcnow())
    check_metadata(fields)
    with opened(ctx, backend, create=True) as store:
        issued = store.create(
            name=name,
            scopes=scope or (),
            expires_at=expires_at,
            client_id=client_id,
            secret=secret,
            metadata=fields,
        )
        try:
            _print_issued(issued, typed=secret_prompt, as_json=as_json)
        except OSError as exc:
            raise CommandError(
                f"the key {issued.client_id} was made but could not be shown ({reason_of(exc)}): "
                "delete it and make another"
            ) from None


def rotate(
    ctx: typer.Context,
    client_id: ClientId,
    *,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old secrets go on working: 24h, 7d, 0.")
    ] = "24h",
    secret_stdin: SecretStdin = False,
    secret_prompt: SecretPrompt = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and show it, this once. The old ones work on for the overlap.

    The secret is minted unless --secret-stdin or --secret-prompt is given.
    """
    overlap_s = parse_overlap(overlap)
    secret = given_secret(from_stdin=secret_stdin, from_prompt=secret_prompt)
    with opened(ctx, backend) as store:
        issued = store.rotate(client_id, overlap_s=overlap_s, secret=secret)
        try:
            _print_issued(issued, typed=secret_prompt, as_json=as_json, rotated=True)
        except OSError as exc:
            raise CommandError(
                f"the key {issued.client_id} has a new secret that could not be shown ({reason_of(exc)}): "
                "rotate it again"
            ) from None


def _print_issued(issued: Issued, *, typed: bool, as_json: bool, rotated: bool = False) -> None:
    """Show a new secret, now; one that was typed was hidden while typed, and stays so.

    Raises:
        OSError: Nobody can have seen all of it.
    """
    warn_if_short(issued.secret)
    if as_json:
        names = ("secret", "authorization", "token")
        shown = {name: None if typed else getattr(issued, name) for name in names}
        print_json({**key_fields(issued.key), **shown})
        flush()
        return
    print_key(issued.key)
    if not typed:
        say(f"{'secret':<10} {inert(issued.secret)}")
        say(f"{'token':<10} {issued.token}")
    if rotated:
        say()
        say(_fate_of_old(issued))
    if not typed:
        say()
        say("The secret is shown this once. Try it:")
        say()
        say(curl_line(_EXAMPLE_URL, issued.client_id, issued.secret))
        say(f'httpx.get("{_EXAMPLE_URL}", auth=({issued.client_id!a}, {issued.secret!a}))')
        say(f"Authorization: {issued.authorization}")
    flush()


def _fate_of_old(issued: Issued) -> str:
    *old, _new = issued.key.secrets
    ends = [
        min(end for end in (secret.expires_at, issued.key.expires_at) if end is not None)
        for secret in old
        if secret.expires_at is not None
    ]
    if not any(end > utcnow() for end in ends):
        return "The old secret works no longer."
    return f"The old secret works until {moment(max(ends))}."
