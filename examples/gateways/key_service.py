"""The key service with Prometheus metrics on a separate port, which the gateway does not expose.

BASICAUTH_BACKEND=sqlite:////var/lib/keys/keys.db METRICS_PORT=9100 uvicorn key_service:app --port 9000
"""

import os

from prometheus_client import CollectorRegistry, start_http_server

from basicauth_mw.forward_auth import create_app
from basicauth_mw.metrics import instrument

app = create_app()  # only /check/* needs a key
registry = CollectorRegistry()
instrument(app, registry=registry)
start_http_server(int(os.environ["METRICS_PORT"]), addr="127.0.0.1", registry=registry)
