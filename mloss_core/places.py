"""Where the app and its assets are: in a checkout, or beside the installed library."""

from __future__ import annotations

from pathlib import Path


def app_folder() -> Path:
    """The folder that holds app.py, pages, views and assets."""
    beside = Path(__file__).resolve().parents[1]
    installed = beside / "mloss_app"  # pyproject.toml puts them there
    return installed if installed.is_dir() else beside


def assets() -> Path:
    """The folder of the embedded families, the paper's tables and the pictures."""
    return app_folder() / "assets"
