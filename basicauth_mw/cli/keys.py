"""``basicauth-mw keys``: list, show and change keys."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer
from typer import echo

from ..backends.backend import Backend
from ..backends.search import iter_candidates, iter_records
from ..errors import KeyNotFound, UnreadableRecord
from ..keys import lifecycle
from ..keys.escaping import escape_control
from ..keys.filters import STATES, KeyFilter
from ..keys.model import Key, utcnow
from . import secrets
from ._echo import CommandError, echo_error, echo_json, echo_key, echo_secrets, isoformat, key_fields
from ._input import confirm, parse_created, parse_expires, parse_period
from ._options import (
    AsJson,
    BackendUrl,
    ClientId,
    Expires,
    Metadata,
    Name,
    Scopes,
    Yes,
    open_for,
    remember_backend,
)
from .transfer import commands as transfer

app = typer.Typer(no_args_is_help=True)

app.command()(secrets.create)
app.command()(secrets.rotate)


@app.callback()
def keys(ctx: typer.Context, backend: BackendUrl = None) -> None:
    """Create, list, change and revoke keys."""
    remember_backend(ctx, backend)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    *,
    prefix: Annotated[str, typer.Option(metavar="PREFIX", help="Only IDs with this prefix.")] = "",
    after: Annotated[str, typer.Option(metavar="ID", help="Only IDs after this one.")] = "",
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Maximum number of keys.")] = None,
    name: Annotated[
        str, typer.Option(metavar="PART", help="Only keys with this text in the name or ID, in any case.")
    ] = "",
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help=f"Only keys in this state: {', '.join(STATES)}."),
    ] = None,
    scope: Annotated[str | None, typer.Option(metavar="SCOPE", help="Only keys with this scope.")] = None,
    unused: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Only keys that were neither used nor created in the last 90d, 12h, ..."
        ),
    ] = None,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """List keys, sorted by ID.

    Options that select keys can be combined.
    """
    if state is not None and state not in STATES:
        raise typer.BadParameter(f"expected one of {', '.join(STATES)}", param_hint="'--state'")
    wanted = KeyFilter(name, state, scope, None if unused is None else parse_period(unused, "--unused"))
    now = utcnow()
    with open_for(ctx, backend) as store:
        records = iter_candidates(store, wanted, prefix=prefix, after=after)
        _print_keys(records, lambda key: wanted.matches(key, now), limit=limit, as_json=as_json)


@app.command()
def expiring(
    ctx: typer.Context,
    *,
    within: Annotated[
        str, typer.Option(metavar="DURATION", help="How soon: 14d, 12h, 2w.", show_default=True)
    ] = "14d",
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """List active keys that stop working soon. Exit with status 3 if there are any, for cron.

    A key stops working when it expires, or its last secret does.
    """
    now = utcnow()
    until = now + parse_period(within, "--within")
    with open_for(ctx, backend) as store:
        records = iter_records(store)
        if _print_keys(records, lambda key: lifecycle.ends_by(key, until, now), as_json=as_json):
            raise typer.Exit(3)


def _print_keys(
    records: Iterable[Key | UnreadableRecord],
    wanted: Callable[[Key], bool],
    *,
    limit: int | None = None,
    as_json: bool,
) -> bool:
    """Print the wanted keys; return whether there are any. Fails at the end if a record cannot be read."""
    found = unreadable = 0

    def readable() -> Iterator[Key]:
        nonlocal found, unreadable
        for record in records:
            if isinstance(record, UnreadableRecord):
                unreadable += 1
                echo_error(f"error: {record}")
            elif wanted(record):
                found += 1
                yield record

    keys = islice(readable(), limit)
    if as_json:
        for key in keys:
            echo_json(key_fields(key))
    else:
        from ._listing import print_table  # needs rich, which other commands do not load

        print_table(keys)
    if unreadable:
        raise CommandError(
            f"{unreadable} record{'s' if unreadable > 1 else ''} cannot be read, see above: "
            "restore from a backup, or delete with  basicauth-mw keys delete ID"
        )
    return found > 0


@app.command()
def show(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Show a key and when its secrets were last used."""
    with open_for(ctx, backend) as store:
        key = _get(store, client_id)
    if as_json:
        echo_json(key_fields(key))
    else:
        echo_key(key)
        echo_secrets(key)


