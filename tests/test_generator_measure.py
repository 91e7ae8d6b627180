"""When a generator has settled, and what its engine's counters say of it."""

from pathlib import Path
from typing import Any, cast

import pytest

from generators.measure import Reading, Sink, Watcher, measured_config
from online_synclr.config import Config
from online_synclr.planning.measurement import MeasurementError, MeasureSpec
from online_synclr.stream.receiver import Receiver
from tests.report_helpers import make_view

CONFIG = Config.model_validate(
    {
        "images": {"batch_groups": 8},
        "captions": {"batch_captions": 16, "queue_captions": 64, "concurrency": 4},
    }
)


def make_spec(**changes: Any) -> MeasureSpec:
    values = {"folder": Path("x"), "cpu_threads": 1, "warm_up_s": 5.0, "measure_s": 10.0}
    return MeasureSpec(config=CONFIG, **{**values, **changes})  # type: ignore[arg-type]


def make_watcher(**changes: Any) -> Watcher:
    return Watcher(cast(Receiver, None), make_spec(**changes), CONFIG)


def reading(**counters: float) -> Reading:
    names = {"full": "wait_s/caption_queue_full", "render": "busy_s/render", "llm": "busy_s/llm"}
    return Reading({names.get(name, name): value for name, value in counters.items()})


def test_it_settles_when_captions_lie_ready() -> None:
    settled = make_watcher()._has_settled
    early, later = reading(elapsed_s=4.0), reading(elapsed_s=6.0)
    busy, full = reading(captions_written=9, full=0.0), reading(captions_written=9, full=0.1)
    assert not settled(early, full)
    assert settled(later, full)
    assert not settled(later, busy), "the queue is still being filled"
    assert settled(reading(elapsed_s=20.0), busy), "it will never be full"
    assert settled(later, reading()), "a ledger's captions need no writer"


def test_a_rate_is_taken_over_several_batches_of_both() -> None:
    enough = make_watcher()._is_long_enough
    assert enough(reading(elapsed_s=10.0, groups_rendered=32, captions_written=64))
    assert not enough(reading(elapsed_s=9.0, groups_rendered=32, captions_written=64))
    assert not enough(reading(elapsed_s=10.0, groups_rendered=31, captions_written=64))
    assert not enough(reading(elapsed_s=10.0, groups_rendered=32, captions_written=63))
    assert enough(reading(elapsed_s=10.0, groups_rendered=32)), "no writer"
    assert enough(reading(elapsed_s=40.0, groups_rendered=8, captions_written=0)), "out of patience"


def counted(**changes: float) -> Reading:
    values = {
        "elapsed_s": 10.0,
        "groups_rendered": 40.0,
        "groups_gated": 4.0,
        "captions_written": 60.0,
        "captions_accepted": 50.0,
        "full": 2.0,
        "render": 8.0,
        "llm": 5.0,
    }
    return reading(**{**values, **changes})


def test_pictures_and_captions_are_told_apart() -> None:
    watcher = make_watcher()
    answer = watcher._rates(counted(), counted())
    assert answer.groups_per_s == pytest.approx(0.9 * 4.0)
    assert answer.render_groups_per_s == pytest.approx(0.9 * 5.0)
    assert answer.captions_per_s == pytest.approx(10.0)


def test_a_store_of_captions_that_runs_out_is_no_rate() -> None:
    """The LLM never rested and wrote less than was rendered."""
    answer = make_watcher()._rates(
        counted(full=0.0, captions_accepted=20.0), counted(captions_accepted=20.0)
    )
    assert answer.groups_per_s == pytest.approx(0.9 * 2.0)


def test_captions_are_counted_between_ends_of_batches() -> None:
    """Two batches of 16 end in a time that three of them fill."""
    watcher = make_watcher()
    watcher._caption_batches = [reading(elapsed_s=100.0, captions_written=160.0)]
    for elapsed_s, written in ((101.0, 160.0), (103.0, 176.0), (105.0, 176.0), (107.0, 192.0)):
        watcher._note_captions(
            reading(elapsed_s=elapsed_s, captions_written=written, captions_accepted=written)
        )
    passed = counted(full=0.0, groups_gated=0.0, captions_accepted=32.0)
    answer = watcher._rates(passed, counted())
    assert answer.groups_per_s == pytest.approx(4.0), "16 in 4 s, not 32 in 10"


def test_a_generator_of_which_nothing_is_kept_has_no_rate() -> None:
    with pytest.raises(MeasurementError, match="was refused"):
        make_watcher()._rates(counted(groups_gated=40.0), counted())


def test_an_llm_that_hardly_ran_is_judged_by_all_that_it_wrote() -> None:
    whole = counted(captions_accepted=100.0, llm=4.0)
    answer = make_watcher()._rates(counted(captions_written=3.0, captions_accepted=3.0), whole)
    assert answer.captions_per_s == pytest.approx(25.0)
    none = {"elapsed_s": 10.0, "groups_rendered": 40.0, "busy_s/render": 8.0}
    assert make_watcher()._rates(Reading(none), Reading(none)).captions_per_s is None


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ({"state": "failed", "first_error": "no such model"}, "no such model"),
        ({"connection": "failed"}, "did not say why"),
        ({"counters": {"ledger_used_up": 1.0}}, r"captions\.ledger"),
    ],
)
def test_what_ends_it_is_named(view: dict[str, Any], words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        make_watcher()._read(make_view(**view))


def test_a_shared_server_is_asked_as_much_as_by_all() -> None:
    alone, shared = measured_config(make_spec()), measured_config(make_spec(num_sharing=6))
    assert alone.captions == CONFIG.captions
    grown = shared.captions
    assert (grown.batch_captions, grown.queue_captions, grown.concurrency) == (96, 384, 24)
    assert alone.generators.restarts_per_hour == 0, "the first failure is told"
    assert alone.run.dir == Path("x")


def test_every_group_is_asked_for() -> None:
    sink = Sink(16, (1, 3, 2, 2))
    assert [sink.credits_to_issue(flying) for flying in (0, 10, 16, 17)] == [16, 6, 0, 0]
