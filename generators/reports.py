"""What an engine child tells its supervisor: JSON lines over a pipe, bounded on both sides."""

import json
import os
import threading
from dataclasses import asdict, dataclass, field

from online_synclr.stream.messages import PeerState

_LONGEST_LINE_BYTES = 64 * 1024
_LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class Report:
    """State and counters, or the error that ends the child.

    `final`: starting the child again cannot help. `end_seen`: a trainer has told it END.
    """

    state: PeerState = "loading"
    counters: dict[str, float] = field(default_factory=dict)
    error: str = ""
    final: bool = False
    end_seen: bool = False


class ReportWriter:
    """The child's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def status(
        self, state: PeerState, counters: dict[str, float], *, end_seen: bool = False
    ) -> None:
        """Say how the work stands."""
        self._write(Report(state=state, counters=counters, end_seen=end_seen))

    def failure(self, words: str, *, final: bool) -> None:
        """Say what ends this process."""
        self._write(Report(state="failed", error=words[:_LONGEST_MESSAGE], final=final))

    def _write(self, report: Report) -> None:
        line = json.dumps(asdict(report)).encode() + b"\n"
        with self._lock:
            # The supervisor reads all the time; if it is gone, the lifeline ends this process.
            os.write(self._fd, line)


class ReportReader:
    """The supervisor's end; never blocks."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._rest = b""
        self.closed = False

    def fileno(self) -> int:
        """For waiting until there is something to read."""
        return self._fd

    def read(self) -> list[Report]:
        """All complete reports that have come; sets `closed` at the end of the pipe."""
        reports = []
        while chunk := self._chunk():
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._rest = self._rest[-_LONGEST_LINE_BYTES:]
            reports += [report for line in lines if (report := _parse(line)) is not None]
        return reports

    def _chunk(self) -> bytes:
        if self.closed:
            return b""
        try:
            chunk = os.read(self._fd, _LONGEST_LINE_BYTES)
        except BlockingIOError:
            return b""
        self.closed = not chunk
        return chunk

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._fd)


def _parse(line: bytes) -> Report | None:
    try:
        return Report(**json.loads(line))
    except (ValueError, TypeError):
        return None
