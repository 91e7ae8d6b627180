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
_HASH = np.dtype("<u8")


class DistinctCounter:
    """Counts distinct byte strings; holds at most `MAX_HASHES` hashes of 8 bytes."""

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        kept = heapq.nsmallest(MAX_HASHES, set(hashes))
        self._kept = set(kept)
        # Negated: the heap's first is the largest kept.
        self._heap = [-value for value in kept]
        heapq.heapify(self._heap)
        self._encoded: bytes | None = None

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
        self._encoded = None

    def count(self) -> int:
        """Different things noted: exact up to `MAX_HASHES`, else an estimate."""
        return _estimate(len(self._heap), -self._heap[0] if self._heap else 0)

    def to_bytes(self) -> bytes:
        """The sketch, for `from_bytes`; at most 8 * `MAX_HASHES` bytes."""
        if self._encoded is None:
            kept = np.fromiter(self._kept, dtype=_HASH, count=len(self._kept))
            self._encoded = np.sort(kept).tobytes()
        return self._encoded

    @classmethod
    def from_bytes(cls, *parts: bytes) -> "DistinctCounter":
        """The sketch of everything noted in any of the parts."""
        return cls(_union(parts).tolist())


def merge_sketches(*parts: bytes) -> bytes:
    """The sketch of everything noted in any of the sketches."""
    return _union(parts).tobytes()


def count_sketch(sketch: bytes) -> int:
    """`DistinctCounter.count` of what `DistinctCounter.to_bytes` or `merge_sketches` returned."""
    num_hashes = len(sketch) // HASH_BYTES
    return _estimate(num_hashes, int.from_bytes(sketch[-HASH_BYTES:], "little"))


def _union(parts: Iterable[bytes]) -> np.ndarray:
    """The smallest hashes of all parts, ascending."""
    # By numpy, and by sorting (np.unique builds a table of hashes, which takes ten times as long):
    # all trainers' hashes are merged at each logged step.
    hashes = np.sort(np.frombuffer(b"".join(parts), dtype=_HASH), kind="stable")
    first = np.concatenate([hashes[:1] >= 0, hashes[1:] != hashes[:-1]])
    smallest: np.ndarray = hashes[first][:MAX_HASHES]
    return smallest


def _estimate(num_hashes: int, largest: int) -> int:
    return (
        num_hashes if num_hashes < MAX_HASHES else round((MAX_HASHES - 1) * _ALL_HASHES / largest)
    )
