"""``basicauth-mw keys``: make keys, look at them, end them."""

from collections.abc import Callable
from typing import Annotated

import typer

from ..backend import Backend, Issued
from ..errors import KeyNotFound, UnreadableRecord
from ..model import Key
from ._curl import curl_line
from ._errors import CommandError, reason_of
from ._input import confirmed, parse_expires, parse_metadata, secret_from_prompt, secret_from_stdin
from ._options import AsJson, BackendUrl, ClientId, SecretStdin, Yes, opened, remember_backend
from ._output import flush, inert, key_fields, print_json, print_key, print_keys, say

app = typer.Typer(no_args_is_help=True, help="Make keys, look at them, end them.")

_EXAMPLE_URL = "http://127.0.0.1:8000/"


@app.callback()
def keys(ctx: typer.Context, backend: BackendUrl = None) -> None:
    """Make keys, look at them, end them."""
    remember_backend(ctx, backend)


@app.command()
def create(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Option(help="For people, up to 200 characters.", show_default=False)] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="What the key may do; repeatable.", show_default=False)
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="90d, 12h, 30m, 45s, 2w or 2030-01-31T12:00:00Z.", show_default="never"
        ),
    ] = None,
    client_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The client id.", show_default="minted")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="JSON", help="A JSON object, up to 4 KiB.", show_default=False)
    ] = None,
    secret_stdin: SecretStdin = False,
    secret_prompt: Annotated[
        bool, typer.Option("--secret-prompt", help="Ask for the secret, hidden.")
    ] = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show its secret, this once. A missing SQLite file is made.

    The secret is minted unless --secret-stdin or --secret-prompt is given.
    """
    expires_at = None if expires is None else parse_expires(expires)
    fields = None if metadata is None else parse_metadata(metadata)
    if secret_stdin and secret_prompt:
        raise typer.BadParameter("give --secret-stdin or --secret-prompt, not both")
    secret = None
    if secret_stdin:
        secret = secret_from_stdin()
    elif secret_prompt:
        secret = secret_from_prompt(twice=True)
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
            if as_json:
                print_json(
                    {**key_fields(issued.key), "secret": issued.secret, "authorization": issued.authorization}
                )
            else:
                _print_issued(issued, typed=secret_prompt)
            flush()
        except OSError as exc:  # stored, but nobody has seen the secret: say so, whatever went wrong
            raise CommandError(
                f"the key {issued.client_id} was made but could not be shown ({reason_of(exc)}): "
                "delete it and make another"
            ) from None


def _print_issued(issued: Issued, *, typed: bool) -> None:
    print_key(issued.key)
    if typed:  # it was hidden while typed, and stays so
        return
    say(f"{'secret':<10} {inert(issued.secret)}")
    say()
    say("The secret is shown this once. Try it:")
    say()
    say(curl_line(_EXAMPLE_URL, issued.client_id, issued.secret))
    say(f'httpx.get("{_EXAMPLE_URL}", auth=({issued.client_id!a}, {issued.secret!a}))')
    say(f"Authorization: {issued.authorization}")


@app.command("list")
def list_keys(
    ctx: typer.Context,
    *,
    prefix: Annotated[str, typer.Option(help="Only ids that start with this.", show_default=False)] = "",
    after: Annotated[
        str, typer.Option(metavar="ID", help="Only ids behind this one.", show_default=False)
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default="all")] = None,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """List keys in the order of their ids."""
    with opened(ctx, backend) as store:
        found = store.iter_keys(prefix=prefix, after=after, limit=limit)
        if not as_json:
            print_keys(found)
            return
        for key in found:
            print_json(key_fields(key))


@app.command()
def show(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Show one key."""
    with opened(ctx, backend) as store:
        _print(_found(store, client_id), as_json=as_json)


@app.command()
def revoke(
    ctx: typer.Context,
    client_id: ClientId,
    yes: Yes = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good. It stays listed.

    Servers that have just accepted it may go on doing so for up to cache_ttl_s (30 seconds by default).
    Without a terminal to ask on, it is done at once.
    """
    with opened(ctx, backend) as store:
        _end(store, store.revoke, "revoke", client_id, yes=yes, as_json=as_json)


@app.command()
def delete(
    ctx: typer.Context,
    client_id: ClientId,
    yes: Yes = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove a key and free its id. What is said of revoke holds here, too."""
    with opened(ctx, backend) as store:
        _end(store, store.delete, "delete", client_id, yes=yes, as_json=as_json)


def _end(
    store: Backend, act: Callable[[str], Key], verb: str, client_id: str, *, yes: bool, as_json: bool
) -> None:
    try:
        name = _found(store, client_id).name or "no name"
    except UnreadableRecord:  # to be deleted, for one
        name = "its record cannot be read"
    if not confirmed(f"{verb} {client_id} ({name})?", yes=yes):
        raise CommandError("not confirmed: nothing was changed")
    key = act(client_id)
    if as_json:
        print_json(key_fields(key))
    else:
        say(f"{verb}d {inert(client_id)}")


def _found(store: Backend, client_id: str) -> Key:
    key = store.get(client_id)
    if key is None:
        raise KeyNotFound(f"there is no key with the client id {client_id!r}")
    return key


def _print(key: Key, *, as_json: bool) -> None:
    if as_json:
        print_json(key_fields(key))
    else:
        print_key(key)
