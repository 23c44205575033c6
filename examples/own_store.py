"""A key store of one's own: a TOML file that people edit.

Write ``teams.toml``, then serve::

    # python -c "from basicauth_mw import hash_secret; print(hash_secret(input()))" makes a hash
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
    """All that a store needs is ``get``; it is asked in a thread, so it may block.

    What it raises, as it cannot read the file or make sense of it, becomes a 503: nobody gets in by accident.
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
# Nobody tells the gate of a change of the file: for that long it may go on with what it knows.
install(app, TomlStore(Path(os.environ.get("TEAMS", "teams.toml"))), cache_ttl_s=5)


@app.get("/hello")
async def hello(caller: CurrentPrincipal) -> dict[str, str]:
    return {"client_id": caller.client_id}
