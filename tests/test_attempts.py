"""The list of a run's attempts: durable, torn lines passed over."""

from pathlib import Path

from online_synclr.attempts import Attempt, Attempts, note_attempt, read_attempts
from online_synclr.monitor.jsonl import JsonlLog, last_step


def attempt(incarnation: int, thrown_away_steps: int = 0) -> Attempt:
    return Attempt(
        incarnation=incarnation,
        time_s=1.0,
        start_step=10,
        thrown_away_steps=thrown_away_steps,
        num_trainers=2,
        num_generators=1,
    )


def test_attempts_are_kept_and_added_up(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    assert note_attempt(path, attempt(1)) == Attempts(incarnation=1)
    assert note_attempt(path, attempt(2, 7)) == Attempts(
        attempts=2, thrown_away_steps=7, incarnation=2
    )
    assert note_attempt(path, attempt(3, 4)) == Attempts(
        attempts=3, thrown_away_steps=11, incarnation=3
    )
    assert list(read_attempts(path)) == [attempt(1), attempt(2, 7), attempt(3, 4)]


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    note_attempt(path, attempt(1))
    with path.open("ab") as handle:
        handle.write(b'{"incarnation": 2, "ti')
    assert note_attempt(path, attempt(3, 5)) == Attempts(
        attempts=2, thrown_away_steps=5, incarnation=3
    )
    assert list(read_attempts(path)) == [attempt(1), attempt(3, 5)]


def test_how_far_an_attempt_had_come(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) == 0
    log = JsonlLog(path)
    assert last_step(path) == 0
    for step in (1, 2, 30):
        log.append(step, 0.0, {"loss/total": 1.0})
    log.close()
    with path.open("ab") as handle:
        handle.write(b'{"step": 31, "loss')
    assert last_step(path) == 30
