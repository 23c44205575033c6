"""Configurations of nginx, Caddy and Envoy in front of an app, with and without authentication.

Each function writes a configuration to a directory and returns the command that starts the proxy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import sysconfig
from typing import TYPE_CHECKING, Any

import bcrypt

if TYPE_CHECKING:
    from pathlib import Path

BCRYPT_COST = 10
_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def find(program: str) -> str | None:
    """The path of a program: from a wheel, or of the system."""
    return shutil.which(program, path=sysconfig.get_path("scripts")) or shutil.which(
        program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    )


def sha1(secret: str) -> str:
    """The {SHA} form of htpasswd files."""
    return "{SHA}" + base64.b64encode(hashlib.sha1(secret.encode()).digest()).decode()


def apr1(secret: str) -> str:
    """The default form of htpasswd files."""
    done = subprocess.run(
        ["openssl", "passwd", "-apr1", "-stdin"], input=secret, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def nginx(directory: Path, port: int, app_port: int, users: dict[str, str] | None) -> list[str]:
    """nginx with ``auth_basic`` for the users, given as ID and hash."""
    directory.mkdir()
    auth = ""
    if users is not None:
        lines = "".join(f"{name}:{stored}\n" for name, stored in users.items())
        (directory / "htpasswd").write_text(lines)
        auth = f"auth_basic api; auth_basic_user_file {directory}/htpasswd;"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; user {pwd.getpwuid(os.getuid()).pw_name}; pid {directory}/pid; "
        f"error_log {directory}/log crit; events {{}} http {{ access_log off; {temporary} "
        f"keepalive_requests 100000000; upstream app {{ server 127.0.0.1:{app_port}; keepalive 16; }} "
        f"server {{ listen 127.0.0.1:{port}; location / {{ {auth} proxy_pass http://app; "
        'proxy_http_version 1.1; proxy_set_header Connection ""; } } }'
    )
    program = find("nginx") or "nginx"
    return [program, "-p", str(directory), "-e", f"{directory}/log", "-c", f"{directory}/nginx.conf"]


def caddy(
    directory: Path, port: int, app_port: int, users: dict[str, str] | None, *, caches: bool = True
) -> list[str]:
    """Caddy with ``basic_auth`` for the users, given as ID and bcrypt hash; a Caddyfile caches results."""
    directory.mkdir()
    handlers: list[dict[str, Any]] = []
    if users is not None:
        accounts = [{"username": name, "password": stored} for name, stored in users.items()]
        provider: dict[str, Any] = {"hash": {"algorithm": "bcrypt"}, "accounts": accounts}
        if caches:
            provider["hash_cache"] = {}
        handlers.append({"handler": "authentication", "providers": {"http_basic": provider}})
    handlers.append({"handler": "reverse_proxy", "upstreams": [{"dial": f"127.0.0.1:{app_port}"}]})
    server = {
        "listen": [f"127.0.0.1:{port}"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": handlers}],
    }
    config = {"admin": {"disabled": True}, "apps": {"http": {"servers": {"bench": server}}}}
    (directory / "caddy.json").write_text(json.dumps(config))
    return [find("caddy") or "caddy", "run", "--config", str(directory / "caddy.json")]


def bcrypt_hash(secret: str) -> str:
    return bcrypt.hashpw(secret.encode(), bcrypt.gensalt(BCRYPT_COST)).decode()


def envoy(directory: Path, port: int, app_port: int, auth: dict[str, Any] | None) -> list[str]:
    """Envoy with a filter for authentication."""
    directory.mkdir()
    filters = [auth] if auth else []
    filters.append(
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
        }
    )
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "app", "domains": ["*"], "routes": routes}]},
        "http_filters": filters,
    }
    network = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    app = {"lb_endpoints": [{"endpoint": {"address": _address(app_port)}}]}
    config = {
        "static_resources": {
            "listeners": [
                {"name": "bench", "address": _address(port), "filter_chains": [{"filters": network}]}
            ],
            "clusters": [
                {
                    "name": "app",
                    "type": "STATIC",
                    "load_assignment": {"cluster_name": "app", "endpoints": [app]},
                }
            ],
        }
    }
    (directory / "envoy.json").write_text(json.dumps(config))
    quiet = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "critical"]
    return [find("envoy") or "envoy", "-c", str(directory / "envoy.json"), *quiet]


def envoy_basic_auth(users: dict[str, str]) -> dict[str, Any]:
    """The filter ``basic_auth``, for users given as ID and {SHA} hash."""
    lines = "\n".join(f"{name}:{stored}" for name, stored in users.items())
    return {
        "name": "envoy.filters.http.basic_auth",
        "typed_config": {
            "@type": f"{_FILTERS}.http.basic_auth.v3.BasicAuth",
            "users": {"inline_string": lines},
        },
    }


def envoy_api_key_auth(keys: dict[str, str]) -> dict[str, Any]:
    """The filter ``api_key_auth``, for clients given as ID and key."""
    return {
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": f"{_FILTERS}.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": [{"client": name, "key": key} for name, key in keys.items()],
            "key_sources": [{"header": "x-api-key"}],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
