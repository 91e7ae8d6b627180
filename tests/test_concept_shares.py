"""Shares of the concept sources by step: what a schedule means, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from generators.concepts import ConceptBank, ConceptStream
from online_synclr.concept_shares import (
    bank_shares,
    check_changes,
    largest_difference,
    parse_changes,
    shares_at,
)
from online_synclr.config import ConfigError
from online_synclr.config.checks import check
from online_synclr.config.load import load_config, resolved_yaml
from online_synclr.config.schema import ShareChange
from online_synclr.paths import CONFIGS_DIR
from tests.concept_banks import SOURCES, write_bank

BANK = {"animals": 0.6, "cars": 0.1, "scenes": 0.3}


def change(step: int, ramp_steps: int = 0, **shares: float) -> ShareChange:
    return ShareChange(step=step, ramp_steps=ramp_steps, shares=shares)


def test_a_banks_shares_are_read_and_add_up_to_one(tmp_path: Path) -> None:
    doubled = {name: {**entry, "share": 2 * BANK[name]} for name, entry in SOURCES.items()}
    assert bank_shares(write_bank(tmp_path)) == pytest.approx(BANK)
    assert bank_shares(write_bank(tmp_path, sources=doubled)) == pytest.approx(BANK)
    shipped = CONFIGS_DIR / "concepts" / "paper.yaml"
    sources = ConceptBank.load(shipped).sources
    assert list(bank_shares(shipped)) == [source.name for source in sources]


def test_what_is_named_is_exact_and_the_rest_keeps_its_proportions() -> None:
    changes = [change(10, cars=0.4), change(20, scenes=1.0), change(30)]
    assert shares_at(BANK, changes, 9) == BANK
    assert shares_at(BANK, changes, 10) == pytest.approx(
        {"animals": 0.4, "cars": 0.4, "scenes": 0.2}
    )
    assert shares_at(BANK, changes, 29) == {"animals": 0.0, "cars": 0.0, "scenes": 1.0}
    assert shares_at(BANK, changes, 30) == pytest.approx(BANK)


def test_a_ramp_is_a_straight_line_from_what_was_in_force() -> None:
    changes = [change(0, cars=0.5, animals=0.5), change(10, 20, animals=0.1, cars=0.1)]
    assert shares_at(BANK, changes, 10)["cars"] == pytest.approx(0.5)
    assert shares_at(BANK, changes, 15)["cars"] == pytest.approx(0.4)
    assert shares_at(BANK, changes, 15)["scenes"] == pytest.approx(0.2)
    assert shares_at(BANK, changes, 30)["cars"] == pytest.approx(0.1)
    assert shares_at(BANK, changes, 10**6)["scenes"] == pytest.approx(0.8)
    for step in range(40):
        assert sum(shares_at(BANK, changes, step).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([change(5, cars=0.1), change(5, cars=0.2)], "put them in order"),
        ([change(5, cars=0.1), change(4, cars=0.2)], "put them in order"),
        ([change(5, 10, cars=0.1), change(14, cars=0.2)], "takes until step 15"),
        ([change(5, cats=0.1)], "names the source cats, but captions.bank has animals, cars, sc"),
        ([change(5, cars=0.7, animals=0.4)], "gives out 1.1"),
        ([change(5, cars=0.2, animals=0.2, scenes=0.2)], "shares add up to 1."),
    ],
)
def test_changes_that_cannot_be_followed_are_refused(
    changes: list[ShareChange], words: str
) -> None:
    with pytest.raises(ConfigError, match=r"^captions\.share_schedule: ") as refused:
        check_changes(BANK, changes)
    assert words in str(refused.value)


def test_more_sources_than_a_message_holds_are_refused() -> None:
    bank = {f"source {number}": 1 / 257 for number in range(257)}
    check_changes(bank, [])
    with pytest.raises(ConfigError, match="at most 256 sources"):
        check_changes(bank, [change(5)])


@pytest.mark.parametrize(
    "text", ["cars: 0.5", "- {shares: {cars: 2}, step: 1}", "- {step: 1}", "[", "- 3", "\0"]
)
def test_a_text_that_is_no_schedule_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^my\.yaml is no list of changes .*write them as `- {"):
        parse_changes(text, "my.yaml")


def test_a_schedule_as_text() -> None:
    text = "- {step: 3, shares: {cars: 0.2}}\n- {step: 5, ramp_steps: 2, shares: {}}\n"
    assert parse_changes(text, "") == (change(3, cars=0.2), change(5, 2))
    assert parse_changes("# nothing yet\n", "") == ()


def test_a_setting_is_off_by_default_checked_and_saved(tmp_path: Path) -> None:
    demo = CONFIGS_DIR / "demo.yaml"
    own = [f"run.dir={tmp_path / 'run'}", f"captions.bank={write_bank(tmp_path)}"]
    assert load_config(demo, own).captions.share_schedule == ()
    good = load_config(demo, [*own, "captions.share_schedule=[{step: 9, shares: {cars: 0.3}}]"])
    check(good)
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved_yaml(good))
    assert load_config(saved).captions.share_schedule == (change(9, cars=0.3),)
    for wrong in ("[{step: 9, shares: {cats: 0.3}}]", "[{step: 9, shares: {cars: 1.3}}]"):
        with pytest.raises(ConfigError, match=r"^captions\.share_schedule"):
            check(load_config(demo, [*own, f"captions.share_schedule={wrong}"]))


def test_a_bank_without_readable_shares_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bank.yaml"
    for content in ({"sources": ["a"]}, {"sources": {"a": {}}}, {"sources": {"a": {"share": -1}}}):
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(ConfigError, match=r"^captions\.bank: .*bank\.yaml"):
            bank_shares(path)


def test_draws_follow_the_shares_they_are_given(tmp_path: Path) -> None:
    stream = ConceptStream(ConceptBank.load(write_bank(tmp_path)), 0, 1, 0)
    shares = {"cars": 0.5, "scenes": 0.5, "animals": 0.0}
    counts = Counter(stream.draw(number, shares).concept.source for number in range(2000))
    assert set(counts) == {"cars", "scenes"}
    assert abs(counts["cars"] / 2000 - 0.5) < 0.06  # 5 standard deviations; and draws are fixed
    assert stream.draw(7, shares) == stream.draw(7, dict(shares))


@pytest.mark.parametrize("shares", [{}, {"unknown": 1.0}, {"cars": 0.0}])
def test_shares_that_leave_nothing_of_a_bank_are_the_banks(
    tmp_path: Path, shares: dict[str, float]
) -> None:
    stream = ConceptStream(ConceptBank.load(write_bank(tmp_path)), 0, 1, 0)
    assert [stream.draw(n, shares) for n in range(50)] == [stream.draw(n) for n in range(50)]


def test_the_largest_difference_counts_missing_names_as_nothing() -> None:
    assert largest_difference({"a": 0.5, "b": 0.5}, {"a": 1.0}) == 0.5
    assert largest_difference({}, {}) == 0.0
