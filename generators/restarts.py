"""Decisions about restarting: pure, on a clock that is passed in."""

from collections import deque

from online_synclr.stream.messages import MAX_GENERATORS

_HOUR_S = 3600.0
_PROGRESS = ("captions_written", "images_rendered", "groups_sent", "wait_s/credits")


class RestartBudget:
    """At most `per_hour` restarts within any hour; pauses double with each in that hour.

    They start at `backoff_s` and never exceed `backoff_max_s`.
    """

    def __init__(self, *, per_hour: int, backoff_s: float, backoff_max_s: float = 60.0) -> None:
        self._per_hour = per_hour
        self._backoff_s = backoff_s
        self._backoff_max_s = backoff_max_s
        self._recent: deque[float] = deque()

    def pause_before_restart(self, now_s: float) -> float | None:
        """Seconds to wait before the restart that is now due; None: the budget is spent."""
        while self._recent and now_s - self._recent[0] >= _HOUR_S:
            self._recent.popleft()
        if len(self._recent) >= self._per_hour:
            return None
        # Of many restarts the power alone would be too large for a number.
        doublings = min(len(self._recent), 32)
        pause_s = min(self._backoff_max_s, self._backoff_s * 2.0**doublings)
        self._recent.append(now_s)
        return pause_s


class RecentFailures:
    """How the engines of the last hour ended: the first of them is why a crash loop began.

    An older one, from days ago, has nothing to do with it. At most `most` are kept.
    """

    def __init__(self, most: int) -> None:
        self._recent: deque[tuple[float, str]] = deque(maxlen=most)

    def add(self, failure: str, now_s: float) -> str:
        """Note one; returns the first of the hour."""
        while self._recent and now_s - self._recent[0][0] >= _HOUR_S:
            self._recent.popleft()
        self._recent.append((now_s, failure))
        return self._recent[0][1]


class StallWatch:
    """Notices an engine that makes no progress for `stall_s`.

    Progress is any of: a caption written, an image rendered, a group sent, or time spent waiting
    for trainers to ask for groups, which is their doing. While it loads, an engine has `stall_s`.
    """

    def __init__(self, *, stall_s: float, now_s: float) -> None:
        self._stall_s = stall_s
        self._progress: tuple[float, ...] = ()
        self._since_s = now_s

    def stalled(self, counters: dict[str, float], now_s: float) -> bool:
        """Whether the engine with these counters has stood still for too long."""
        progress = tuple(counters.get(name, 0.0) for name in _PROGRESS)
        if progress != self._progress:
            self._progress, self._since_s = progress, now_s
        return now_s - self._since_s > self._stall_s


def stream_number(*, restarts: int, generator_index: int) -> int:
    """Number of an engine's stream: no two starts of a run's engines share one."""
    return restarts * MAX_GENERATORS + generator_index
