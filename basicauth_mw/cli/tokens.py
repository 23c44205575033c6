"""``basicauth-mw token`` and ``basicauth-mw curl``: how to send an existing key."""

import shlex
from typing import Annotated
from urllib.parse import urlsplit

import typer

from ..keys.authorization_header import encode_basic
from ..settings import Settings
from ._echo import echo_json
from ._input import secret_from_prompt, secret_from_stdin
from ._options import AsJson, ClientId, SecretStdin

app = typer.Typer(no_args_is_help=True)


@app.callback()
def token() -> None:
    """Encode the credentials of a key."""


@app.command()
def encode(client_id: ClientId, secret_stdin: SecretStdin = False, as_json: AsJson = False) -> None:
    """Print the value of the Authorization header for a key.

    Prompts for the secret unless --secret-stdin is given.
    """
    shown = credential_fields(client_id, _read_secret(from_stdin=secret_stdin))
    if as_json:
        echo_json({"client_id": client_id, **shown})
    else:
        typer.echo(shown["authorization"])


def curl(
    url: Annotated[str, typer.Argument(metavar="URL", help="The URL to request.", show_default=False)],
    client_id: ClientId,
    secret_stdin: SecretStdin = False,
    as_json: AsJson = False,
) -> None:
    """Print a curl command that sends a key.

    It uses the first scheme of BASICAUTH_SCHEMES. Prompts for the secret unless --secret-stdin is given.
    """
    _check_url(url)
    secret = _read_secret(from_stdin=secret_stdin)
    command = curl_command(url, client_id, secret)
    if as_json:
        authorization = encode_basic(client_id, secret)
        echo_json({"url": url, "client_id": client_id, "authorization": authorization, "command": command})
    else:
        typer.echo(command)


def curl_command(url: str, client_id: str, secret: str, *options: str) -> str:
    """Return a ``curl`` command that sends credentials, quoted for a shell."""
    header, value = credential_header(client_id, secret)
    pair = f"{client_id}:{secret}"
    if value.startswith("Basic ") and pair.isascii():
        credentials = ["-u", pair]  # curl hides the value of -u from process lists
    else:
        credentials = ["-H", f"{header}: {value}"]  # does not depend on the locale
    return shlex.join(["curl", *options, *credentials, url])


def credential_fields(client_id: str, secret: str) -> dict[str, str]:
    """The forms in which a key is sent, as ``--json`` prints them."""
    authorization = encode_basic(client_id, secret)
    return {"authorization": authorization, "token": authorization.removeprefix("Basic ")}


def credential_header(client_id: str, secret: str) -> tuple[str, str]:
    """Return the header that sends a key, for the first scheme of ``BASICAUTH_SCHEMES``."""
    scheme, _, header = Settings.from_env().schemes[0].partition(":")
    shown = credential_fields(client_id, secret)
    if scheme == "basic":
        return "Authorization", shown["authorization"]
    return (header, shown["token"]) if header else ("Authorization", f"Bearer {shown['token']}")


def _read_secret(*, from_stdin: bool) -> str:
    return secret_from_stdin() if from_stdin else secret_from_prompt(confirm=False)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_password = parts.password is not None
    except ValueError:
        is_valid, has_password = False, False
    if has_password:
        raise typer.BadParameter(
            "the URL contains a password, which every process list would show", param_hint="'URL'"
        )
    if not is_valid or not url.isprintable() or " " in url:
        raise typer.BadParameter("expected an http:// or https:// URL", param_hint="'URL'")
