"""Others' words, before people see them in a console, a log or TensorBoard."""

from typing import Final

MAX_SHOWN: Final = 500


def plain(text: str, most: int = MAX_SHOWN) -> str:
    """At most so many characters; what is not printable (control codes, escapes) is a space.

    Lines stay lines: only the first of an error is shown where there is one line for it.
    """
    shown = text[:most]
    return "".join(one if one.isprintable() or one == "\n" else " " for one in shown)
