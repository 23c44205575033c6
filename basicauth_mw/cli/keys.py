"""``basicauth-mw keys``: look at keys, change them, end them."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..backends.backend import Backend
from ..errors import KeyNotFound, UnreadableRecord
from ..keys.model import Key
from . import issue, transfer
from ._errors import CommandError
from ._input import confirmed, parse_expires, parse_metadata
from ._options import AsJson, BackendUrl, ClientId, Yes, opened, remember_backend
from ._output import (
    complain,
    inert,
    key_fields,
    print_json,
    print_key,
    print_keys,
    print_secrets,
    say,
)
from ._walk import readable

app = typer.Typer(no_args_is_help=True, help="Make keys, look at them, change them, end them.")

app.command()(issue.create)
app.command()(issue.rotate)


@app.callback()
def keys(ctx: typer.Context, backend: BackendUrl = None) -> None:
    """Make keys, look at them, change them, end them."""
    remember_backend(ctx, backend)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    *,
    prefix: Annotated[
        str, typer.Option(metavar="PREFIX", help="Only ids that start with this.", show_default=False)
    ] = "",
    after: Annotated[
        str, typer.Option(metavar="ID", help="Only ids behind this one.", show_default=False)
    ] = "",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so many.", show_default="all")
    ] = None,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """List keys in the order of their ids."""
    with opened(ctx, backend) as store:
        unreadable: list[str] = []

        def on_unreadable(client_id: str, exc: UnreadableRecord) -> None:
            unreadable.append(client_id)
            complain(f"error: {exc}")

        found = readable(store, on_unreadable, prefix=prefix, after=after, limit=limit)
        if as_json:
            for key in found:
                print_json(key_fields(key))
        else:
            print_keys(found)
        if unreadable:
            raise CommandError(
                f"{len(unreadable)} of the records cannot be read, see above: restore them from a backup, or "
                "delete them with  basicauth-mw keys delete ID"
            )


@app.command()
def show(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Show one key, and when each of its secrets ends and was last used."""
    with opened(ctx, backend) as store:
        key = _found(store, client_id)
        if as_json:
            print_json(key_fields(key))
        else:
            print_key(key)
            print_secrets(key)


@app.command()
def update(
    ctx: typer.Context,
    client_id: ClientId,
    *,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another name.", show_default=False)
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE", help="What the key may do from now on; repeatable.", show_default=False
        ),
    ] = None,
    no_scopes: Annotated[bool, typer.Option("--no-scopes", help="Take all scopes away.")] = False,
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="90d, 12h, 2030-01-31T12:00:00Z, or never.", show_default=False),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="JSON", help="Another JSON object.", show_default=False)
    ] = None,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Change a key. What is not named stays."""
    if scope and no_scopes:
        raise typer.BadParameter("give --scope or --no-scopes, not both")
    fields: dict[str, Any] = {}
    if name is not None:
        fields["name"] = name
    if scope or no_scopes:
        fields["scopes"] = scope or ()
    if expires is not None:
        fields["expires_at"] = parse_expires(expires)
    if metadata is not None:
        fields["metadata"] = parse_metadata(metadata)
    if not fields:
        raise typer.BadParameter("nothing to change: give --name, --scope, --expires or --metadata")
    with opened(ctx, backend) as store:
        _print_done("updated", store.update(client_id, **fields), as_json=as_json)


@app.command()
def disable(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Refuse a key until it is enabled again."""
    with opened(ctx, backend) as store:
        _print_done("disabled", store.disable(client_id), as_json=as_json)


@app.command()
def enable(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Let a disabled key work again."""
    with opened(ctx, backend) as store:
        _print_done("enabled", store.enable(client_id), as_json=as_json)


@app.command()
def revoke(
    ctx: typer.Context,
    client_id: ClientId,
    yes: Yes = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good. It stays listed.

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


app.command("import")(transfer.import_)
app.command()(transfer.export)


def _end(
    store: Backend, act: Callable[[str], Key], verb: str, client_id: str, *, yes: bool, as_json: bool
) -> None:
    try:
        name = _found(store, client_id).name or "no name"
    except UnreadableRecord:  # to be deleted, for one
        name = "its record cannot be read"
    if not confirmed(f"{verb} {client_id} ({name})?", yes=yes):
        raise CommandError("not confirmed: nothing was changed")
    _print_done(f"{verb}d", act(client_id), as_json=as_json)


def _found(store: Backend, client_id: str) -> Key:
    key = store.get(client_id)
    if key is None:
        raise KeyNotFound(f"there is no key with the client id {client_id!r}")
    return key


def _print_done(done: str, key: Key, *, as_json: bool) -> None:
    if as_json:
        print_json(key_fields(key))
    else:
        say(f"{done} {inert(key.client_id)}")
