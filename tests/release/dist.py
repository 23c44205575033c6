"""Build the packages in ``dist/`` and check them: ``make dist``.

They are built twice, in different folders and the second time from the source package, and must be equal.
Then the wheel is installed in an empty environment, where the README's first example has to work.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from tests.console import Reader

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def build(source: Path, folder: Path) -> dict[str, bytes]:
    """Build the source package, and the wheel from it; return both by name."""
    run(sys.executable, "-m", "build", "--outdir", folder, source)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def build_twice(work: Path) -> tuple[Path, Path]:
    """Return the source package and the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    packages = build(ROOT, DIST)
    (sdist,) = DIST.glob("*.tar.gz")
    (wheel,) = DIST.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    assert build(work / sdist.name.removesuffix(".tar.gz"), work / "again") == packages, "the builds differ"
    return sdist, wheel


def check_description(wheel: Path) -> None:
    """The package index shows the README: it has no files to which a relative link could lead."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    relative = re.findall(r"\]\((?!https://)[^)]*\)|<img[^>]*>", metadata)
    assert not relative, relative


def main() -> None:
    committed = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    if committed:  # else the build uses a constant date
        os.environ.setdefault("SOURCE_DATE_EPOCH", committed.strip())
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        sdist, wheel = build_twice(work)
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
        check_description(wheel)

        venv.create(work / "venv", symlinks=True)
        python = work / "venv" / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
        run(*pip, f"{wheel}[standard]")
        name_and_version = sdist.name.removesuffix(".tar.gz")
        project = (ROOT / "pyproject.toml").read_text()
        version = f'version = "{name_and_version.partition("-")[2]}"'  # which the build reads from the code
        (work / "pyproject.toml").write_text(re.sub("(?m)^dynamic = .*", version, project))
        bom = DIST / f"{name_and_version}.cdx.json"
        run(
            *(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"),
            *("--pyproject", work / "pyproject.toml", "--mc-type", "library", "--output-file", bom, python),
        )
        run(*pip, "fastapi", "uvicorn")
        (work / "example").mkdir()
        with Reader(work / "example", python) as reader:
            reader.follow((ROOT / "README.md").read_text().partition("\n## ")[0])
    print("The README's first example works. dist/ contains", *sorted(path.name for path in DIST.iterdir()))


if __name__ == "__main__":
    main()
