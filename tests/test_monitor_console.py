"""The console on a terminal and in a log file."""

import io
from dataclasses import replace

from rich.console import Console

from online_synclr.monitor import formats, metrics
from online_synclr.monitor.console import RunConsole
from online_synclr.monitor.console_state import ConsoleState, Event, GeneratorLine
from online_synclr.monitor.console_view import describe_side, draw, plain_line
from tests.monitor_helpers import make_roles

TRAINING = {
    metrics.LOSS_TOTAL: 5.1234,
    metrics.GENERATOR_IMAGES: 410.0,
    metrics.GENERATOR_CAPTIONS: 100.0,
    metrics.TRAINER_UNIQUE_IMAGES: 400.0,
    metrics.TRAINER_IMAGE_USES: 800.0,
    metrics.TRAINER_STEPS: 0.5,
    metrics.WAIT_GROUPS: 0.4,
    metrics.WAIT_CREDITS: 0.02,
    metrics.POOL_GROUPS: 900.0,
    metrics.POOL_BYTES: 4.03e8,
    metrics.POOL_REUSE: 2.0,
    metrics.of_generator("gen-0", "share"): 0.55,
}


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make_state(synthetic: tuple[str, ...] = ()) -> ConsoleState:
    return ConsoleState(run_dir="runs/x [1]", roles=make_roles(synthetic), total_steps=1000)


def rendered(state: ConsoleState) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(draw(state))
    return console.export_text()


def test_before_the_first_step_it_says_what_is_loading() -> None:
    state = replace(
        make_state(),
        phase="loading the backbone",
        elapsed_s=75.0,
        generators=(
            GeneratorLine(generator="gen-0", state="loading"),
            GeneratorLine(generator="gen-1", state="failed", error="out of memory"),
        ),
    )
    text = rendered(state)
    for words in ("loading the backbone … 0:01:15", "1 loading, 1 failed", "out of memory"):
        assert words in text
    line = plain_line(state)
    assert line == "[0:01:15] loading the backbone; generators: 1 loading, 1 failed"


def test_the_first_steps_are_shown_before_their_metrics_are() -> None:
    state = replace(make_state(), step=3, phase="training")
    assert "step 3 / 1000" in rendered(state)
    assert plain_line(state).startswith("[0:00:00] step 3/1000; training; generators: none")


def test_an_engine_that_runs_again_is_well() -> None:
    line = GeneratorLine(generator="gen-0", state="running", error="out of memory")
    assert "out of memory" not in rendered(replace(make_state(), generators=(line,)))


def test_rates_are_those_of_generators_that_are_here() -> None:
    line = GeneratorLine(generator="gen-0", state="ended", images=5000, connected=False)
    state = replace(make_state(), scalars=TRAINING)
    assert "55 %" in rendered(replace(state, generators=(replace(line, connected=True),)))
    text = rendered(replace(state, generators=(line,)))
    assert "5 000" in text
    assert "55 %" not in text


def test_while_training_both_sides_and_the_advice_are_there() -> None:
    state = replace(
        make_state(("images.backend=synthetic",)),
        step=250,
        phase="training",
        scalars=TRAINING,
        generators=(GeneratorLine(generator="gen-0", state="running", images=5000),),
        knn_first=0.2,
        knn_last=0.5,
        events=(Event(61.0, "gen-1 died"),),
    )
    text = rendered(state)
    for words in (
        "SYNTHETIC ENGINES",
        "runs/x [1]",
        "2 generators on cuda:1, cuda:2",
        "1 trainer on cuda:0",
        "step 250 / 1000",
        "0:25:00 left",
        "400 new, 800 with reuse",
        "credits 2 %",
        "groups 40 %",
        "55 %",
        "reuse 2 (set 2)",
        "403 MB",
        "kNN 20.0 % → 50.0 %",
        "add a generator",
        "0:01:01  gen-1 died",
    ):
        assert words in text


def test_many_generators_are_counted_not_listed() -> None:
    lines = tuple(GeneratorLine(generator=f"g{i}", state="running") for i in range(64))
    assert "64 running" in rendered(replace(make_state(), generators=lines))
    devices = [f"cuda:{i}" for i in range(64)]
    assert describe_side(64, "generator", devices) == "64 generators on cuda:0-63"


def test_without_a_terminal_it_prints_a_plain_line_now_and_then() -> None:
    clock, out = FakeClock(), io.StringIO()
    state = make_state(("captions.backend=template",))
    console = RunConsole(state, every_s=2.0, console=Console(file=out, width=40), clock=clock)
    for step in range(1, 21):
        clock.now_s = float(step)
        console.update(step, TRAINING, phase="training")
    console.event("gen-1 died")
    console.close()
    lines = out.getvalue().splitlines()
    assert "SYNTHETIC ENGINES" in lines[0]
    assert lines[1] == "2 generators on cuda:1, cuda:2; 1 trainer on cuda:0"
    assert "tensorboard --logdir runs/x [1]/tb" in lines[2]
    assert "waits groups 40 % credits 2 %" in lines[3]
    steps = [line.split()[2] for line in lines if " step " in line]
    assert steps == ["1/1000", "11/1000"]
    advice = [line for line in lines if "add a generator" in line]
    assert advice == [lines[4]], "advice that has not changed is given once"
    assert lines[-1] == "[0:00:20] ! gen-1 died"


def test_on_a_terminal_the_last_picture_stays_and_the_closing_words_follow() -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=120, height=50)
    console = RunConsole(make_state(), every_s=1000.0, console=terminal)
    console.update(250, {**TRAINING, metrics.KNN_ACCURACY: 0.25}, phase="training")
    console.update(300, {metrics.KNN_ACCURACY: 0.5})
    console.close()
    console.print("done")
    assert console.state.knn == "25.0 % → 50.0 %"
    assert "step 300 / 1000" in out.getvalue()
    assert out.getvalue().rstrip().endswith("done")


def test_what_cannot_be_drawn_does_not_end_the_console() -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=120, height=50)
    console = RunConsole(make_state(), every_s=1000.0, console=terminal)
    console.update(1, {metrics.LOSS_TOTAL: "broken"})  # type: ignore[dict-item]
    console.close()
    assert "cannot draw" in out.getvalue()


def test_numbers_are_written_for_people() -> None:
    assert [formats.number(v) for v in (0.1234, 1.234, 12.34, 5.0, 12345.6, None)] == [
        "0.123",
        "1.23",
        "12.3",
        "5",
        "12 346",
        "–",
    ]
    assert formats.duration(90061) == "1 d 1:01:01"
    assert formats.num_bytes(41e9) == "41 GB"
    assert formats.percent(float("nan")) == "–"
