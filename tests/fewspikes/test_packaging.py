"""What is built of the project: complete, and used where nothing of its sources is."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import numpy as np
import pytest

import fewspikes

_ROOT = Path(__file__).resolve().parents[2]
# Builds with the setuptools that is installed: a build of its own would be downloaded.
_BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def _python(*words: object, folder: Path, path: Path | None = None) -> str:
    """What Python prints, without the project's sources among its imports."""
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={
            "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(path or ""),
        },
    )  # fmt: skip
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout.strip()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of sources, made of the files that git knows."""
    setuptools = pytest.importorskip("setuptools", reason="it builds the archives")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("the project's setup.cfg needs setuptools 77")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("git doesn't know the files of the project here")
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("sdist")
    for name in filter(None, listed.stdout.split("\0")):
        if (_ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_ROOT / name, copy / name)
    _python("-c", _BUILD, "build_sdist", made, folder=copy)
    (found,) = made.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the archive of sources alone."""
    folder, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (sources,) = folder.iterdir()
    _python("-c", _BUILD, "build_wheel", made, folder=sources)
    (found,) = made.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed into; what it needs is in the environment."""
    pytest.importorskip("pip", reason="it installs the wheel")
    folder = tmp_path_factory.mktemp("installed")
    words = "-m pip install --quiet --no-deps --no-index --no-compile --target".split()
    _python(*words, folder, wheel, folder=folder)
    return folder


def test_the_archive_of_sources_has_what_readme_links_to(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    text = (_ROOT / "README.md").read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links and not [link for link in links if link.rstrip("/") not in names]
    assert {"CITATION.cff", "LICENSE", "scripts/convert.py", "docs/index.md"} <= names


def test_the_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(place).decode())
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(entry).decode()
    files = subprocess.run(
        ["git", "ls-files", "convert", "fewspikes", "models"],
        cwd=_ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not [name for name in files if name not in names]
    assert {f"{package}/py.typed" for package in ("convert", "fewspikes", "models")} <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "docs/"))]
    assert metadata["Version"] == fewspikes.__version__
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "fewspikes = fewspikes.commands:main" in commands


def test_the_citation_is_of_this_version() -> None:
    text = (_ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {fewspikes.__version__}\n" in text


def test_the_installed_command_works(installed: Path, tmp_path: Path) -> None:
    command = installed / "bin" / "fewspikes"
    told = _python(command, "--version", folder=tmp_path, path=installed)
    assert told == f"fewspikes {fewspikes.__version__}"
    rng = np.random.default_rng(0)
    images = tmp_path / "images.npz"
    np.savez(images, x=rng.integers(0, 256, (20, 8, 8, 1), np.uint8), y=np.arange(20) % 10)
    words = "convert resnet8_digits --steps 3 --method binary --by-site 0 --quiet --output out"
    told = _python(command, *words.split(), "--data", images, folder=tmp_path, path=installed)
    assert "written: " in told
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["report.html", "report.json", "resnet8_digits.fsnn", "steps.png"]
    where = "from importlib.util import find_spec; print(*(find_spec(n).origin for n in {}))"
    names = ("convert", "fewspikes", "models")
    told = _python("-c", where.format(names), folder=tmp_path, path=installed)
    assert all(Path(place).is_relative_to(installed) for place in told.split())
    told = _python(command, "zoo", folder=tmp_path, path=installed)
    assert "vit_small" in told
