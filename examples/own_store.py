"""A custom store: a TOML file that people edit.

Write ``teams.toml``, then serve::

    # python -c "from basicauth_mw import hash_secret; print(hash_secret(input()))" prints a hash
    [team-a]
    name = "Team A"
    scopes = ["read"]
    hash = "$argon2id$..."

    TEAMS=teams.toml uvicorn examples.own_store:app
"""

import os
import tomllib
from pathlib import Path

from fastapi import FastAPI

from basicauth_mw import Key, Secret
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install


class TomlStore:
    """A store only needs ``get``. It is called in a thread, so it may block.

    Any exception, for example because the file cannot be read, becomes a 503, and no request is accepted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, client_id: str) -> Key | None:
        teams = tomllib.loads(self._path.read_text())
        if client_id not in teams:
            return None
        team = teams[client_id]
        return Key(client_id, team["name"], scopes=team["scopes"], secrets=[Secret(team["hash"])])


app = FastAPI()
# This store announces no changes, so a change takes effect within cache_ttl_s.
install(app, TomlStore(Path(os.environ.get("TEAMS", "teams.toml"))), cache_ttl_s=5)


@app.get("/hello")
async def hello(caller: CurrentPrincipal) -> dict[str, str]:
    return {"client_id": caller.client_id}
