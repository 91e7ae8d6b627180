"""What trainers know of a run, made up for tests: views of generators, reports, a summary."""

from typing import Any

from online_synclr.monitor.summary import Summary
from online_synclr.stream.peers import PeerView
from trainer.distinct import DistinctCounter
from trainer.intake import IntakeCounters
from trainer.report import PeerReport, TrainerReport
from trainer.step_meter import FIELDS

SUMMARY = Summary(
    steps=30,
    groups_sent=105,
    groups_received=100,
    groups_trained=80,
    group_uses=160,
    groups_lost=4,
    groups_discarded=1,
    groups_evicted_unused=5,
    groups_left=15,
    distinct_captions=79,
    images_rendered=420,
    trainer_images_per_s=12.0,
    trainer_image_uses_per_s=24.0,
    generator_images_per_s=12.5,
    trainer_wait_fraction=0.4,
    generator_wait_fraction=0.02,
    time_to_first_step_s=9.0,
    wall_s=61.0,
    trainer_waits={"groups": 0.39, "vote": 0.01},
    generator_waits={"credits": 0.02, "captions": 0.0},
    generator_shares={"gen-0": 0.5, "gen-1": 0.5},
    knn_before=0.21,
    knn_after=0.56,
)


def make_view(generator_id: str = "g0", **changes: Any) -> PeerView:
    values: dict[str, Any] = {
        "generator_id": generator_id,
        "connection": "alive",
        "state": "running",
        "counters": {},
        "first_error": None,
        "silent_for_s": 0.0,
        "sent": 0,
        "received": 0,
        "discarded": 0,
        "lost": 0,
    }
    return PeerView(**{**values, **changes})


def make_intake(**changes: Any) -> IntakeCounters:
    values: dict[str, Any] = {
        "received": 20,
        "trained": 12,
        "group_uses": 30,
        "evicted_by_uses_left": {0: 4, 4: 3},
        "evicted_unused": 3,
        "left": 5,
        "groups": 10,
        "num_bytes": 1000,
        "mean_age_s": 2.0,
        "mean_uses": 1.5,
        "limiter_error": 4.0,
        "reuse_in_force": 2.0,
        "credits_in_flight": 6,
    }
    return IntakeCounters(**{**values, **changes})


def make_peer(generator_id: str, images: float, **changes: Any) -> PeerReport:
    counters = {
        "images_rendered": images,
        "captions_accepted": images / 4,
        "captions_written": images / 2,
        "rejected/too short": images / 8,
        "groups_rendered": images / 4,
        "gated/identical": images / 8,
        "wait_s/captions": 0.5,
        "groups_gated": images / 8,
        "busy_s/llm": images / 50,
        "wait_s/credits": images / 100,
        "restarts": 1.0,
        "rss_bytes": 7.0 * images,
    }
    values: dict[str, Any] = {
        "generator_id": generator_id,
        "connection": "alive",
        "state": "running",
        "counters": counters,
        "first_error": None,
    }
    return PeerReport(**{**values, **changes})


def make_report(**changes: Any) -> TrainerReport:
    values: dict[str, Any] = {
        "losses": dict.fromkeys(FIELDS, 2.0),
        "num_finite_steps": 5,
        "non_finite_steps": 1,
        "intake": make_intake(),
        "sent": 22,
        "received": 20,
        "lost": 1,
        "discarded": 1,
        "dropped": {"group_late": 1, "stranger_no_key": 2},
        "waits": {"groups": 0.2, "vote": 0.1},
        "peers": [make_peer("g0", 80), make_peer("g1", 40)],
        "captions": sketch(range(10)),
        "concepts": sketch(range(3)),
        "rss_bytes": 100,
        "gpu_bytes": 0,
    }
    return TrainerReport(**{**values, **changes})


def sketch(things: range) -> bytes:
    counter = DistinctCounter()
    for thing in things:
        counter.add(str(thing).encode())
    return counter.to_bytes()
