"""The alarm about refusals: a sliding window judged against plain lists, onsets, returns, words."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_synclr.config import Config
from online_synclr.monitor.refusal_watch import (
    GROUPS_WINDOW,
    MAX_LINES,
    SLICES,
    RecentVerdicts,
    RefusalAlarm,
    RefusalWatch,
    Tally,
)

SIZE = 64
VERDICTS = st.sampled_from([None, "low_contrast", "identical"])
RUNS = st.lists(st.tuples(VERDICTS, st.integers(0, 50)), max_size=40)
"""Stretches of equal verdicts; each is noted at once."""


def tally_of(verdicts: list[str | None]) -> Tally:
    refused = Counter(verdict for verdict in verdicts if verdict is not None)
    return Tally(len(verdicts), dict(refused))


@settings(deadline=None)
@given(RUNS)
def test_the_window_is_the_last_verdicts_or_a_few_more(runs: list[tuple[str | None, int]]) -> None:
    recent, verdicts, longest = RecentVerdicts(SIZE), list[str | None](), 0
    for verdict, length in runs:
        verdicts += [verdict] * length
        longest = max(longest, length)
        recent.note(tally_of(verdicts))
        shown = recent.tally
        assert shown.judged <= len(verdicts)
        assert shown.judged >= min(SIZE, len(verdicts))
        assert shown.judged < SIZE + SIZE // SLICES + longest
        assert shown == tally_of(verdicts[len(verdicts) - shown.judged :])
        assert recent.trusted == (shown.judged >= SIZE // 4)
        assert len(recent._marks) <= SLICES + 2


@settings(deadline=None)
@given(RUNS, st.sampled_from([0.1, 0.3, 0.6]))
def test_an_alarm_is_said_at_each_onset_and_never_twice(
    runs: list[tuple[str | None, int]], limit: float
) -> None:
    alarm = RefusalAlarm("groups", setting="images.x", limit=limit, size=SIZE)
    verdicts: list[str | None] = []
    said: list[bool] = []
    for verdict, length in runs:
        verdicts += [verdict] * length
        lines = alarm.note({"g0": tally_of(verdicts)})
        assert len(lines) <= 1
        share = alarm.share(["g0"])
        over = said[-1] if said else False
        if lines:
            assert lines[0].startswith("QUALITY" if not over else "quality")
            assert share > limit if not over else share <= limit
            said.append(not over)
        elif len(verdicts) >= SIZE:
            assert over or share <= limit
            assert not over or share > 0.8 * limit
    assert all(first != second for first, second in pairwise(said))


def test_what_goes_bad_late_is_noticed_and_so_is_its_return() -> None:
    alarm = RefusalAlarm("groups", setting="images.max_rejected_share", limit=0.2, size=SIZE)
    said: dict[int, str] = {}
    judged = refused = 0
    for step in range(100_000, 100_400):
        judged += 2
        refused += 2 * (100_100 <= step < 100_150 or step >= 100_300)
        for line in alarm.note({"g1": Tally(100_000 + judged, {"non_finite": refused})}):
            said[step] = line
    bad, good, again = said
    assert 100_100 <= bad < 100_110
    assert 100_150 < good < 100_190
    assert 100_300 <= again < 100_310
    assert "groups of g1 were refused, 100 % of those for 'non_finite'" in said[bad]
    assert "images.dtype" in said[bad]
    assert "images.max_rejected_share=0.2" in said[bad]
    assert "pass again" in said[good]


def test_one_broken_generator_among_many_is_named() -> None:
    alarm = RefusalAlarm("captions", setting="x", limit=0.5, size=SIZE)
    fine = {f"g{index}": Tally(SIZE, {"repeated": 2}) for index in range(20)}
    (line,) = alarm.note({**fine, "g7": Tally(SIZE, {"empty": SIZE})})
    assert " g7 " in line
    assert "g1" not in line
    assert alarm.share(fine) < 0.5
    assert alarm.note({**fine, "g7": Tally(SIZE, {"empty": SIZE})}) == []


def test_many_at_once_are_one_line() -> None:
    alarm = RefusalAlarm("captions", setting="x", limit=0.5, size=SIZE)
    (line,) = alarm.note({f"g{index}": Tally(SIZE, {"empty": SIZE}) for index in range(20)})
    assert "g0, g1, g2, g3, g4, g5, g6, g7 and 12 more" in line


def test_few_verdicts_say_nothing_and_one_means_never() -> None:
    alarm = RefusalAlarm("captions", setting="x", limit=0.5, size=SIZE)
    few = SIZE // 4 - 1
    assert alarm.note({"g0": Tally(few, {"empty": few})}) == []
    never = RefusalAlarm("captions", setting="x", limit=1.0, size=SIZE)
    assert never.note({"g0": Tally(SIZE, {"empty": SIZE})}) == []


def test_one_who_knows_less_changes_nothing() -> None:
    """Trainers hear of a generator's counters at different moments."""
    recent = RecentVerdicts(SIZE)
    recent.note(Tally(10 * SIZE, {"empty": 9 * SIZE}))
    recent.note(Tally(11 * SIZE, {"empty": 9 * SIZE}))
    recent.note(Tally(11 * SIZE - 8, {"empty": 9 * SIZE}))
    recent.note(Tally(12 * SIZE, {"empty": 9 * SIZE}))
    assert recent.tally.share == 0.0


def test_a_generator_met_late_is_judged_by_what_it_does_from_then_on() -> None:
    recent = RecentVerdicts(SIZE)
    recent.note(Tally(10_000, {"empty": 9_000}))
    assert not recent.trusted
    recent.note(Tally(10_100, {"empty": 9_000}))
    assert recent.tally == Tally(100, {})


@pytest.mark.parametrize(
    ("judged", "prefix", "words"),
    [
        ("groups_rendered", "gated/low_contrast", "images.safety_checker"),
        ("captions_written", "rejected/concept_missing", "captions.filter.require_concept"),
    ],
)
def test_the_watch_reads_the_counters_of_status(judged: str, prefix: str, words: str) -> None:
    watch = RefusalWatch(Config())
    counters = {judged: 200.0, prefix: 200.0, "elapsed_s": 9.0}
    watch.note({"g0": counters})
    watch.note({"g0": counters})
    (line,) = watch.take_lines()
    assert words in line
    assert watch.take_lines() == []
    assert watch.lines == [line]
    shares = watch.captions_share(["g0"]), watch.groups_share(["g0"])
    assert sorted(shares) == [0.0, 1.0]
    assert watch.captions_share(["another"]) == 0.0


def test_lines_kept_for_the_summary_are_bounded() -> None:
    watch = RefusalWatch(Config())
    rendered = gated = 0
    watch.note({"g0": {}})
    for _ in range(MAX_LINES):
        for bad in (1, 0):
            rendered += 2 * GROUPS_WINDOW
            gated += 2 * GROUPS_WINDOW * bad
            watch.note({"g0": {"groups_rendered": rendered, "gated/identical": gated}})
    assert len(watch.take_lines()) == 2 * MAX_LINES
    assert len(watch.lines) == MAX_LINES
