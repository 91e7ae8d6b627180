"""Notes how engines and generators ended, from what a trainer hears of them: pure bookkeeping."""

from collections.abc import Sequence

from online_synclr.stream.failures import Failure, FailureKind, FailureLog, one_line
from online_synclr.stream.peer_book import PeerBook
from online_synclr.stream.peers import Peer


class Ends:
    """The bad ends of all peers; a clean one (BYE) is none.

    Args:
        peers: the trainer's own book.
    """

    def __init__(self, peers: PeerBook) -> None:
        self._peers = peers
        self._log = FailureLog()

    def of(self, generator_id: str) -> tuple[Failure, ...]:
        """A generator's, oldest first."""
        return self._log.of(generator_id)

    def on_error(self, peer: Peer, message: str, stream: int | None) -> None:
        """An ERROR of `peer`, heard just now: of itself, or of what its supervisor names."""
        if peer.hello.role == "engine":
            self._note(peer, "failed", message, peer.hello.stream, peer.last_heard_s)
        elif stream is not None:
            self._note(peer, "failed", message, stream, peer.last_heard_s)
        else:
            self._note(peer, "out", message, self._newest_stream(peer), peer.last_heard_s)

    def on_silence(self, peers: Sequence[Peer], now_s: float) -> None:
        """These fell silent: one failure a generator, none while its engine is still heard."""
        newest = {peer.hello.generator_id: peer for peer in peers}
        newest |= {p.hello.generator_id: p for p in peers if p.hello.role == "engine"}
        for peer in newest.values():
            if peer.hello.role == "control" and self._engine_is_heard(peer):
                continue
            message = f"nothing heard for {now_s - peer.last_heard_s:.0f} s"
            self._note(peer, "silent", message, self._newest_stream(peer), now_s)

    def _note(self, peer: Peer, kind: FailureKind, message: str, stream: int, at_s: float) -> None:
        failure = Failure(kind, peer.hello.incarnation, stream, one_line(message), at_s)
        self._log.note(peer.hello.generator_id, failure)

    def _engine_is_heard(self, peer: Peer) -> bool:
        return any(
            other.hello.role == "engine" and other.connection == "alive"
            for _, other in self._peers.of_generator(peer.hello.generator_id)
        )

    def _newest_stream(self, peer: Peer) -> int:
        """Of the generator's last start that is known of: a later one has a higher number."""
        generator_id, incarnation = peer.hello.generator_id, peer.hello.incarnation
        joined = [
            other.hello.stream
            for _, other in self._peers.of_generator(generator_id)
            if other.hello.incarnation == incarnation
        ]
        # Of a start that failed before it joined, its supervisor told.
        told = [end.stream for end in self.of(generator_id) if end.incarnation == incarnation]
        return max([*joined, *told, peer.hello.stream])
