"""A set of seed keys that is small: one bit for each counter of a stream, in pages."""

from online_synclr.stream.group import SeedKey

_PAGE_BITS = 15


class SeedKeys:
    """Keys seen. Counters of one stream are close together, so their bits fill their pages."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, int, int, int], bytearray] = {}

    def add(self, key: SeedKey) -> bool:
        """Remember a key; whether it was new."""
        page, byte, bit = self._place(key)
        bits = self._pages.setdefault(page, bytearray(1 << (_PAGE_BITS - 3)))
        is_new = not bits[byte] & bit
        bits[byte] |= bit
        return is_new

    def __contains__(self, key: SeedKey) -> bool:
        page, byte, bit = self._place(key)
        bits = self._pages.get(page)
        return bits is not None and bool(bits[byte] & bit)

    def _place(self, key: SeedKey) -> tuple[SeedKey, int, int]:
        run_seed, incarnation, stream, counter = key
        low = counter & ((1 << _PAGE_BITS) - 1)
        return (run_seed, incarnation, stream, counter >> _PAGE_BITS), low >> 3, 1 << (low & 7)
