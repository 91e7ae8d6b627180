"""Who waits for whom, from the waits alone."""

import pytest

from online_synclr.monitor import metrics
from online_synclr.monitor.hints import diagnose


def waits(
    groups: float, credits: float, captions: float = 0.0, vote: float = 0.0
) -> dict[str, float]:
    return {
        metrics.WAIT_GROUPS: groups,
        metrics.WAIT_CREDITS: credits,
        metrics.WAIT_CAPTIONS: captions,
        metrics.WAIT_VOTE: vote,
    }


@pytest.mark.parametrize(
    ("scalars", "bottleneck", "words"),
    [
        (waits(0.4, 0.0), "rendering", ("groups 40 %", "add a generator", "images.steps")),
        (waits(0.4, 0.0, captions=0.5), "captions", ("captions 50 %", "the LLM")),
        (
            waits(0.4, 0.0, captions=0.5) | {metrics.CAPTIONS_REJECTED_SHARE: 0.7},
            "captions",
            ("70 % of its captions are refused",),
        ),
        (
            waits(0.4, 0.0) | {metrics.GROUPS_REJECTED_SHARE: 0.25},
            "rendering",
            ("25 % of its groups are refused",),
        ),
        (waits(0.02, 0.62), "training", ("credits 62 %", "fewer generators")),
        (waits(0.3, 0.3), "hand-over", ("in turns", "pool.error_buffer")),
        (waits(0.02, 0.02, vote=0.3), "one trainer", ("each other 30 %",)),
        (waits(0.2, 0.02, vote=0.3), "one trainer", ("each other 30 %",)),
        (waits(0.1, 0.1), "none", ("fits",)),
    ],
)
def test_the_largest_wait_is_explained(
    scalars: dict[str, float], bottleneck: str, words: tuple[str, ...]
) -> None:
    hint = diagnose(scalars)
    assert hint is not None
    assert hint.bottleneck == bottleneck
    for word in words:
        assert word in hint.text


def test_nothing_is_said_before_a_wait_is_known() -> None:
    assert diagnose({}) is None
    assert diagnose({metrics.WAIT_GROUPS: 0.5}) is None


def test_reuse_is_not_advised_where_it_is_spent() -> None:
    scalars = {**waits(0.5, 0.0), metrics.POOL_REUSE: 4.0}
    spent, free = diagnose(scalars, max_reuse=4.0), diagnose(scalars, max_reuse=8.0)
    assert spent is not None
    assert free is not None
    assert "pool.max_reuse" in spent.text
    assert "pool.samples_per_insert" in free.text
