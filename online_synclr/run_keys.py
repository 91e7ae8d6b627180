"""Which keys guard a run's sockets: none on a Unix socket, the run's own or the user's on TCP."""

from pathlib import Path
from typing import TYPE_CHECKING

from online_synclr.config import Config, ConfigError
from online_synclr.run_folder import RunFolder
from online_synclr.topology import Role, transport_of

if TYPE_CHECKING:
    from online_synclr.stream.keys import KeyFolder


def run_keys(config: Config, *, one_host: bool) -> "KeyFolder | None":
    """The folder of the run's keys; None where sockets are private files.

    On one host without `stream.keys` it is the run folder's own, made by `make_run_keys`.
    """
    if transport_of(config.stream, one_host=one_host) == "ipc":
        return None
    # Here and below: the command line answers a wrong setting without ZeroMQ.
    from online_synclr.stream.keys import KeyFolder

    return KeyFolder(config.stream.keys or RunFolder(config.run.dir).keys)


def make_run_keys(config: Config, *, one_host: bool) -> None:
    """Trainer 0, before anybody listens or connects: make the run's own keys if it needs them.

    Raises:
        ConfigError: they cannot be written.
    """
    from online_synclr.stream.keys import KeysError

    keys = run_keys(config, one_host=one_host)
    if keys is not None and config.stream.keys is None:
        try:
            keys.make()
        except KeysError as error:
            raise ConfigError(f"run.dir: {error}.") from None


def check_keys(config: Config, role: Role) -> None:
    """Read the keys that a rank will need, for their errors. Touches no socket.

    Raises:
        ConfigError: `stream.keys` is set and lacks them.
    """
    if config.stream.keys is None:
        return
    from online_synclr.stream.keys import RANKS, KeyFolder, KeysError, load_generator_key

    keys = KeyFolder(config.stream.keys)
    try:
        if role == "trainer":
            keys.trainers()
            keys.names()
        else:
            load_generator_key(keys.generator(RANKS))
    except KeysError as error:
        raise ConfigError(f"stream.keys: {error}.") from None


def rank_key(config: Config, *, one_host: bool) -> Path | None:
    """The file of the key that a generator rank connects with."""
    from online_synclr.stream.keys import RANKS

    keys = run_keys(config, one_host=one_host)
    return None if keys is None else keys.generator(RANKS)
