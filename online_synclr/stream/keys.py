"""The run's keys: who may connect beyond this machine, and under which name.

    DIR/                     mode 0700; every file 0600
      trainers.key           the trainers' pair
      generators/ranks.key   of the generators that torchrun starts: g0, g1, ...
      generators/NAME.key    of generators elsewhere, named NAME or NAME.anything

CURVE25519 pairs in Z85 (rfc.zeromq.org/spec/32, /spec/26). A generator's file is all that its
machine needs: its own pair and the trainers' public key. Removing the trainers' copy of the file
takes the permission back.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
import zmq
from msgspec import Meta

from online_synclr.stream.errors import StreamError
from online_synclr.stream.messages import GeneratorId

RANKS: Final = "ranks"
"""Name of the key of the generators that torchrun starts."""

SUFFIX: Final = ".key"
_TRAINERS: Final = "trainers" + SUFFIX
_GENERATORS: Final = "generators"
_RANK_ID: Final = re.compile(r"g[0-9]+")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_MAX_FILE_BYTES: Final = 4096

Z85 = Annotated[str, Meta(pattern=r"\A[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}\Z")]
KeyName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,32}\Z")]


class KeysError(StreamError):
    """Keys are missing, unreadable, or readable by others."""


class TrainerKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The trainers' pair."""

    public: Z85
    secret: Z85


class GeneratorKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pair for generators of that name, and the public key of the trainers it is meant for."""

    name: KeyName
    public: Z85
    secret: Z85
    trainers: Z85


Key = TypeVar("Key", TrainerKey, GeneratorKey)


def admits(name: str, generator_id: GeneratorId) -> bool:
    """Whether the key of that name is one for a generator of that id."""
    if name == RANKS:
        return _RANK_ID.fullmatch(generator_id) is not None
    return generator_id == name or generator_id.startswith(f"{name}.")


class KeyFolder:
    """A folder of keys, as trainers use it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def generators(self) -> Path:
        """The folder of the generators' keys."""
        return self.root / _GENERATORS

    def generator(self, name: str) -> Path:
        """The file of one generator key."""
        return self.generators / f"{name}{SUFFIX}"

    def make(self, names: Iterable[str] = ()) -> list[Path]:
        """Make what is missing: the trainers' key, that of torchrun's generators, those named.

        Returns the files made; those that are there stay as they are.

        Raises:
            KeysError: a name that cannot be a generator's, or a folder that cannot be used.
        """
        wanted = [RANKS, *names]
        for name in wanted:
            if _NAME.fullmatch(name) is None or _RANK_ID.fullmatch(name) is not None:
                raise KeysError(
                    f"{name!r} cannot name a generator's key: use 1 to 32 letters, digits, - or _, "
                    "and no name like g0, which torchrun's generators have"
                )
        try:
            for folder in (self.root, self.generators):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if stat.S_IMODE(folder.stat().st_mode) & 0o077:
                    raise KeysError(
                        f"{folder} is open to other users; name a folder that is not there yet, or "
                        "chmod 700 it"
                    )
            made = self._make_trainers()
            trainers = self.trainers()
            for name in dict.fromkeys(wanted):
                made += self._make_generator(name, trainers)
        except OSError as error:
            raise KeysError(f"keys cannot be written to {self.root}: {error.strerror}") from error
        return made

    def trainers(self) -> TrainerKey:
        """The trainers' pair.

        Raises:
            KeysError: it is not there, not a key, or others may read it.
        """
        return _read(self.root / _TRAINERS, TrainerKey)

    def names(self) -> dict[str, str]:
        """Public key -> name, of every generator that may connect.

        Raises:
            KeysError: a file is not a key of these trainers, or others may read it.
        """
        names, faults = self.read_generators()
        if faults:
            raise KeysError(faults[0])
        return names

    def read_generators(self) -> tuple[dict[str, str], list[str]]:
        """Public key -> name of every good key, and what is wrong with the others.

        Raises:
            KeysError: the folder cannot be read.
        """
        trainers, names, faults = self.trainers().public, {}, []
        for entry in self.state():
            path = self.generators / entry[0]
            try:
                key = load_generator_key(path)
            except KeysError as error:
                faults.append(str(error))
                continue
            if key.trainers == trainers:
                names[key.public] = key.name
            else:
                faults.append(f"key {path} is for other trainers than {self.root / _TRAINERS}")
        return names, faults

    def state(self) -> list[tuple[str, int, int, int]]:
        """Differs whenever a generator's key was added, removed, or changed in text or mode.

        Raises:
            KeysError: the folder cannot be read.
        """
        try:
            with os.scandir(self.generators) as entries:
                found = [(entry.name, entry.stat()) for entry in entries]
        except OSError as error:
            raise KeysError(f"{self.generators} cannot be read ({error.strerror})") from error
        return sorted(
            (name, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_mode)
            for name, seen in found
            if name.endswith(SUFFIX) and not name.startswith(".")
        )

    def _make_trainers(self) -> list[Path]:
        public, secret = _new_pair()
        return _write(self.root / _TRAINERS, TrainerKey(public=public, secret=secret))

    def _make_generator(self, name: str, trainers: TrainerKey) -> list[Path]:
        public, secret = _new_pair()
        key = GeneratorKey(name=name, public=public, secret=secret, trainers=trainers.public)
        return _write(self.generator(name), key)


def load_generator_key(path: Path) -> GeneratorKey:
    """A generator's key.

    Raises:
        KeysError: it is not there, not a key, or others may read it.
    """
    return _read(path, GeneratorKey)


def _new_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _write(path: Path, key: TrainerKey | GeneratorKey) -> list[Path]:
    """Write a file of mode 0600 that appears whole or not at all; an existing one stays."""
    if path.exists():
        return []
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(key)) + b"\n")
        handle.flush()
        os.fsync(handle.fileno())
    try:
        # Unlike a rename it fails where another process was quicker.
        os.link(temporary, path)
    except FileExistsError:
        return []
    finally:
        temporary.unlink()
    return [path]


def _read(path: Path, kind: type[Key]) -> Key:
    try:
        mode = path.stat().st_mode
        with path.open("rb") as handle:
            text = handle.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise KeysError(
            f"key {path} cannot be read ({error.strerror}); `python -m online_synclr keys DIR` "
            "makes a folder of keys"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeysError(f"key {path} can be read by other users; chmod 600 it")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise KeysError(f"{path} is not a key of this project: {error}") from error
