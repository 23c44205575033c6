"""Where the gate of an app is, for what changes or watches one that somebody else has put there."""

from __future__ import annotations

from typing import Any, Final

from ._frameworks import layers
from .gate import Gate

EXTENSION: Final = "basicauth_mw"  # under which an app of Flask's keeps its middleware


def gate_of(app: object, *, build: bool = False) -> Gate[Any] | None:
    """The outermost gate that is to be seen round or in an app; None: there is none.

    Args:
        app: The app, what stands round it, or a gate itself.
        build: As for ``layers``. Without it, a gate is not seen that Starlette's ``add_middleware`` was told
            of before the app has started: there is none yet.
    """
    for layer in layers(app, build=build):
        extensions = getattr(layer, "extensions", None)
        kept = extensions.get(EXTENSION) if isinstance(extensions, dict) else None
        for each in (layer, getattr(layer, "gate", None), getattr(kept, "gate", None)):
            if isinstance(each, Gate):
                return each
    return None
