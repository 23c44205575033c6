"""Writes the tables of docs/cli.md, from the commands themselves: ``python -m tests.cli.reference``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import typer

from basicauth_mw.cli.app import PROGRAM, app
from tests.cli.helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "cli.md"
BEGIN, END = "<!-- commands: python -m tests.cli.reference -->\n", "<!-- end of commands -->"


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that start it."""
    if not hasattr(command, "commands"):
        yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}")


def describe(path: str, command: Any) -> str:
    """The chapter on one command: its arguments, its help, and a row for each option."""
    context = command.make_context(path, [], resilient_parsing=True)
    rows, arguments = [], []
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument":
            name = parameter.metavar or parameter.name.upper()
            arguments.append(name if parameter.required else f"[{name}]")
        elif "--help" not in parameter.opts:
            names, text = parameter.get_help_record(context)
            rows.append(f"| `{names}` | {escape(text)} |\n")
    help_text = inspect.cleandoc(command.help or "").replace("\b\n", "").replace("\f", "")
    usage = " ".join([path, *(["[OPTIONS]"] if rows else []), *arguments])
    table = "| option | |\n|---|---|\n" + "".join(rows) if rows else ""
    return f"## {path}\n\n```text\n{usage}\n```\n\n{help_text}\n\n{table}"


def escape(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def reference() -> str:
    """All chapters: the options of the root, which precede a command, and every command."""
    root = typer.main.get_command(app)
    chapters = [describe(path, command) for path, command in commands(root, PROGRAM)]
    first = describe(PROGRAM, root).replace("[OPTIONS]", "[OPTIONS] COMMAND")
    return "\n".join([first, *chapters])


def update(page: str) -> str:
    """The page with the tables of today."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}{reference()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(update(PAGE.read_text()))
