"""Changes keys until it is killed: the process that ``test_kill.py`` starts.

For each line on its standard input it forks a child, which changes a few keys until it is killed. It
announces each change before it starts and acknowledges it afterwards; each line is written completely or not
at all.
"""

from __future__ import annotations

import json
import os
import random
import sys
from itertools import count
from typing import Any

from basicauth_mw import Backend, Key, Settings, open_backend
from basicauth_mw.backends import dump_key

IDS = ("a", "b", "é", "d")


def main() -> None:
    open_backend(sys.argv[1], settings=Settings()).close()  # so that no child has to load its driver
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            change_for_ever(sys.argv[1], int(line))
        say(pid=child)
        os.waitpid(child, 0)
        say(ended=True)


def change_for_ever(url: str, seed: int) -> None:
    numbers = random.Random(seed)
    with open_backend(url, settings=Settings(backend_deadline_s=5.0)) as backend:
        for number in count():
            client_id = numbers.choice(IDS)
            change = numbers.choice(possible(backend.get(client_id)))
            value = f"{seed}.{number}"
            say(begins=change, id=client_id, value=value)
            key, secret = perform(backend, change, client_id, value)
            say(done=value, id=client_id, key=None if key is None else dump_key(key), secret=secret)


def possible(key: Key | None) -> tuple[str, ...]:
    """The changes that have an effect on a key."""
    if key is None:
        return ("create",)
    if key.revoked_at is not None:
        return ("delete",)
    always = ("rotate", "rotate", "update", "update", "revoke", "delete")
    return (*always, "enable" if key.disabled else "disable")


def perform(backend: Backend, change: str, client_id: str, value: str) -> tuple[Key | None, str | None]:
    """Make one change; return the changed key and its new secret."""
    match change:
        case "create":
            issued = backend.create(client_id=client_id, name=value, metadata={"value": value})
            return issued.key, issued.secret
        case "rotate":
            issued = backend.rotate(client_id, overlap_s=0)
            return issued.key, issued.secret
        case "update":
            return backend.update(client_id, name=value, metadata={"value": value}), None
        case "delete":
            backend.delete(client_id)
            return None, None
        case _:
            key: Key = getattr(backend, change)(client_id)
            return key, None


def say(**fields: Any) -> None:
    # One write of less than PIPE_BUF bytes.
    os.write(1, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    main()
