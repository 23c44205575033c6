"""``basicauth-mw token`` and ``basicauth-mw curl``: what to send for a key that exists already."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from ..keys.credentials import encode_basic
from ._curl import curl_line
from ._input import secret_from_prompt, secret_from_stdin
from ._options import AsJson, ClientId, SecretStdin
from ._output import print_json, say

app = typer.Typer(no_args_is_help=True, help="Encode credentials.")


@app.callback()
def token() -> None:
    """Encode credentials."""


@app.command()
def encode(client_id: ClientId, secret_stdin: SecretStdin = False, as_json: AsJson = False) -> None:
    """Print the value of the Authorization field.

    The secret is asked for on the terminal unless --secret-stdin is given.
    """
    authorization = encode_basic(client_id, _secret(secret_stdin))
    if as_json:
        print_json({"client_id": client_id, "authorization": authorization})
    else:
        say(authorization)


def curl(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send it.", show_default=False)],
    client_id: ClientId,
    secret_stdin: SecretStdin = False,
    as_json: AsJson = False,
) -> None:
    """Print a request to paste.

    The secret is asked for on the terminal unless --secret-stdin is given.
    """
    _check_url(url)
    secret = _secret(secret_stdin)
    command = curl_line(url, client_id, secret)
    if as_json:
        authorization = encode_basic(client_id, secret)
        print_json({"url": url, "client_id": client_id, "authorization": authorization, "command": command})
    else:
        say(command)


def _secret(from_stdin: bool) -> str:
    return secret_from_stdin() if from_stdin else secret_from_prompt(twice=False)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_password = parts.password is not None
    except ValueError:
        good, has_password = False, False
    if has_password:
        raise typer.BadParameter(
            "the URL holds a password, which every process list would show", param_hint="'URL'"
        )
    if not good or not url.isprintable() or " " in url:
        raise typer.BadParameter("give an http:// or https:// URL", param_hint="'URL'")
