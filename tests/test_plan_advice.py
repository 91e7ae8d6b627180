"""The advice of a live run: the planner's model over what the run has measured itself."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from online_synclr.config import Config, ConfigError
from online_synclr.monitor import metrics
from online_synclr.monitor.console_state import ConsoleState
from online_synclr.monitor.hints import diagnose
from online_synclr.monitor.monitor import Monitor
from online_synclr.monitor.roles import RunRoles
from online_synclr.monitor.summary import Summary
from online_synclr.planning.advice import RunShape, advise
from online_synclr.planning.finished import rates_of_run
from tests.report_helpers import SUMMARY

CONFIG = Config.model_validate(
    {
        "trainer": {"batch_groups": 24, "steps": 100},
        "pool": {"samples_per_insert": 2.0, "max_reuse": 2},
        "images": {"per_caption": 4},
        "monitor": {"tensorboard": False},
    }
)


def roles(generators: int, trainers: int, hosts: int = 1, devices: str = "cpu") -> RunRoles:
    count = generators + trainers
    names = [devices if devices == "cpu" else f"cuda:{i % int(devices)}" for i in range(count)]
    return RunRoles(
        generators=tuple(f"g{i}" for i in range(generators)),
        num_trainers=trainers,
        hosts=tuple(f"node-{i}" for i in range(hosts)),
        trainer_devices=tuple(names[:trainers]),
        generator_devices=tuple(names[trainers:]),
    )


def scalars(
    steps_per_s: float, images_per_s: float, *, groups: float = 0.0, credits: float = 0.0
) -> dict[str, float]:
    return {
        metrics.WAIT_GROUPS: groups,
        metrics.WAIT_CREDITS: credits,
        metrics.WAIT_VOTE: 0.0,
        metrics.WAIT_CAPTIONS: 0.0,
        metrics.LOSS_TOTAL: 1.0,
        metrics.CAPACITY_STEPS: steps_per_s,
        metrics.CAPACITY_GENERATOR: images_per_s,
        metrics.CAPACITY_RENDERER: images_per_s,
    }


def test_a_split_that_does_more_is_named_with_its_gain() -> None:
    """Four trainers do 1 step/s; four generators of 1.5 groups/s feed 0.5. Five + three: 0.625;
    six + two: 0.5 by their trainers."""
    shape = RunShape.of(CONFIG, roles(4, 4))
    assert shape.trainer_counts == (1, 2, 3, 4, 6)
    advice = advise(scalars(1.0, 6.0), shape)
    assert advice is not None
    assert (advice.split, advice.gain) == ("5+3", pytest.approx(1.25))
    assert advice.text == "5+3 (generators + trainers) would reach 1.2x"


def test_nothing_is_said_of_less_than_five_per_cent() -> None:
    """Four trainers do exactly what four generators feed, nearly: 0.52 of 0.5."""
    shape = RunShape.of(CONFIG, roles(4, 4))
    assert advise(scalars(0.52, 6.0), shape) is None
    assert advise({}, shape) is None, "nothing is known yet"


def test_reuse_is_advised_as_far_as_the_settings_allow() -> None:
    pool = CONFIG.pool.model_copy(update={"max_reuse": 3})
    shape = RunShape.of(CONFIG.model_copy(update={"pool": pool}), roles(1, 1))
    short = advise(scalars(1.0, 12.0), shape)
    assert short is not None
    assert short.text == "pool.samples_per_insert=3 would reach 1.5x", "8 would be needed"
    ample = advise(scalars(0.1, 8.0), shape)
    assert ample is not None
    words = "pool.samples_per_insert=1.2 would train on 1.7x the captions at the same pace"
    assert ample.text == words
    adaptive = pool.model_copy(update={"adaptive_reuse": True})
    shape = RunShape.of(CONFIG.model_copy(update={"pool": adaptive}), roles(1, 1))
    assert advise(scalars(1.0, 12.0), shape) is None, "it is done already"


def test_over_nodes_every_node_changes_alike() -> None:
    shape = RunShape.of(CONFIG, roles(8, 8, hosts=2))
    assert shape.trainer_counts == (2, 4, 6, 8, 12)
    advice = advise(scalars(2.0, 6.0), shape)
    assert advice is not None
    assert advice.text.startswith("5+3 (generators + trainers on each node) would reach")


def test_ranks_on_one_gpu_are_not_told_to_change_places() -> None:
    shared = RunShape.of(CONFIG, roles(4, 4, devices="4"))
    assert shared.trainer_counts == (4,)
    assert RunShape.of(CONFIG, roles(4, 4, devices="8")).trainer_counts == (1, 2, 3, 4, 6)


@pytest.mark.parametrize(
    ("waits", "words"),
    [
        ({"groups": 0.5}, ("rendering is the bottleneck", "; 5+3 (generators")),
        ({"groups": 0.1}, ("trainers wait for groups 10 %", ": 5+3 (generators")),
    ],
)
def test_the_hint_carries_it(waits: dict[str, float], words: tuple[str, ...]) -> None:
    shape = RunShape.of(CONFIG, roles(4, 4))
    hint = diagnose(scalars(1.0, 6.0, **waits), 2.0, shape)
    assert hint is not None
    for word in words:
        assert word in hint.text
    without = diagnose(scalars(1.0, 6.0, **waits), 2.0)
    assert without is not None
    assert "5+3" not in without.text
    in_turns = diagnose(scalars(1.0, 6.0, groups=0.4, credits=0.4), 2.0, shape)
    assert in_turns is not None
    assert in_turns.advice is None, "rates do not explain it"


def test_a_run_says_it_in_its_log_and_its_summary(tmp_path: Path) -> None:
    out = io.StringIO()
    monitor = Monitor(CONFIG, tmp_path, roles(4, 4), console=Console(file=out, width=200))
    values = scalars(1.0, 6.0, groups=0.5)
    monitor.log_step(1, values)
    monitor.update_console(1, values, phase="training")
    monitor.log_summary(SUMMARY)
    monitor.close()
    advice = "5+3 (generators + trainers) would reach 1.2x"
    live, closing = out.getvalue().split("30 steps in")
    assert "rendering is the bottleneck" in live
    assert advice in live
    assert f"advice     {advice}" in closing
    assert Summary.read(tmp_path / "summary.json").advice == advice
    state = ConsoleState.load(tmp_path / "console.json")
    assert state.shape == RunShape.of(CONFIG, roles(4, 4))


def test_a_summary_without_advice_says_nothing_of_it() -> None:
    assert "advice" not in SUMMARY.text(Path("runs/x"))
    assert "advice     raise it" in replace(SUMMARY, advice="raise it").text(Path("runs/x"))


def finished_run(folder: Path, *records: dict[str, float]) -> Path:
    Monitor(CONFIG, folder, roles(4, 2), console=Console(file=io.StringIO())).close()
    (folder / "config.yaml").write_text(json.dumps(CONFIG.model_dump(mode="json")))
    lines = [json.dumps({"step": 10 * i, "time_s": 0.0} | one) for i, one in enumerate(records)]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_a_finished_run_gives_the_rates(tmp_path: Path) -> None:
    values = scalars(0.5, 8.0) | {
        metrics.CAPACITY_CAPTIONS: 1.5,
        metrics.MEMORY_TRAINER: 5e9,
        metrics.MEMORY_GENERATOR: 3e9,
    }
    run = finished_run(tmp_path / "run", scalars(9.0, 9.0), values, {metrics.KNN_ACCURACY: 0.5})
    rates = rates_of_run(run)
    assert rates.generator.groups_per_s == pytest.approx(2.0)
    assert rates.generator.llm_is_slower
    assert rates.generator.rss_bytes == 3e9
    # Two trainers of 12 groups x 4 images took 2 s a step; alone, with all 24 groups, 4 s.
    assert rates.trainer.step_s(2, 48) == pytest.approx(2.0)
    assert rates.trainer.step_s(1, 96) == pytest.approx(4.0)
    assert rates.trainer.memory(1, 96) == (5e9, 0.0)
    assert "step 10" in rates.source


def test_a_run_that_was_too_short_is_one_sentence(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {metrics.LOSS_TOTAL: 1.0})
    with pytest.raises(ConfigError, match="has no capacities"):
        rates_of_run(run)
    with pytest.raises(ConfigError, match="there is no run in that folder"):
        rates_of_run(tmp_path)
