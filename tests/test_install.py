"""What pip install . brings: the command, the library, the app and the demo family."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mloss_core import __version__
from mloss_core.cli import app as app_command
from mloss_core.places import app_folder, assets

ROOT = Path(__file__).resolve().parents[1]
OF_APP = ("app.py", ".streamlit/config.toml", "pages", "views", "assets/zoo/demo", "assets/paper")
LEFT_OUT = {".git", "runs", "models", "build", "mloss.egg-info"}  # at the top, where they are


def files_of(folder: str) -> set[str]:
    """The app's files in the checkout, by their paths below mloss_app."""
    places = [ROOT / folder] if (ROOT / folder).is_file() else (ROOT / folder).rglob("*")
    files = (path for path in places if path.is_file() and "__pycache__" not in path.parts)
    return {f"mloss_app/{path.relative_to(ROOT).as_posix()}" for path in files}


def left_out(folder: str, names: list[str]) -> set[str]:
    """What of a folder of the checkout is not copied."""
    return (LEFT_OUT & set(names)) if Path(folder) == ROOT else {"__pycache__"} & set(names)


def test_in_a_checkout_the_app_and_its_assets_are_at_the_top():
    assert app_folder() == ROOT and (app_folder() / "app.py").is_file()
    assert (assets() / "zoo" / "demo").is_dir()


def test_the_citation_names_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="it replaces its process only elsewhere")
@pytest.mark.parametrize(
    ("options", "handed_on"),
    [
        ((), []),
        (
            ("--port", "8599", "--headless"),
            ["--server.port", "8599", "--server.headless", "true"],
        ),
    ],
)
def test_the_command_app_starts_streamlit_on_the_apps_script(options, handed_on, cli, monkeypatch):
    lines = []
    monkeypatch.setattr(app_command.os, "execv", lambda path, line: lines.append(line))
    assert cli("app", *options).status == 0
    assert lines == [[sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), *handed_on]]


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_port_that_cannot_be_is_refused(port, cli, refused):
    refused(cli("app", "--port", port), "--port")


@pytest.mark.slow
def test_the_wheel_holds_command_library_app_and_demo_family(tmp_path):
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", tmp_path, tree], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mloss-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (entries,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "mloss = mloss_core.cli.main:main" in file.read(entries).decode()
    missing = {path for folder in OF_APP for path in files_of(folder)} - names
    assert missing == set()
    library = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mloss_core").rglob("*.py")}
    assert library <= names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"mloss_core", "mloss_app"}, "nothing else lands beside other people's packages"
