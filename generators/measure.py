"""What one generator makes when every group is asked for at once: the real rank and its engine.

    python -m generators.measure SPEC

    main thread      the generator rank: supervisor, engine child, caption server
    receiver thread  takes every group and keeps none
    watcher thread   reads the engine's own counters: warm-up, measured time, END

Pictures and captions are told apart by the engine's own clocks, taken while both run: that one of
them slows the other down (one GPU, one core) is part of the figures.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generators.main import run_generator
from generators.role import GeneratorRole
from online_synclr.config.schema import Config
from online_synclr.planning.measurement import (
    GeneratorAnswer,
    MeasurementError,
    MeasureSpec,
    answer_with,
)
from online_synclr.process_control import signal_when_parent_ends
from online_synclr.stream.endpoints import ipc_endpoint
from online_synclr.stream.group import Group
from online_synclr.stream.peers import LEDGER_USED_UP, PeerView
from online_synclr.stream.receiver import Receiver

RUN_ID = "plan"
BEAT_S = 0.2
"""Time between readings, which bounds the error of a rate: the beat over the measured time."""
LEAST_BATCHES = 4
"""Batches of pictures, and of captions, that a rate is taken over."""
PATIENCE = 4.0
"""Measured time and warm-up are drawn out up to so many times where batches take long."""


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit code."""
    signal_when_parent_ends(signal.SIGTERM)
    spec = MeasureSpec.read(Path(argv[0]))
    return answer_with(spec.folder / "answer-0.json", lambda: measure(spec))


def measure(spec: MeasureSpec) -> GeneratorAnswer:
    """One generator's rates. Call it from the main thread.

    Raises:
        MeasurementError: its engine or its caption server failed.
    """
    spec.bind(0)
    config = measured_config(spec)
    images = config.images
    image_shape = (images.per_caption, 3, images.send_px, images.send_px)
    with Receiver(
        ipc_endpoint(),
        RUN_ID,
        Sink(config.stream.credits_per_generator, image_shape),
        image_shape=image_shape,
        incarnation=1,
        num_launched=1,
        credits_per_generator=config.stream.credits_per_generator,
        max_group_bytes=config.stream.max_group_bytes,
    ) as receiver:
        watcher = Watcher(receiver, spec, config)
        watcher.start()
        run_generator(config, _role(spec, receiver.address))
        return watcher.answer()


def measured_config(spec: MeasureSpec) -> Config:
    """The settings with quick readings, and one failure enough.

    A caption server that a node's generators share is asked by this one as much as by all of them,
    so that what it writes is what there is to share.
    """
    config = spec.config
    stream = config.stream.model_copy(update={"heartbeat_s": BEAT_S})
    generators = config.generators.model_copy(update={"restarts_per_hour": 0})
    run = config.run.model_copy(update={"dir": spec.folder})
    captions = config.captions
    if spec.num_sharing > 1:
        names = ("batch_captions", "queue_captions", "concurrency")
        grown = {name: getattr(captions, name) * spec.num_sharing for name in names}
        captions = captions.model_copy(update=grown)
    changed = {"stream": stream, "generators": generators, "run": run, "captions": captions}
    return config.model_copy(update=changed)


class Sink:
    """GroupSink that has room for every group, since it keeps none."""

    def __init__(self, num_credits: int, image_shape: tuple[int, int, int, int]) -> None:
        self._num_credits = num_credits
        self._landing_mchw = np.empty(image_shape, dtype=np.uint8)

    def credits_to_issue(self, in_flight: int) -> int:
        """Always as many under way as one generator may have."""
        return max(0, self._num_credits - in_flight)

    def place(self, shape: Sequence[int]) -> np.ndarray:
        """Each group over the one before: that costs what it costs a trainer."""
        return self._landing_mchw

    def insert(self, group: Group) -> None:
        """The engine counts what it renders."""

    def reclaim(self, num_credits: int) -> None:
        """Nothing was reserved."""

    def on_room(self, wake: Callable[[], None]) -> None:
        """There is always room."""


@dataclass(frozen=True)
class Reading:
    """An engine's counters at one moment of its own clock; all cumulative."""

    counters: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return self.counters.get(name, 0.0)

    def since(self, earlier: "Reading") -> "Reading":
        """What has been added."""
        return Reading({name: self[name] - earlier[name] for name in self.counters})


