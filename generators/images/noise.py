"""One source of chance an image, that depends on every bit of its seed.

Imported by the engine child only: it needs torch.
"""

import numpy as np
import torch

_FIRST_WORD_BYTE = 24
_NUM_WORDS = 624


def noise_generator(seed: int) -> torch.Generator:
    """A generator on the CPU: the same numbers whatever device the pictures are made on.

    torch's own seeding of its Mersenne Twister keeps the lowest 32 bits, so that among a hundred
    million pictures a million pairs would have the same noise. numpy's keeps all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    state = generator.get_state()
    words = state.numpy()[_FIRST_WORD_BYTE : _FIRST_WORD_BYTE + 8 * _NUM_WORDS].view(np.uint64)
    words[:] = np.random.MT19937(np.random.SeedSequence(seed)).state["state"]["key"]
    return generator.set_state(state)
