"""An app that does a lookup before its server forks, so that the master's connection is open then."""

import os
from collections.abc import Callable
from wsgiref.util import setup_testing_defaults

from basicauth_mw import encode_basic
from basicauth_mw.wsgi import BasicAuthMiddleware


def _who(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
    body = f"{environ['REMOTE_USER']} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


app = BasicAuthMiddleware(_who)

environ_of_lookup = {"HTTP_AUTHORIZATION": encode_basic("key-0", os.environ["SECRET"])}
setup_testing_defaults(environ_of_lookup)
statuses: list[str] = []
list(app(environ_of_lookup, lambda status, _headers, _exc_info=None: statuses.append(status)))  # type: ignore[arg-type, return-value]
if statuses != ["200 OK"]:
    raise RuntimeError(f"the lookup failed: {statuses}")