@app.command()
def history(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Show the last 50 changes of a key, from the newest to the oldest, and who made them."""
    with open_for(ctx, backend) as store:
        changes = store.history(client_id)
    if not (changes or as_json):
        echo("no changes are recorded")
    width = max((len(change.event) for change in changes), default=0)
    for change in changes:
        if as_json:
            echo_json({"event": change.event, "actor": change.actor, "time": change.time})
        else:
            echo(f"{isoformat(change.time)}  {change.event:<{width}}  {escape_control(change.actor or '-')}")


@app.command()
def update(
    ctx: typer.Context,
    client_id: ClientId,
    *,
    name: Name = None,
    scopes: Scopes = None,
    no_scopes: Annotated[bool, typer.Option("--no-scopes", help="Remove all scopes.")] = False,
    expires: Expires = None,
    metadata: Metadata = None,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Change a key.

    Omitted values remain unchanged. --scope and --metadata replace all earlier values.
    """
    if scopes and no_scopes:
        raise typer.BadParameter("--scope and --no-scopes cannot be combined")
    fields: dict[str, Any] = {}
    if name is not None:
        fields["name"] = name
    if scopes or no_scopes:
        fields["scopes"] = scopes or ()
    if expires is not None:
        fields["expires_at"] = parse_expires(expires)
    if metadata is not None:
        fields["metadata"] = metadata
    if not fields:
        raise typer.BadParameter("nothing to change: add --name, --scope, --expires or --metadata")
    with open_for(ctx, backend) as store:
        _print_result("updated", store.update(client_id, **fields), as_json=as_json)


@app.command("end-secret")
def end_secret(
    ctx: typer.Context,
    client_id: ClientId,
    *,
    created: Annotated[
        datetime,
        typer.Option(
            metavar="TIME",
            parser=parse_created,
            help="When the secret was created, as keys show prints it.",
        ),
    ],
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """End one secret of a key now, such as the old one before its overlap ends.

    The other secrets keep working.
    """
    with open_for(ctx, backend) as store:
        _print_result("ended a secret of", store.end_secret(client_id, created), as_json=as_json)


@app.command()
def disable(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Disable a key until it is enabled again."""
    _change(ctx, Backend.disable, client_id, backend, as_json=as_json)


@app.command()
def enable(
    ctx: typer.Context, client_id: ClientId, backend: BackendUrl = None, as_json: AsJson = False
) -> None:
    """Enable a disabled key again."""
    _change(ctx, Backend.enable, client_id, backend, as_json=as_json)


@app.command()
def revoke(
    ctx: typer.Context,
    client_id: ClientId,
    yes: Yes = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key permanently. It stays in the list.

    Asks for confirmation if stdin is a terminal.
    """
    _change(ctx, Backend.revoke, client_id, backend, as_json=as_json, ask=not yes)


@app.command()
def delete(
    ctx: typer.Context,
    client_id: ClientId,
    yes: Yes = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Delete a key, so that its ID can be used again.

    Asks for confirmation if stdin is a terminal.
    """
    _change(ctx, Backend.delete, client_id, backend, as_json=as_json, ask=not yes)


app.command("import")(transfer.import_)
app.command()(transfer.export)


def _change(
    ctx: typer.Context,
    method: Callable[[Backend, str], Key],
    client_id: str,
    backend: str | None,
    *,
    as_json: bool,
    ask: bool = False,
) -> None:
    verb = method.__name__
    with open_for(ctx, backend) as store:
        if ask:
            try:
                name = _get(store, client_id).name or "no name"
            except UnreadableRecord:  # which can be deleted
                name = "its record cannot be read"
            if not confirm(f"{verb} {client_id} ({name})?"):
                raise CommandError("not confirmed: nothing was changed")
        _print_result(f"{verb}d", method(store, client_id), as_json=as_json)


def _get(store: Backend, client_id: str) -> Key:
    key = store.get(client_id)
    if key is None:
        raise KeyNotFound(f"there is no key with the client ID {client_id!r}")
    return key


def _print_result(done: str, key: Key, *, as_json: bool) -> None:
    if as_json:
        echo_json(key_fields(key))
    else:
        echo(f"{done} {escape_control(key.client_id)}")
