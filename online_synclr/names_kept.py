"""What is remembered by a generator's name stays bounded.

On spot machines, which take a new name at each start, a month has thousands of them.
"""

from collections.abc import Container, MutableMapping
from typing import Any, Final

MAX_NAMES: Final = 4096
"""Most names to remember; those that are here are never forgotten, however many they are."""


def forget_gone(
    kept: MutableMapping[str, Any], here: Container[str], most: int = MAX_NAMES
) -> list[str]:
    """Drop entries, in the mapping's order, until at most `most` are left or only of `here`.

    Returns:
        The names dropped.
    """
    surplus = len(kept) - most
    if surplus <= 0:
        return []
    forgotten = [name for name in kept if name not in here][:surplus]
    for name in forgotten:
        del kept[name]
    return forgotten
