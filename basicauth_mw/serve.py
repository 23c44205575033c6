"""Any app behind the gate, without a line of code: ``BASICAUTH_APP`` names it, as servers do.

::

    BASICAUTH_APP=package.module:app uvicorn basicauth_mw.serve:app
    BASICAUTH_APP=package.module:app waitress-serve basicauth_mw.serve:wsgi_app

``app`` is for ASGI servers, ``wsgi_app`` for WSGI servers; only the one that is asked for is made, when it
is. What is named may be a factory that takes no arguments. The settings are those of the environment.
"""

from __future__ import annotations

import inspect
import os
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .auth.discovery import find_authenticator
from .errors import ConfigurationError
from .settings.sources import ENV_PREFIX

if TYPE_CHECKING:
    from . import asgi, wsgi

    app: asgi.BasicAuthMiddleware
    wsgi_app: wsgi.BasicAuthMiddleware

VARIABLE: Final = f"{ENV_PREFIX}APP"

_KINDS: Final = {"app": "ASGI", "wsgi_app": "WSGI"}
_REMEDIES: Final = {
    "ASGI": f"serve {__name__}:app by an ASGI server, such as uvicorn",
    "WSGI": f"serve {__name__}:wsgi_app by a WSGI server, such as waitress or gunicorn",
}


def __getattr__(name: str) -> Any:
    if name not in _KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _make(_KINDS[name])
    return made


def _make(kind: str) -> Any:
    """The app that the environment names, behind the gate.

    Raises:
        ConfigurationError: It cannot be had, is of the other kind, or has a gate already.
    """
    target = os.environ.get(VARIABLE, "").strip()
    served = _app(target, kind)
    if kind == "ASGI":
        from . import asgi as shell  # a WSGI process never needs it
    else:
        from . import wsgi as shell  # type: ignore[no-redef]
    if find_authenticator(served) is not None:
        raise ConfigurationError(f"{VARIABLE}: {target} is behind a gate already: serve it itself")
    return shell.BasicAuthMiddleware(served)


def _app(target: str, kind: str) -> Any:
    found, is_call = load(target)
    shape = _shape(found)
    if is_call and shape in (*_REMEDIES, "other"):
        raise ConfigurationError(
            f"{VARIABLE}: {target} is a call of what takes arguments: "
            "an app goes without (), a factory takes none"
        )
    if callable(found) and (is_call or shape == "factory"):
        found = found()
        if inspect.iscoroutine(found):
            found.close()
            raise ConfigurationError(f"{VARIABLE}: {target} is an asynchronous factory: make it a plain one")
        shape = _shape(found)
        target = f"what {target} gives"
    if shape == kind:
        return found
    if shape in _REMEDIES:
        raise ConfigurationError(f"{VARIABLE}: {target} is {shape}: {_REMEDIES[shape]}")
    if not callable(found):
        raise ConfigurationError(
            f"{VARIABLE}: {target} cannot be called ({type(found).__name__}): name an app, or what makes one"
        )
    raise ConfigurationError(
        f"{VARIABLE}: {target} is no app: ASGI ones are asynchronous and take (scope, receive, send), "
        "WSGI ones take (environ, start_response), factories take nothing"
    )


def load(target: str, option: str = VARIABLE) -> tuple[Any, bool]:
    """Resolve a name such as ``package.module:app``, and tell whether it ends in ``()``.

    Args:
        target: The name.
        option: What gave it, for errors.

    Raises:
        ConfigurationError: It stands for nothing. An error inside the module is raised as it is.
    """
    if not target:
        raise ConfigurationError(
            f"{option} is not set: it names the app to protect, as in {option}=package.module:app"
        )
    path, colon, attributes = target.partition(":")
    is_call = attributes.endswith("()")
    names = attributes.removesuffix("()").split(".")
    if not colon or not all(name.isidentifier() for name in [*path.split("."), *names]):
        raise ConfigurationError(
            f"{option}: {target!r} is no name of an app: give it as in {option}=package.module:app"
        )
    if path == __name__:
        raise ConfigurationError(f"{option}: {target} is what the server is given: name the app to protect")
    try:
        found: Any = import_module(path)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{path}.".startswith(f"{exc.name}."):
            raise  # something that the module itself imports
        remedy = "install it, or put its directory on PYTHONPATH"
        if path.endswith(".py"):
            remedy = "give it without .py"
        raise ConfigurationError(f"{option}: there is no module {exc.name!r}: {remedy}") from None
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            near = get_close_matches(name, dir(found), n=3)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            where = f"module {path!r}" if inspect.ismodule(found) else type(found).__name__
            raise ConfigurationError(f"{option}: {where} has no attribute {name!r}{hint}") from None
    return found, is_call


def _shape(found: Any) -> str:
    """``ASGI``, ``WSGI``, ``factory``, ``other``: by how it may be called; empty: that cannot be told."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return ""
    call = inspect.unwrap(getattr(found, "__call__", found))  # noqa: B004 - to look at it
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(call):
        # Without an argument, a factory that is refused later.
        return "ASGI" if _takes(signature, 3) else "factory" if _takes(signature, 0) else "other"
    if _takes(signature, 0):
        return "factory"
    return "WSGI" if _takes(signature, 2) else "other"


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
