"""The thread that writes captions ahead of the renderer.

    draw -> prompt -> language model -> filter -> bounded queue -> renderer

At first it waits for the trainers' word on the shares of the sources; then for room in the queue
(the renderer makes it by `take`) and for the language model. The
renderer waits in `take` for a caption (this thread brings it, or its error).
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from generators.barren import BarrenWatch
from generators.caption_filter import Accepted, CaptionFilter, Rejected
from generators.concepts import ConceptStream, Draw
from generators.counters import Counters
from generators.language.base import LanguageModel

_FIRST_BATCH = 4
_BARREN_BATCHES = 8
_BARREN_CAPTIONS = 64


@dataclass(frozen=True, slots=True)
class Captioned:
    """An accepted caption, the draw it was written from and that draw's number."""

    draw: Draw
    caption: str
    counter: int


class Captioner:
    """Writes captions for draws 0, 1, 2, ... of a stream until it is closed.

    A refused caption is dropped and its draw's number with it, so that the number of an accepted
    one still says which draw made it. The first batches are small, so that rendering starts early.

    `shares_within_s`: longest wait for the first call of `set_shares`; without one, sources have
    the shares that the concept bank gives them.
    """

    def __init__(
        self,
        *,
        draws: ConceptStream,
        prompt_of: Callable[[Draw], str],
        seed_of: Callable[[int], int],
        model: LanguageModel,
        caption_filter: CaptionFilter,
        batch_captions: int,
        queue_captions: int,
        counters: Counters,
        shares_within_s: float = 0.0,
    ) -> None:
        self._shares: Mapping[str, float] | None = None
        self._shares_within_s = shares_within_s
        self._draws = draws
        self._prompt_of = prompt_of
        self._seed_of = seed_of
        self._model = model
        self._filter = caption_filter
        self._largest_batch = min(batch_captions, queue_captions)
        self._capacity = queue_captions
        self._counters = counters
        self._changed = threading.Condition()
        self._queue: deque[Captioned] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._barren = BarrenWatch("captions", least=_BARREN_CAPTIONS, batches=_BARREN_BATCHES)
        self._thread = threading.Thread(target=self._run, name="captioner", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def take(self, most: int, timeout_s: float, *, least: int = 1) -> list[Captioned]:
        """Between `least` and `most` captions; none if `least` did not come within `timeout_s`.

        Waits for those only. Once the thread has ended, what is left is given in any number.

        Raises:
            Exception: whatever ended the thread, once its captions are used up.
        """
        with self._changed:
            enough = self._changed.wait_for(
                lambda: len(self._queue) >= least or self._error or self._closed, timeout_s
            )
            if not enough:
                return []
            if not self._queue and self._error is not None:
                raise self._error
            taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
            self._changed.notify_all()
            return taken

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Draw by these from the next batch on; none: by the bank's. From any thread."""
        with self._changed:
            self._shares = dict(shares)
            self._changed.notify_all()

    @property
    def used_up(self) -> bool:
        """Whether there will never be another caption: a concept bank has no end."""
        return False

    def close(self, timeout_s: float = 2.0) -> None:
        """Write no more; waits up to `timeout_s` for the batch under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            with self._changed:
                if not self._closed:
                    self._error = error
                self._changed.notify_all()

    def _write(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._shares is not None, self._shares_within_s
            )
        counter, size = 0, min(_FIRST_BATCH, self._largest_batch)
        while self._wait_for_room(size):
            accepted = self._write_batch(range(counter, counter + size))
            with self._changed:
                self._queue.extend(accepted)
                self._changed.notify_all()
            counter += size
            size = min(2 * size, self._largest_batch)

    def _wait_for_room(self, size: int) -> bool:
        with self._changed, self._counters.timed("wait_s/caption_queue_full"):
            self._changed.wait_for(
                lambda: self._closed or self._capacity - len(self._queue) >= size
            )
            return not self._closed

    def _write_batch(self, counters: Sequence[int]) -> list[Captioned]:
        shares = self._shares
        draws = [self._draws.draw(counter, shares) for counter in counters]
        with self._counters.timed("busy_s/llm"):
            completions = self._model.complete(
                [self._prompt_of(draw) for draw in draws], [self._seed_of(c) for c in counters]
            )
        verdicts = [
            self._filter.check(completion.text, draw, finished=completion.finished)
            for draw, completion in zip(draws, completions, strict=True)
        ]
        reasons = [v.reason if isinstance(v, Rejected) else None for v in verdicts]
        self._count(reasons)
        refused = (one.text for one, reason in zip(completions, reasons, strict=True) if reason)
        self._barren.batch_done(reasons, example=next(refused, ""))
        return [
            Captioned(draw, verdict.caption, counter)
            for draw, verdict, counter in zip(draws, verdicts, counters, strict=True)
            if isinstance(verdict, Accepted)
        ]

    def _count(self, reasons: Sequence[str | None]) -> None:
        rejected = Counter(f"rejected/{reason}" for reason in reasons if reason is not None)
        # In one go: whoever reads them sees no caption that was written and not judged.
        self._counters.add_all(
            {
                "captions_written": len(reasons),
                "captions_accepted": len(reasons) - rejected.total(),
                **rejected,
            }
        )
