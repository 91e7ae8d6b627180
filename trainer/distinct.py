"""How many different things were seen, in bounded memory: the k smallest hashes.

Exact up to k; beyond, k - 1 divided by the k-th smallest hash (as a share of all hashes) estimates
the number with a standard error of about 1 / sqrt(k): 0.8 % here (Bar-Yossef et al., 2002). Two
sketches merge into that of the union, so trainers and attempts can be added up.
"""

import hashlib
import heapq
from collections.abc import Iterable

import numpy as np

MAX_HASHES = 2**14
HASH_BYTES = 8
_ALL_HASHES = 2**64


class DistinctCounter:
    """Counts distinct byte strings; holds at most `MAX_HASHES` hashes of 8 bytes."""

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        kept = heapq.nsmallest(MAX_HASHES, set(hashes))
        self._kept = set(kept)
        # Negated: the heap's first is the largest kept.
        self._heap = [-value for value in kept]
        heapq.heapify(self._heap)

    def add(self, identity: bytes) -> None:
        """Note one thing; noting it again changes nothing."""
        digest = hashlib.blake2b(identity, digest_size=HASH_BYTES).digest()
        value = int.from_bytes(digest, "little")
        if value in self._kept:
            return
        if len(self._heap) < MAX_HASHES:
            heapq.heappush(self._heap, -value)
        elif value < -self._heap[0]:
            self._kept.discard(-heapq.heapreplace(self._heap, -value))
        else:
            return
        self._kept.add(value)

    def count(self) -> int:
        """Different things noted: exact up to `MAX_HASHES`, else an estimate."""
        if len(self._heap) < MAX_HASHES:
            return len(self._heap)
        return round((MAX_HASHES - 1) * _ALL_HASHES / -self._heap[0])

    def to_bytes(self) -> bytes:
        """The sketch, for `from_bytes`; at most 8 * `MAX_HASHES` bytes."""
        return np.array(sorted(self._kept), dtype="<u8").tobytes()

    @classmethod
    def from_bytes(cls, *parts: bytes) -> "DistinctCounter":
        """The sketch of everything noted in any of the parts."""
        # Cut before Python sees them: all trainers' hashes, merged at each logged step, are many.
        values = np.unique(np.frombuffer(b"".join(parts), dtype="<u8"))[:MAX_HASHES]
        return cls(values.tolist())
