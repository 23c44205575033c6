"""``python -m tests.matrix.werkzeug_server PORT``, since Werkzeug's server has no command."""

from __future__ import annotations

import sys

from werkzeug.serving import run_simple

from tests.matrix.apps import wsgi

if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), wsgi, threaded=True)
