"""Where the shipped files lie, in a checkout and in an installed wheel alike."""

import os
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
"""The folder that holds the packages: the checkout, or site-packages."""

CONFIGS_DIR = PROJECT_DIR / "configs"
EMBEDDED_IMAGE_MODEL_DIR = PROJECT_DIR / "generators" / "embedded_image_model"
CHECK_SET_DIR = PROJECT_DIR / "trainer" / "check_set"

CACHE_VARIABLE = "ONLINE_SYNCLR_CACHE"


def cache_folder() -> Path:
    """The user's cache of this project: `ONLINE_SYNCLR_CACHE`, else the XDG cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "online_synclr"


def find_shipped(path: Path, folder: Path) -> Path:
    """`path` as given or relative to `folder` or to the shipped configs, whichever exists first.

    A leading `configs/` is looked up in the shipped folder too, so that the commands of the README
    work from any directory once the package is installed. What exists nowhere is returned as is.
    """
    expanded = path.expanduser()
    if expanded.is_absolute():
        return expanded
    inside = Path(*expanded.parts[1:]) if expanded.parts[:1] == ("configs",) else expanded
    for candidate in (folder / expanded, expanded, CONFIGS_DIR / inside):
        if candidate.exists():
            return candidate.resolve()
    return expanded
