"""MLflow's tracking server and client. Runs with the Python of an environment that has MLflow.

::

    python -m tests.system.real.mlflow_client DIRECTORY
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlflow
import requests
from mlflow.exceptions import RestException

from tests.system.real.serving import Key, check_life_of_a_key, raised_by, serving

# "basicauth_mw" is an entry point of this package, in the group "mlflow.app".
COMMAND = (
    *("mlflow", "server", "--app-name=basicauth_mw", "--port={port}", "--workers=1"),
    *("--backend-store-uri=sqlite:///mlflow.db", "--artifacts-destination=artifacts"),
)


def with_password(key: Key) -> None:
    """Log in with the client ID and the secret."""
    os.environ.pop("MLFLOW_TRACKING_TOKEN", None)
    os.environ |= {"MLFLOW_TRACKING_USERNAME": key.client_id, "MLFLOW_TRACKING_PASSWORD": key.secret}


def with_token(key: Key) -> None:
    """Log in with Bearer."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        os.environ.pop(name, None)
    os.environ["MLFLOW_TRACKING_TOKEN"] = key.token


def log_a_run() -> None:
    """Log a parameter, a metric and a file, and read the file from the server."""
    with mlflow.start_run() as run:
        mlflow.log_param("depth", 3)
        mlflow.log_metric("loss", 0.5)
        mlflow.log_text("text of the artifact", "notes.txt")
    logged = mlflow.get_run(run.info.run_id).data
    assert (logged.params, logged.metrics) == ({"depth": "3"}, {"loss": 0.5})
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes.txt") == "text of the artifact"


def main(directory: Path) -> None:
    """Serve MLflow, and use keys in each way that its client knows."""
    with serving(
        "mlflow.server.fastapi_app:app",
        directory,
        command=COMMAND,
        BASICAUTH_SCHEMES="basic,bearer",
        BASICAUTH_EXCLUDE="/health",
    ) as running:
        mlflow.set_tracking_uri(running.url)
        assert requests.get(f"{running.url}/health", timeout=60).text == "OK"
        assert requests.get(f"{running.url}/", timeout=60).status_code == 401  # the pages for people

        issued = running.keys.create()
        key = Key(issued.client_id, issued.secret)
        with_password(key)
        mlflow.set_experiment("experiment")
        log_a_run()
        with_token(key)
        log_a_run()
        assert (
            requests.get(f"{running.url}/", auth=(key.client_id, key.secret), timeout=60).status_code == 200
        )

        for log_in in (with_password, with_token):

            def use(key: Key, log_in: object = log_in) -> None:
                log_in(key)  # type: ignore[operator]
                mlflow.search_experiments()

            check_life_of_a_key(running.keys, use, RestException)

        with_password(key)
        with mlflow.start_run():
            mlflow.log_metric("loss", 0.5)
            with_password(Key(key.client_id, running.keys.rotate(key.client_id).secret))
            mlflow.log_metric("loss", 0.25)  # the run goes on with the new secret
            running.keys.revoke(key.client_id)

            def log_until_refused() -> None:
                while True:
                    mlflow.log_metric("loss", 0.125)

            assert "invalid_credentials" in str(raised_by(log_until_refused, RestException))
            other = running.keys.create()
            with_token(Key(other.client_id, other.secret))  # so that it can end the run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
