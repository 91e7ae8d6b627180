"""The summary: identities, JSON, closing words."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from online_synclr.monitor.monitor import Monitor
from online_synclr.monitor.summary import Summary
from tests.monitor_helpers import make_config, make_roles
from tests.report_helpers import SUMMARY


def test_what_was_dropped_is_told_most_first() -> None:
    assert "dropped" not in SUMMARY.text(Path("runs/x"))
    dropped = replace(SUMMARY, dropped={"group_late": 1, "stranger_no_key": 2})
    assert "dropped    3 (stranger_no_key 2, group_late 1)" in dropped.text(Path("runs/x"))


def test_what_generators_refused_is_told_with_shares() -> None:
    assert "refused" not in SUMMARY.text(Path("runs/x"))
    counts = {
        "captions_accepted": 75,
        "captions_rejected": {"empty": 5, "repeated": 20},
        "groups_rendered": 50,
        "groups_gated": {"low_contrast": 1},
    }
    refused = replace(SUMMARY, **counts)  # type: ignore[arg-type]
    words = "25 % of the captions (repeated 20, empty 5); 2 % of the groups (low_contrast 1)"
    assert f"refused    {words}" in refused.text(Path("runs/x"))


def test_a_sound_summary_adds_up() -> None:
    assert SUMMARY.check_identities() == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("groups_sent", 106, "groups sent (106)"),
        ("groups_lost", 3, "received + lost + discarded (104)"),
        ("groups_left", 14, "trained + evicted unused + left (99)"),
        ("group_uses", 79, "group uses (79)"),
        ("distinct_captions", 101, "distinct captions (101)"),
        ("wall_s", -1.0, "wall_s is negative"),
    ],
)
def test_what_does_not_add_up_is_named(field: str, value: float, words: str) -> None:
    broken = replace(SUMMARY, **{field: value})  # type: ignore[arg-type]
    assert any(words in sentence for sentence in broken.check_identities())
    assert "DOES NOT ADD UP" in broken.text(Path("runs/x"))


def test_the_file_reads_back_equal_and_names_violations(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    SUMMARY.write(path)
    assert Summary.read(path) == SUMMARY
    assert json.loads(path.read_text(encoding="utf-8"))["violations"] == []


def test_a_summary_of_another_version_is_one_sentence_or_read(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    SUMMARY.write(path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(fields | {"from_the_future": 1}))
    assert Summary.read(path) == SUMMARY
    without = {name: value for name, value in fields.items() if name != "groups_trained"}
    for text in (json.dumps(without), json.dumps(fields | {"steps": "x"}), "{", "[]", "\udcff"):
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"summary\.json is damaged or of another") as caught:
            Summary.read(path)
        assert "\n" not in str(caught.value)


def test_the_closing_words_tell_the_run() -> None:
    text = SUMMARY.text(Path("runs/x"))
    for words in (
        "30 steps in 0:01:01",
        "79 distinct",
        "420 images rendered",
        "generators 12.5, trainers 12 new and 24 with reuse",
        "trainers 39 % for groups, 1 % for vote; generators 2 % for credits",
        "21.0 % before, 56.0 % after",
        "tensorboard --logdir runs/x/tb",
    ):
        assert words in text
    assert "SYNTHETIC" not in text


def test_the_monitor_writes_says_and_never_forgets_synthetic_engines(tmp_path: Path) -> None:
    out = io.StringIO()
    roles = make_roles(("images.backend=synthetic",))
    monitor = Monitor(make_config(), tmp_path, roles, console=Console(file=out, width=60))
    monitor.log_summary(SUMMARY)
    monitor.close()
    assert Summary.read(tmp_path / "summary.json").synthetic_parts == ["images.backend=synthetic"]
    assert "SYNTHETIC ENGINES, not a real run: images.backend=synthetic" in out.getvalue()
    assert "30 steps in 0:01:01" in out.getvalue()