class Watcher(threading.Thread):
    """Waits for the engine to settle, reads it twice, and ends the rank with END.

    It waits for readings only, which the receiver's thread takes in.
    """

    def __init__(self, receiver: Receiver, spec: MeasureSpec, config: Config) -> None:
        super().__init__(name="watcher", daemon=True)
        self._receiver = receiver
        self._spec = spec
        self._captions = config.captions
        self._batch_groups = config.images.batch_groups
        self._rss_bytes = self._gpu_bytes = 0.0
        self._caption_batches: list[Reading] = []
        """The first reading after each batch of captions, since the measured time began."""
        self._answer: GeneratorAnswer | None = None
        self._error = ""

    def run(self) -> None:
        """The thread."""
        try:
            first = self._wait_for(self._first_batches)
            settled = self._wait_for(lambda now: self._has_settled(now.since(first), now))
            begin = self._wait_for(lambda now: now["groups_rendered"] > settled["groups_rendered"])
            self._caption_batches = [begin]
            end = self._wait_for(lambda now: self._is_long_enough(now.since(begin)))
            last = self._wait_for(lambda now: now["groups_rendered"] > end["groups_rendered"])
            self._answer = self._rates(last.since(begin), last)
        except MeasurementError as error:
            self._error = str(error)
        except Exception as error:  # the rank waits for END: it must come
            self._error = f"measuring the generator failed: {error!r}"
        finally:
            self._receiver.announce_end()

    def answer(self) -> GeneratorAnswer:
        """Once the rank has ended; waits for the thread.

        Raises:
            MeasurementError: there is none.
        """
        self.join(timeout=5.0)
        if self._answer is None:
            raise MeasurementError(self._error or "the generator left before it was measured.")
        return self._answer

    def _wait_for(self, holds: Callable[[Reading], bool]) -> Reading:
        while True:
            for view in self._receiver.peers():
                reading = self._read(view)
                self._note_captions(reading)
                if holds(reading):
                    return reading
            time.sleep(BEAT_S / 2)

    def _read(self, view: PeerView) -> Reading:
        if view.state == "failed" or view.connection == "failed":
            raise MeasurementError(view.first_error or "the generator failed and did not say why.")
        if LEDGER_USED_UP in view.counters:
            raise MeasurementError(
                "the ledger was used up before its captions could be measured; name a longer one "
                "in captions.ledger, or give --generator-groups-per-s."
            )
        self._rss_bytes = max(self._rss_bytes, view.counters.get("rss_bytes", 0.0))
        self._gpu_bytes = max(self._gpu_bytes, view.counters.get("gpu_bytes", 0.0))
        return Reading(view.counters)

    def _note_captions(self, now: Reading) -> None:
        batches = self._caption_batches
        if batches and now["captions_written"] > batches[-1]["captions_written"]:
            batches.append(now)

    def _first_batches(self, now: Reading) -> bool:
        return now["groups_rendered"] >= 2 * self._batch_groups

    def _has_settled(self, passed: Reading, now: Reading) -> bool:
        """Captions lie ready, or it is clear by now that they never will."""
        if passed["elapsed_s"] < self._spec.warm_up_s:
            return False
        writes = "captions_written" in now.counters
        filled = now["wait_s/caption_queue_full"] > 0
        return filled or not writes or passed["elapsed_s"] >= PATIENCE * self._spec.warm_up_s

    def _is_long_enough(self, passed: Reading) -> bool:
        if passed["elapsed_s"] >= PATIENCE * self._spec.measure_s:
            return passed["groups_rendered"] >= self._batch_groups
        pictures = passed["groups_rendered"] >= LEAST_BATCHES * self._batch_groups
        written = passed["captions_written"] >= LEAST_BATCHES * self._captions.batch_captions
        long_enough = passed["elapsed_s"] >= self._spec.measure_s
        return long_enough and pictures and (written or "captions_written" not in passed.counters)

    def _rates(self, passed: Reading, whole: Reading) -> GeneratorAnswer:
        elapsed_s, rendered = passed["elapsed_s"], passed["groups_rendered"]
        kept_share = 1.0 - passed["groups_gated"] / rendered
        writes, idle_s = "captions_written" in whole.counters, passed["wait_s/caption_queue_full"]
        groups = rendered
        if writes and idle_s == 0:
            # The LLM never rested: groups beyond its captions came from a store that runs out.
            groups = min(rendered, self._captions_in(passed))
        if kept_share * groups <= 0:
            raise MeasurementError(
                "every group or caption was refused while it was measured; lower "
                "images.min_contrast, or loosen captions.filter."
            )
        return GeneratorAnswer(
            groups_per_s=kept_share * groups / elapsed_s,
            render_groups_per_s=kept_share * rendered / passed["busy_s/render"],
            captions_per_s=self._captions_per_s(passed, whole) if writes else None,
            rss_bytes=self._rss_bytes,
            gpu_bytes=self._gpu_bytes,
        )

    def _captions_in(self, passed: Reading) -> float:
        """Captions that the LLM writes in the measured time.

        Counted from the end of one batch to that of another: what has been begun and what was
        finished otherwise decide, by a whole batch, where few of them fit into the time.
        """
        batches = self._caption_batches[1:]
        if len(batches) < 2:
            return passed["captions_accepted"]
        between = batches[-1].since(batches[0])
        return between["captions_accepted"] / between["elapsed_s"] * passed["elapsed_s"]

    def _captions_per_s(self, passed: Reading, whole: Reading) -> float | None:
        """Accepted captions a second of the LLM's own time; of all its time where it hardly ran."""
        enough = passed["captions_written"] >= self._captions.batch_captions
        of = passed if enough else whole
        return of["captions_accepted"] / of["busy_s/llm"] if of["busy_s/llm"] > 0 else None


def _role(spec: MeasureSpec, address: str) -> GeneratorRole:
    return GeneratorRole(
        run_id=RUN_ID,
        run_dir=spec.folder,
        incarnation=1,
        generator_index=0,
        num_generators=1,
        node_index=0,
        local_generator_index=0,
        trainer_addresses=(address,),
        gpu=spec.gpu_of(0),
        cpu_threads=spec.cpu_threads,
    )


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
