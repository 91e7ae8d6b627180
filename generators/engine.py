"""The engine child: language model, renderer and sender in one process.

    main thread      loads the models, then: captions -> images -> sender
    captioner        draws -> prompts -> language model -> filter -> bounded queue (no thread and
                     no model with captions.backend=ledger)
    sender           groups -> trainers, under their credits
    heartbeat        counters -> trainers and supervisor
    lifeline         waits for the supervisor's word, or for its end

Run by the supervisor as `python -m generators.engine SPEC LIFELINE_FD REPORT_FD`. It ends well on
END from the trainers, on a stop request (lifeline or SIGTERM), and once the ledger that it renders
from is used up; each time having finished what it holds.
"""

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from generators.captioning import Captions, recorded_captions, written_captions
from generators.concepts import ConceptBank, ConceptBankError
from generators.counters import Counters
from generators.errors import ServerAbsentError, SetupError
from generators.gpu_lock import gpu_start_lock
from generators.heartbeat import Heartbeat
from generators.images.factory import create_renderer
from generators.images.quality_gate import QualityGate
from generators.images.renderer import Renderer
from generators.language.factory import create_language_model
from generators.last_words import describe
from generators.lifeline import end_everything, watch_parent
from generators.render_loop import RenderLoop
from generators.reports import ReportWriter
from generators.spec import EngineSpec
from online_synclr.process_control import signal_when_parent_ends
from online_synclr.stop_signals import stop_signals
from online_synclr.stream.errors import StreamRejected
from online_synclr.stream.messages import Hello, PeerState, engine_start
from online_synclr.stream.sender import Sender

_FINAL = (SetupError, ConceptBankError, StreamRejected, ImportError)


def main(argv: Sequence[str]) -> int:
    """Run one engine; returns its exit code: 0 after END or a stop request, else 1."""
    spec_path, lifeline_fd, report_fd = argv
    signal_when_parent_ends(signal.SIGKILL)
    stop = StopRequest()
    for number in stop_signals():
        signal.signal(number, lambda *_: stop.ask())
    watch_parent(int(lifeline_fd), on_stop=stop.ask, on_parent_gone=end_everything)
    reports = ReportWriter(int(report_fd))
    first_start, spec = False, None
    try:
        spec = EngineSpec.read(Path(spec_path))
        first_start = engine_start(spec.stream) == 0
        Engine(spec, reports, stop).run()
    except BaseException as error:
        traceback.print_exc()
        words = describe(error, None if spec is None else spec.config)
        reports.failure(words, final=_is_final(error, first_start=first_start))
        return 1
    return 0


def _is_final(error: BaseException, *, first_start: bool) -> bool:
    """Whether another start cannot help. A server that was never there is a wrong setting."""
    return isinstance(error, _FINAL) or (isinstance(error, ServerAbsentError) and first_start)


