"""A trainer that keeps the shares: when generators are told, and a person's file in the run."""

from pathlib import Path

import pytest

from online_synclr.concept_shares import shares_at
from online_synclr.config import ConfigError
from online_synclr.config.schema import ShareChange
from online_synclr.stream.messages import Progress
from trainer.share_guide import TOLD_DIFFERENCE, ScheduleFile, ShareGuide

BANK = {"cars": 0.25, "pets": 0.75}
AT_TEN = (ShareChange(step=10, shares={"cars": 0.5}),)


class Told:
    """What the generators were told."""

    def __init__(self) -> None:
        self.said: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.said.append(progress)

    @property
    def steps(self) -> list[int]:
        return [progress.step for progress in self.said]


def run(guide: ShareGuide, steps: range) -> None:
    for step in steps:
        guide.after_step(step)


def test_without_changes_generators_hear_where_the_run_is_and_nothing_else() -> None:
    told = Told()
    guide = ShareGuide(BANK, (), told)
    guide.start("", 7)
    run(guide, range(8, 30))
    assert told.said == [Progress(step=7)]
    assert guide.in_force(8) == BANK


def test_a_change_is_told_once_at_its_step() -> None:
    told = Told()
    guide = ShareGuide(BANK, AT_TEN, told)
    guide.start("", 0)
    run(guide, range(1, 30))
    assert told.said == [
        Progress(step=0, shares=BANK),
        Progress(step=10, shares=guide.in_force(10)),
    ]


def test_a_resumed_run_begins_with_the_shares_of_its_step() -> None:
    told = Told()
    ShareGuide(BANK, AT_TEN, told).start("", 12)
    assert told.said == [Progress(step=12, shares={"cars": 0.5, "pets": 0.5})]


def test_a_ramp_is_told_in_small_moves_and_to_its_end() -> None:
    told = Told()
    ramp = (ShareChange(step=100, ramp_steps=1000, shares={"cars": 0.75}),)
    guide = ShareGuide(BANK, ramp, told)
    guide.start("", 0)
    run(guide, range(1, 2000))
    assert told.said[-1] == Progress(step=1100, shares=guide.in_force(1100))
    assert 45 <= len(told.said) <= 0.5 / TOLD_DIFFERENCE + 2
    for before, after in zip(told.said[1:], told.said[2:], strict=False):
        assert after.shares["cars"] - before.shares["cars"] <= 1.2 * TOLD_DIFFERENCE


def schedule_file(path: Path, said: list[str]) -> ScheduleFile:
    return ScheduleFile(path, BANK, said.append)


def test_a_file_stands_for_the_settings_until_it_is_gone(tmp_path: Path) -> None:
    path, said, told = tmp_path / "share_schedule.yaml", [], Told()
    guide = ShareGuide(BANK, AT_TEN, told, schedule_file(path, said))
    guide.start(guide.look(), 0)
    path.write_text("- {step: 0, shares: {cars: 1.0}}\n")
    guide.follow(guide.look(), 5)
    assert told.said[-1] == Progress(step=5, shares={"cars": 1.0, "pets": 0.0})
    path.unlink()
    guide.follow(guide.look(), 20)
    assert told.said[-1] == Progress(step=20, shares=shares_at(BANK, AT_TEN, 20))
    assert told.steps == [0, 5, 20]
    assert ["has changed" in said[0], "is gone" in said[1]] == [True, True]


def test_without_settings_a_file_that_goes_leaves_the_bank_alone(tmp_path: Path) -> None:
    path, told = tmp_path / "share_schedule.yaml", Told()
    path.write_text("- {step: 0, shares: {cars: 1.0}}\n")
    guide = ShareGuide(BANK, (), told, schedule_file(path, []))
    guide.start(guide.look(), 3)
    path.unlink()
    guide.follow(guide.look(), 5)
    run(guide, range(6, 9))
    assert told.said == [
        Progress(step=3, shares={"cars": 1.0, "pets": 0.0}),
        Progress(step=5, shares={}),
    ]


def test_a_wrong_edit_is_said_once_and_changes_nothing(tmp_path: Path) -> None:
    path, said, told = tmp_path / "share_schedule.yaml", [], Told()
    path.write_text("- {step: 0, shares: {cars: 1.0}}\n")
    guide = ShareGuide(BANK, (), told, schedule_file(path, said))
    guide.start(guide.look(), 0)
    path.write_text("- {step: 0, shares: {boats: 1.0}}\n")
    for step in range(1, 4):
        guide.follow(guide.look(), step)
    assert told.steps == [0]
    (line,) = said
    assert "names the source boats" in line
    assert "The shares stay as they were." in line
    path.write_text("- {step: 0, shares: {cars: 0.4}}\n")
    guide.follow(guide.look(), 4)
    assert told.said[-1] == Progress(step=4, shares={"cars": 0.4, "pets": 0.6})


def test_a_wrong_file_ends_a_start(tmp_path: Path) -> None:
    path = tmp_path / "share_schedule.yaml"
    path.write_text("- {step: 0, shares: {boats: 1.0}}\n")
    with pytest.raises(ConfigError, match=r"share_schedule\.yaml: the change at step 0 names"):
        schedule_file(path, [])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "share_schedule.yaml"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        schedule_file(path, [])


def test_a_file_that_cannot_be_read_any_more_is_said_once(tmp_path: Path) -> None:
    path, said = tmp_path / "share_schedule.yaml", []
    file = schedule_file(path, said)
    path.mkdir()
    assert [file.look() for _ in range(3)] == ["", "", ""]
    (line,) = said
    assert "cannot be read" in line


def test_all_trainers_take_the_same_steps() -> None:
    """Trainer 0's text decides on each, whatever their own settings' order of hearing."""
    text = "- {step: 4, ramp_steps: 4, shares: {cars: 0.9}}\n"
    told = [Told(), Told()]
    guides = [ShareGuide(BANK, AT_TEN, each) for each in told]
    for guide in guides:
        guide.start("", 0)
    for step in range(1, 12):
        for guide in guides:
            guide.after_step(step)
            guide.follow(text if step >= 3 else "", step)
    assert told[0].said == told[1].said
    assert told[0].said[-1].shares == pytest.approx({"cars": 0.9, "pets": 0.1})
