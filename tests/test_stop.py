"""Stop requests: every signal, in time even while the main thread waits inside C code."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from online_synclr.paths import PROJECT_DIR
from online_synclr.stop_signals import STOP_SIGNALS
from trainer.stop import StopRequest, stop_on_signals

STUCK = """
import ctypes, sys
from trainer.stop import stop_on_signals

with stop_on_signals(float(sys.argv[1])) as stop:
    stop.before_ending(lambda: print("cleaned up", flush=True))
    if sys.argv[2] == "training":
        stop.training_begins()
    print("ready", flush=True)
    # As inside a collective whose peer is gone: Python's own handlers never run here.
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    for _ in range(2):
        libc.pthread_mutex_lock(mutex)
"""


def stuck(grace_s: float, phase: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(grace_s), phase],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT_DIR,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """Under nohup the signal that it ignores stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("no_nohup")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_stop_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals(60.0) as stop:
        stop.training_begins()
        assert not stop.requested
        assert stop.overdue_in_s is None
        os.kill(os.getpid(), number)
        assert stop.wait(10.0)
        assert stop.signal_number == number
        assert 50.0 < stop.remaining_s <= 60.0
    assert signal.getsignal(number) is before


def test_only_the_first_request_starts_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    stop = StopRequest(20.0)
    assert stop.remaining_s == 20.0
    stop.request(signal.SIGUSR1)
    now_s[0] += 15.0
    stop.request(signal.SIGTERM)
    assert stop.remaining_s == 5.0
    assert stop.signal_number is signal.SIGUSR1
    now_s[0] += 15.0
    assert stop.remaining_s == 0.0


def test_a_process_that_cannot_leave_is_ended_with_its_grace() -> None:
    process = stuck(0.5, "training")
    began_s = time.monotonic()
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert time.monotonic() - began_s > 0.45
    assert "cleaned up" in out
    assert "not done 0.5 s after SIGUSR1 (run.grace_s), ended as it is" in err


def test_before_training_a_signal_ends_the_process_at_once() -> None:
    process = stuck(3600.0, "starting")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "cleaned up" in out
    assert err == ""
