"""``basicauth-mw check``: what is configured, whether it works, and what to do."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from itertools import groupby, starmap
from typing import Annotated, Any

import typer
from typer import echo

from ..auth.discovery import find_authenticator
from ..auth.path_rules import PathRules, open_folders
from ..backends.backend import Backend, open_backend
from ..errors import ConfigurationError, MissingExtra
from ..keys.escaping import escape_control
from ..keys.generated_secrets import ID_PREFIX, generate
from ..serve import load
from ..settings import FIELDS, SettingField, Settings
from ._echo import CommandError, echo_json, progress_bar
from ._findings import GIVE_ACCESS, Finding, findings_from
from ._key_scan import KeyScan
from ._options import AsJson, BackendUrl, upgrade_store
from ._urls import without_secrets

_SCAN_BUDGET_S = 10.0  # enough for some hundred thousand keys

# Warnings that are omitted if a problem gives the same advice.
_NOT_WRITABLE = frozenset({"sqlite_file_not_writable", "sqlite_directory_not_writable"})


def check(
    ctx: typer.Context,
    *,
    all_keys: Annotated[bool, typer.Option("--all", help="Check every key, however long it takes.")] = False,
    app: Annotated[
        str,
        typer.Option("--app", metavar="MODULE:APP", help="Import this app and check its configuration."),
    ] = "",
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="First convert the stored data to the format of this release.")
    ] = False,
    backend: BackendUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check the settings, the backend and its keys.

    Prints problems and warnings, each with its remedy, and exits with status 1 if there is a problem. Checks
    keys for up to 10 seconds unless --all is given.
    """
    url = backend or ctx.obj
    if app and url:
        raise typer.BadParameter("--app cannot be combined with --backend: the app has its own backend")
    settings: Settings | None = None
    problems: list[Finding] = []
    warnings: list[Finding] = []
    try:
        if app:
            settings, subject = _configured_in(app)
        else:
            settings = Settings.from_env(backend=url) if url else Settings.from_env()
            subject = open_backend(settings=settings)
        with subject as opened:
            if upgrade:
                upgrade_store(opened)
            scan = KeyScan(opened, budget_s=None if all_keys else _SCAN_BUDGET_S)
            with progress_bar(shown=not as_json) as bar:
                advance = partial(bar.advance, bar.add_task("checking", total=None))
                problems = list(_problems_of(opened, scan, advance))
            # Even after a problem, which they may explain.
            of_store: Any = getattr(opened.store, "warnings", list)
            warnings = [*_warnings_about(settings), *scan.warnings(), *starmap(Finding, of_store())]
    except Exception as exc:  # this command reports whatever a store raises
        problems = problems or findings_from(exc)
    if any(each.remedy.startswith(GIVE_ACCESS) for each in problems):
        warnings = [each for each in warnings if each.code not in _NOT_WRITABLE]
    if as_json:
        found = {"problems": list(map(asdict, problems)), "warnings": list(map(asdict, warnings))}
        echo_json({"ok": not problems, **found})
    else:
        _report(settings, problems, warnings)
    if problems:
        raise CommandError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found, see above")


def _configured_in(target: str) -> tuple[Settings, Backend]:
    """The settings and the backend of the middleware of an app."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    found, is_call = load(target, "--app")
    if is_call:
        found = found()
    authenticator = find_authenticator(found, build=True)
    if authenticator is None:
        raise ConfigurationError(
            f"--app: {target} has no BasicAuthMiddleware, so it serves every request without a key: "
            "wrap it, or call install(app) or BasicAuth(app)"
        )
    return authenticator.settings, authenticator.backend


def _problems_of(backend: Backend, scan: KeyScan, advance: partial[None]) -> Iterator[Finding]:
    failure: list[Finding] = []
    try:
        backend.get(generate(ID_PREFIX))  # an unknown ID: this only shows whether the store responds
        backend.feed.refresh()
        if backend.feed.has_password_hashes and find_spec("argon2") is None:
            yield Finding(
                MissingExtra.code,
                "the backend has password hashes, which cannot be verified without argon2-cffi",
                "run  pip install 'basicauth_mw[passwords]'",
            )
        scan.run(advance)
    except Exception as exc:
        failure = findings_from(exc)
    yield from scan.problems()
    yield from failure


def _warnings_about(settings: Settings) -> Iterator[Finding]:
    """Valid settings that may allow more access than intended."""
    if not settings.require_https:
        yield Finding(
            "plain_http",
            "keys are accepted over plain HTTP, where others on the network can read them",
            "set BASICAUTH_REQUIRE_HTTPS=on, and configure the server to trust the proxy's X-Forwarded-Proto",
        )
    if headers := [scheme.partition(":")[2] for scheme in settings.schemes if scheme.startswith("header:")]:
        yield Finding(
            "keys_in_other_headers",
            f"shared caches may store responses to requests with {' or '.join(headers)}, and clients send "
            "such a header to the target of a redirect on another host",
            "send Cache-Control: private or no-store with every response that needs a key",
        )
    if settings.allow_preflight:
        yield Finding(
            "preflights_run_handlers",
            "an OPTIONS request that looks like a CORS preflight runs the app's handlers without a key",
            "put CORSMiddleware outside and unset BASICAUTH_ALLOW_PREFLIGHT, or check the method in views",
        )
    for entry, folder in open_folders(settings.include):
        yield Finding(
            "include_leaves_paths_open",
            f"include has {entry}, which does not cover the paths below it: they are open",
            f"also include {folder}",
        )


def _report(settings: Settings | None, problems: list[Finding], warnings: list[Finding]) -> None:
    if settings is not None:
        for setting in FIELDS:
            value = getattr(settings, setting.name)
            if setting.name == "backend" or value != setting.default:
                echo(f"{setting.name:<18} {escape_control(_format_setting(setting, value))}")
        for rule in PathRules.from_settings(settings).describe():
            echo(escape_control(rule))
    for label, findings in (("problem", problems), ("warning", warnings)):
        for remedy, group in groupby(findings, key=lambda each: each.remedy):
            for each in group:
                echo(f"{label}: {escape_control(each.message)}")
            echo(f"  -> {escape_control(remedy)}")
    if not problems:
        echo("ok")


def _format_setting(setting: SettingField, value: object) -> str:
    if setting.kind == "secrets":
        return "(set, not shown)"
    if setting.name == "backend":
        return without_secrets(str(value))
    return ", ".join(value) if isinstance(value, tuple) else str(value)
