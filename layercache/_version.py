"""Version of the installed distribution, which is called layercache-vit."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version, or "from source" if the package was not installed."""
    try:
        return version("layercache-vit")
    except PackageNotFoundError:
        return "from source"
