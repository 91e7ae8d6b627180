"""Seeds that are never used twice.

Every random choice of a run derives from a key of named parts; for noise the parts are
(run seed, incarnation, stream, counter, image index). The incarnation is raised in the run folder
before any engine starts, and a stream is one start of one engine, so no restart repeats a key.
"""

import hashlib

MAX_SEED = 2**63 - 1


def derive_seed(purpose: str, *parts: int) -> int:
    """A seed in [0, 2**63) that depends on the purpose and every part, and on nothing else."""
    text = "\x1f".join([purpose, *(str(int(part)) for part in parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"online-synclr").digest()
    return int.from_bytes(digest, "little") & MAX_SEED


def noise_seed(run_seed: int, incarnation: int, stream: int, counter: int, image: int) -> int:
    """Seed of the diffusion noise (initial and per step) of one image of one group."""
    return derive_seed("noise", run_seed, incarnation, stream, counter, image)
