"""Pictures of steps that a resumed run takes again: the newest few are kept, so they must go."""

import re
from pathlib import Path

_PICTURE = re.compile(r"groups_(\d+)\.png")


def drop_later_pictures(samples: Path, resume_step: int) -> None:
    """Remove pictures of steps after `resume_step`, which an earlier attempt drew."""
    for path in samples.glob("groups_*.png"):
        match = _PICTURE.fullmatch(path.name)
        if match is not None and int(match.group(1)) > resume_step:
            path.unlink(missing_ok=True)
