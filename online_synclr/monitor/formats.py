"""Numbers as people read them."""

import math

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
UNKNOWN = "–"


def percent(share: float | None, digits: int = 0) -> str:
    """`0.4` -> `40 %`."""
    return UNKNOWN if _unknown(share) else f"{100 * share:.{digits}f} %"  # type: ignore[operator]


def number(value: float | None) -> str:
    """Three figures that matter: `0.123`, `12.3`, `1 234`."""
    if value is None or _unknown(value):
        return UNKNOWN
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    digits = 0 if value == int(value) and size >= 1 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def num_bytes(value: float | None) -> str:
    """`403000000` -> `403 MB` (powers of ten)."""
    if value is None or _unknown(value):
        return UNKNOWN
    for unit in _BYTE_UNITS:
        if abs(value) < 1000 or unit == _BYTE_UNITS[-1]:
            break
        value /= 1000
    return f"{number(value)} {unit}"


def duration(seconds: float | None) -> str:
    """`3671` -> `1:01:11`; days in front where there are any."""
    if seconds is None or _unknown(seconds):
        return UNKNOWN
    minutes, secs = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{secs:02d}"
    return f"{days} d {clock}" if days else clock


def _unknown(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