class StopRequest:
    """Whether somebody asked for an orderly end; while the models load, that is at once."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.loading = True

    def ask(self) -> None:
        """Safe in a signal handler and from any thread."""
        self._asked.set()
        if self.loading:
            # Nothing is held yet, and loading cannot be interrupted otherwise.
            os._exit(0)

    def asked(self) -> bool:
        """Whether to end."""
        return self._asked.is_set()


class Engine:
    """One start of a generator's models, until END or a stop request."""

    def __init__(self, spec: EngineSpec, reports: ReportWriter, stop: StopRequest) -> None:
        self._spec = spec
        self._reports = reports
        self._stop = stop
        self._counters = Counters()
        self._sender: Sender | None = None

    def run(self) -> None:
        """Load, work, say goodbye.

        Raises:
            Exception: whatever made going on impossible.
        """
        settings = self._spec.config
        with ExitStack() as stack:
            heartbeat = Heartbeat(self._tell, every_s=settings.stream.heartbeat_s)
            stack.callback(heartbeat.close)
            # Before the GPU is taken: the trainers' own ledger may have to be waited for.
            captions: Captions[Any] | None = None
            if settings.captions.backend == "ledger":
                captions = recorded_captions(self._spec, self._counters, _say)
                _say(f"captions: those of the ledger in {settings.captions.ledger}")
            _limit_threads(self._spec)
            with gpu_start_lock(os.environ.get("CUDA_VISIBLE_DEVICES", "")):
                captions = captions or self._load_language_model()
                renderer = create_renderer(settings.images, device=self._spec.device, say=_say)
            # The models are never closed: this process ends next, and the captioner thread may
            # still be inside one of them.
            self._work(captions, renderer, heartbeat)

    def _load_language_model(self) -> Captions[Any]:
        settings = self._spec.config
        bank = ConceptBank.load(settings.captions.bank)
        model = create_language_model(
            settings.captions,
            device=self._spec.device,
            server_url=self._spec.server_url,
            # Half, so that waiting for it is not taken for an engine that hangs.
            server_patience_s=settings.generators.stall_s / 2,
            say=_say,
        )
        return written_captions(self._spec, bank, model, self._counters, _say)

    def _work(self, captions: Captions[Any], renderer: Renderer, heartbeat: Heartbeat) -> None:
        spec, settings = self._spec, self._spec.config
        captions.start()
        _say("the models are ready")
        sender = self._sender = self._connect(captions, renderer)
        self._stop.loading = False
        loop = RenderLoop(
            captions=captions.source,
            renderer=renderer,
            sender=sender,
            recipe_of=lambda captioned: captions.recipe_of(captioned, renderer.fingerprint),
            batch_groups=settings.images.batch_groups,
            gate=QualityGate(spec.image_shape, settings.images.min_contrast),
            drain_s=settings.generators.goodbye_s / 4,
            counters=self._counters,
            stopping=lambda: self._stop.asked() or sender.end_seen.is_set(),
            ended=sender.end_seen.is_set,
        )
        heartbeat.set_state("running")
        try:
            loop.run()
        except BaseException as error:
            sender.report_error(describe(error, settings))
            raise
        finally:
            heartbeat.set_state("draining")
            captions.close()
            self._tell("draining")
            sender.close(settings.generators.goodbye_s / 2)

    def _connect(self, captions: Captions[Any], renderer: Renderer) -> Sender:
        spec, stream = self._spec, self._spec.config.stream
        hello = Hello(
            run_id=spec.role.run_id,
            generator_id=spec.role.generator_id,
            role="engine",
            incarnation=spec.role.incarnation,
            stream=spec.stream,
            image_shape=spec.image_shape,
            fingerprint=f"{captions.fingerprint} {renderer.fingerprint}",
        )
        return Sender(
            spec.role.trainer_addresses,
            hello,
            queue_groups=spec.config.generators.queue_groups,
            encoding=stream.encoding,
            jpeg_quality=stream.jpeg_quality,
            heartbeat_s=stream.heartbeat_s,
            fan_out=stream.fan_out,
            position=spec.role.serving_position,
            key=spec.role.key(),
            shared_memory=stream.shared_memory == "auto",
            on_progress=captions.on_progress,
            on_first_group=lambda elapsed_s: _say(
                f"the first group was sent {elapsed_s:.2f} s after the models were ready"
            ),
        )

    def _tell(self, state: PeerState) -> None:
        counters = {**self._counters.snapshot(), **_memory()}
        sender, end_seen = self._sender, False
        if sender is not None:
            sender.publish_status(counters, state)
            counters |= sender.counters()
            end_seen = sender.end_seen.is_set()
        self._reports.status(state, counters, end_seen=end_seen)


def _limit_threads(spec: EngineSpec) -> None:
    captions = spec.config.captions.backend
    if spec.config.images.backend == "synthetic" and captions in ("template", "ledger"):
        return
    import torch

    torch.set_num_threads(spec.role.cpu_threads)


def _memory() -> dict[str, float]:
    import psutil

    values = {"rss_bytes": float(psutil.Process().memory_info().rss)}
    torch = sys.modules.get("torch")
    # While torch is still being imported on the main thread it has no cuda attribute.
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        values["gpu_bytes"] = float(cuda.memory_reserved())
    return values


def _say(text: str) -> None:
    print(f"engine: {text}", flush=True)


if __name__ == "__main__":
    faulthandler.enable()
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Daemon threads may sit in a library's code: interpreter shutdown under them can crash.
    os._exit(exit_code)
