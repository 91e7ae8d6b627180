"""This user's folder for locks between processes of one machine."""

import os
import stat
import tempfile
from pathlib import Path

from generators.errors import SetupError


def private_folder() -> Path:
    """Below the temporary folder, where others may write, too: so it must be ours alone.

    Raises:
        SetupError: somebody else has made it, or something that is no folder.
    """
    folder = Path(tempfile.gettempdir()) / f"online_synclr-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
        raise SetupError(
            f"{folder} is not a folder of this user; remove it, or set TMPDIR to a folder of yours"
        )
    if stat.S_IMODE(seen.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder
