"""The image of ``examples/deploy/Dockerfile``, without Docker: its commands run in sandboxes of bubblewrap.

The file system of a sandbox is this machine's, read-only, with the image's folder ``/app``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = "/python:/usr/local/bin:/usr/bin:/bin"
NOT_SHARED = {"app", "dev", "proc", "python", "run", "sys", "tmp", "wheels"}


@dataclass
class Image:
    """A stage of a Dockerfile.

    Attributes:
        folder: The files of its ``/app``.
        user: The user ID that its commands run as.
        environment: Its variables.
        command: The program that a container runs.
        health: The command that checks the health of a container.
    """

    folder: Path
    user: int = 0
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "HOME": "/"})
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def sandbox(
        self,
        *command: str,
        user: int | None = None,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
        volumes: Mapping[str, Path] | None = None,
        building: bool = False,
    ) -> list[str]:
        """Return the command line that runs a command in a container with a read-only file system."""
        words = ["bwrap", "--unshare-user", "--unshare-pid", "--die-with-parent", "--clearenv"]
        words += ["--uid", str(self.user if user is None else user), "--gid", "0"]
        for entry in Path("/").iterdir():
            if entry.is_symlink():
                words += ["--symlink", str(entry.readlink()), str(entry)]
            elif entry.is_dir() and entry.name not in NOT_SHARED:
                words += ["--ro-bind", str(entry), str(entry)]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs" if building else "--dir", "/tmp"]
        words += ["--symlink", str(Path(sys.executable).resolve()), "/python/python"]
        words += ["--bind" if building else "--ro-bind", str(self.folder), "/app", "--chdir", "/app"]
        for inside, outside in (mounts or {}).items():
            words += ["--ro-bind", str(outside), inside]
        for inside, outside in (volumes or {}).items():
            words += ["--bind", str(outside), inside]
        for name, value in {**self.environment, **(environment or {})}.items():
            words += ["--setenv", name, value]
        return [*words, "--remount-ro", "/", *command]


def build(context: Path, folder: Path, wheels: Path) -> Image:
    """Build the image.

    Args:
        context: The folder with the Dockerfile and the files that it copies.
        folder: An empty folder, for the files of all stages.
        wheels: Packages that pip may install as well.
    """
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    pip["PIP_FIND_LINKS"] = f"{pip.get('PIP_FIND_LINKS', '')} /wheels".strip()
    stages: dict[str, Image] = {}
    text = re.sub(r"\\\n\s*", "", (context / "Dockerfile").read_text())
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        match instruction:
            case "" | "#" | "EXPOSE":
                pass
            case "FROM":
                name = re.search(r"AS (\w+)$", rest)
                image = stages[name[1] if name else ""] = Image(folder / str(len(stages)))
                image.folder.mkdir()
            case "WORKDIR":
                assert rest == "/app"
            case "COPY":
                words = rest.split()
                if words[0].startswith("--from="):
                    source = stages[words.pop(0).removeprefix("--from=")].folder
                    path = source / Path(words[0]).relative_to("/app")
                    shutil.copytree(path, image.folder / words[1], symlinks=True)
                else:
                    *patterns, target = words
                    for path in [path for pattern in patterns for path in context.glob(pattern)]:
                        shutil.copy(path, image.folder / target)
            case "RUN":
                command = image.sandbox(
                    "sh", "-c", rest, environment=pip, mounts={"/wheels": wheels}, building=True
                )
                subprocess.run(command, check=True, stdout=subprocess.PIPE)
            case "ENV":
                for name_and_value in rest.split():
                    key, value = name_and_value.split("=")
                    image.environment[key] = value.replace("$PATH", PATH)
            case "USER":
                image.user = int(rest.partition(":")[0])
            case "HEALTHCHECK":
                image.health = json.loads(rest.partition("CMD ")[2])
            case "CMD":
                image.command = json.loads(rest)
            case _:
                raise AssertionError(line)
    return image
