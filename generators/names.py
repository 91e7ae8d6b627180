"""Names of generators that join on their own: two of one machine never share one."""

import contextlib
import fcntl
import re
import socket
from collections.abc import Iterator
from typing import IO

from generators.errors import SetupError
from generators.private_folder import private_folder
from online_synclr.config import ConfigError
from online_synclr.stream.keys import RANKS, admits
from online_synclr.stream.messages import GENERATOR_ID, MAX_GENERATOR_ID

_MOST_NUMBERED = 1024


def default_name(key_name: str | None) -> str:
    """The host's name, below the key's where there is a key: what that key admits."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0]) or "host"
    if key_name is None and admits(RANKS, host):
        host = f"host-{host}"
    name = host if key_name is None else f"{key_name}.{host}"
    return name[: MAX_GENERATOR_ID - len(f".{_MOST_NUMBERED}")]


@contextlib.contextmanager
def claimed_name(name: str, *, number: bool) -> Iterator[str]:
    """Hold a name on this machine while the block runs; the kernel lets go of a dead holder's.

    `number`: where it is taken, hold NAME.2, NAME.3 and so on instead.

    Raises:
        ConfigError: it is taken, or cannot be a generator's name.
    """
    if re.fullmatch(GENERATOR_ID, name) is None:
        raise ConfigError(
            f"--name={name} cannot be a generator's name; use 1 to {MAX_GENERATOR_ID} letters, "
            "digits, dots, - or _."
        )
    others = range(2, _MOST_NUMBERED + 1) if number else ()
    for wanted in (name, *(f"{name}.{suffix}" for suffix in others)):
        handle = _try_lock(wanted)
        if handle is not None:
            with handle:
                yield wanted
            return
    raise ConfigError(
        f"a generator named {name} runs on this machine already; give this one another --name."
    )


def _try_lock(name: str) -> IO[str] | None:
    try:
        handle = (private_folder() / f"name-{name}.lock").open("a", encoding="utf-8")
    except SetupError as error:
        raise ConfigError(f"{error}.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle
