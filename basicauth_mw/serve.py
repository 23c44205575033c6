"""Protect an app without changing its code: a server loads this module, and ``BASICAUTH_APP`` names the app.

::

    BASICAUTH_APP=package.module:app uvicorn basicauth_mw.serve:app
    BASICAUTH_APP=package.module:app waitress-serve basicauth_mw.serve:wsgi_app

``app`` is for ASGI servers, ``wsgi_app`` for WSGI servers. Each is created when it is first used.
``BASICAUTH_APP`` may also name an app factory without arguments. The environment has the other settings.
"""

from __future__ import annotations

import inspect
import os
from difflib import get_close_matches
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from .auth.discovery import find_authenticator
from .errors import ConfigurationError
from .settings.sources import ENV_PREFIX

if TYPE_CHECKING:
    from . import asgi, wsgi

    app: asgi.BasicAuthMiddleware
    wsgi_app: wsgi.BasicAuthMiddleware

__all__ = ["app", "wsgi_app"]

VARIABLE: Final = f"{ENV_PREFIX}APP"

_KINDS: Final = {"app": "ASGI", "wsgi_app": "WSGI"}
_REMEDIES: Final = {
    "ASGI": f"serve {__name__}:app with an ASGI server such as uvicorn",
    "WSGI": f"serve {__name__}:wsgi_app with a WSGI server such as waitress or gunicorn",
}


def __getattr__(name: str) -> Any:
    if name not in _KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    protected = globals()[name] = _protect(_KINDS[name])
    return protected


def _protect(kind: str) -> Any:
    """Load the app that ``BASICAUTH_APP`` names, and wrap it in the middleware.

    Raises:
        ConfigurationError: It cannot be loaded, is of the other kind, or is already protected.
    """
    target = os.environ.get(VARIABLE, "").strip()
    app = _load_app(target, kind)
    if find_authenticator(app) is not None:
        raise ConfigurationError(f"{VARIABLE}: {target} is already protected; serve it directly")
    module = import_module(f".{kind.lower()}", __package__)  # only one, as WSGI needs no asyncio
    return module.BasicAuthMiddleware(app)


def _load_app(target: str, kind: str) -> Any:
    found, is_call = load(target)
    shape = _shape(found)
    if is_call and shape not in ("factory", ""):
        raise ConfigurationError(
            f"{VARIABLE}: {target} calls an object that takes arguments; "
            "omit the () after an app, or name a factory without arguments"
        )
    if callable(found) and (is_call or shape == "factory"):
        found = found()
        if inspect.iscoroutine(found):
            found.close()
            raise ConfigurationError(f"{VARIABLE}: {target} is an async factory; make it synchronous")
        shape = _shape(found)
        target = f"the result of {target}"
    if shape == kind:
        return found
    if shape in _REMEDIES:
        raise ConfigurationError(f"{VARIABLE}: {target} is {shape}; {_REMEDIES[shape]}")
    if not callable(found):
        raise ConfigurationError(
            f"{VARIABLE}: {target} is not callable ({type(found).__name__}); name an app or an app factory"
        )
    raise ConfigurationError(
        f"{VARIABLE}: {target} is not an app; an ASGI app is async and takes (scope, receive, send), "
        "a WSGI app takes (environ, start_response), and an app factory takes no arguments"
    )


def load(target: str, option: str = VARIABLE) -> tuple[Any, bool]:
    """Import the object that a name such as ``package.module:app`` refers to.

    Args:
        target: The name.
        option: The option or variable that holds the name, for errors.

    Returns:
        The object, and whether the name ends in ``()``.

    Raises:
        ConfigurationError: The name is invalid or does not exist. Errors inside the module are not caught.
    """
    if not target:
        raise ConfigurationError(f"{option} is not set; name the app to protect: {option}=package.module:app")
    path, colon, attributes = target.partition(":")
    is_call = attributes.endswith("()")
    attributes = attributes.removesuffix("()")
    if not colon or not all(name.isidentifier() for name in f"{path}.{attributes}".split(".")):
        raise ConfigurationError(f"{option}: invalid name {target!r}; expected package.module:app")
    if path == __name__:
        raise ConfigurationError(
            f"{option}: {target} is for the server's command line; name the app to protect"
        )
    try:
        module = import_module(path)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{path}.".startswith(f"{exc.name}."):
            raise  # a module that the app's module imports
        remedy = "install it, or add its directory to PYTHONPATH"
        if path.endswith(".py"):
            remedy = "omit .py"
        raise ConfigurationError(f"{option}: there is no module {exc.name!r}; {remedy}") from None
    try:
        return attrgetter(attributes)(module), is_call
    except AttributeError as exc:
        name = str(exc.name)
        near = get_close_matches(name, dir(exc.obj), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        where = f"module {path!r}" if exc.obj is module else type(exc.obj).__name__
        raise ConfigurationError(f"{option}: {where} has no attribute {name!r}{hint}") from None


def _shape(found: Any) -> str:
    """``ASGI``, ``WSGI``, ``factory`` or ``other``, by its signature; empty if it has none."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return ""
    call = inspect.unwrap(getattr(found, "__call__", found))  # noqa: B004 - inspected, not called
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(call):
        # An async factory is refused when its coroutine is seen.
        return "ASGI" if _accepts(signature, 3) else "factory" if _accepts(signature, 0) else "other"
    if _accepts(signature, 0):
        return "factory"
    return "WSGI" if _accepts(signature, 2) else "other"


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
