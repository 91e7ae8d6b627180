"""A whole generator rank with stand-in engines: groups, END, death and replacement, signals."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from generators.images.synthetic_renderer import SyntheticRenderer
from online_synclr.config.schema import Config
from tests.concept_banks import write_bank
from tests.generator_runs import generator_run

WAIT_S = 120.0


def stand_ins(folder: Path, **generators: Any) -> dict[str, Any]:
    return {
        "captions": {"backend": "template", "bank": str(write_bank(folder))},
        "images": {"backend": "synthetic", "send_px": 16, "per_caption": 2},
        "generators": {"backoff_s": 0.1, **generators},
        "stream": {"heartbeat_s": 0.2},
    }


def engines_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children()


def test_groups_arrive_with_recipes_that_render_them_again(tmp_path: Path) -> None:
    config = stand_ins(tmp_path)
    with generator_run(tmp_path, config) as run:
        assert run.pool.wait_for(20, WAIT_S), run.logs()
        assert run.end() == 0
        (view,) = run.receiver.peers()
    counters = view.counters
    assert view.connection == "ended"
    assert counters["groups_sent"] == len(run.pool.groups) == view.received
    assert counters["groups_rendered"] == counters["groups_sent"] + counters["groups_unsent"]
    assert counters["images_rendered"] == 2 * counters["groups_rendered"]
    assert counters["restarts"] == 0
    renderer = SyntheticRenderer(Config.model_validate(config).images)
    for group in run.pool.groups[:5]:
        assert group.recipe.image_fingerprint == renderer.fingerprint
        again = renderer.render([group.recipe])[0].group
        assert np.array_equal(again.images_mchw, group.images_mchw)


def test_a_killed_engine_is_replaced_and_never_repeats_noise(tmp_path: Path) -> None:
    with generator_run(tmp_path, stand_ins(tmp_path)) as run:
        assert run.pool.wait_for(8, WAIT_S), run.logs()
        (engine,) = engines_of(run.rank.pid)
        engine.kill()
        before = len(run.pool.groups)
        assert run.pool.wait_for(before + 30, WAIT_S), run.logs()
        assert run.end() == 0
        (view,) = run.receiver.peers()
    assert view.counters["restarts"] == 1
    assert "SIGKILL" in (view.first_error or "")
    assert {group.recipe.stream for group in run.pool.groups} == {0, 2**31}
    seeds = [seed for group in run.pool.groups for seed in group.recipe.noise_seeds()]
    assert len(set(seeds)) == len(seeds)


def test_an_engine_that_cannot_start_is_named_and_the_rank_idles(tmp_path: Path) -> None:
    config = stand_ins(tmp_path)
    config["captions"]["bank"] = str(tmp_path / "nowhere.yaml")
    with generator_run(tmp_path, config) as run:
        view = run.wait_for_peer(lambda peer: peer.state == "failed", WAIT_S)
        assert "nowhere.yaml does not exist" in (view.first_error or "")
        assert run.rank.poll() is None
        assert run.end() == 0


def test_an_engine_out_of_memory_is_replaced_and_says_what_to_lower(tmp_path: Path) -> None:
    fault = "import torch\n    if start == 0: raise torch.OutOfMemoryError('CUDA out of memory.')"
    with generator_run(tmp_path, stand_ins(tmp_path), renderer=fault) as run:
        assert run.pool.wait_for(8, WAIT_S), run.logs()
        assert run.end() == 0
        (view,) = run.receiver.peers()
    assert view.counters["restarts"] == 1
    assert {group.recipe.stream for group in run.pool.groups} == {2**31}
    (failure,) = view.failures
    assert (failure.kind, failure.stream) == ("failed", 0)
    assert "ran out of memory; lower images.batch_groups=4" in failure.message
    assert "OutOfMemoryError: CUDA out of memory." in failure.message


def test_a_crash_loop_ends_in_an_error_that_names_its_first_exception(tmp_path: Path) -> None:
    config = stand_ins(tmp_path, restarts_per_hour=2)
    fault = "raise ValueError(f'boom {start}')"
    with generator_run(tmp_path, config, renderer=fault) as run:
        view = run.wait_for_peer(lambda peer: peer.state == "failed", WAIT_S)
        view = run.wait_for_peer(lambda peer: peer.failures[-1].kind == "out", WAIT_S)
        assert run.rank.poll() is None, "a rank that exits would end the run"
        assert run.end() == 0
    assert [(end.kind, end.message) for end in view.failures] == [
        ("failed", "ValueError: boom 0"),
        ("failed", "ValueError: boom 1"),
        ("failed", "ValueError: boom 2"),
        ("out", "ValueError: boom 0; at last: ValueError: boom 2"),
    ]


def test_an_engine_whose_pictures_are_all_refused_does_not_spin(tmp_path: Path) -> None:
    config = stand_ins(tmp_path, restarts_per_hour=0)
    fault = "from dataclasses import replace; return [replace(one, finite=False) for one in "
    with generator_run(tmp_path, config, renderer=f"{fault}render(self, recipes)]") as run:
        view = run.wait_for_peer(lambda peer: peer.state == "failed", WAIT_S)
        assert run.end() == 0
    assert view.counters["gated/non_finite"] == view.counters["groups_rendered"] == 32
    assert "32 of them for 'non_finite'" in (view.first_error or "")
    assert "images.dtype" in (view.first_error or "")
    assert run.pool.groups == []


def test_an_engine_that_stands_still_is_replaced(tmp_path: Path) -> None:
    config = stand_ins(tmp_path, stall_s=6.0)
    fault = "import threading\n    if start == 0: threading.Event().wait()"
    with generator_run(tmp_path, config, renderer=fault) as run:
        assert run.pool.wait_for(4, WAIT_S), run.logs()
        assert run.end() == 0
        (view,) = run.receiver.peers()
    assert "no progress for 6 s (generators.stall_s)" in view.failures[0].message
    assert view.counters["restarts"] >= 1


def test_an_engine_ended_by_a_signal_of_its_own_is_replaced(tmp_path: Path) -> None:
    with generator_run(tmp_path, stand_ins(tmp_path)) as run:
        assert run.pool.wait_for(4, WAIT_S), run.logs()
        (engine,) = engines_of(run.rank.pid)
        engine.terminate()
        engine.wait(60)
        before = len(run.pool.groups)
        assert run.pool.wait_for(before + 8, WAIT_S), run.logs()
        assert run.end() == 0
        (view,) = run.receiver.peers()
    assert view.counters["restarts"] == 1
    assert view.failures == (), "it said BYE"


def test_a_signal_ends_rank_and_engine_in_order(tmp_path: Path) -> None:
    with generator_run(tmp_path, stand_ins(tmp_path)) as run:
        assert run.pool.wait_for(4, WAIT_S), run.logs()
        (engine,) = engines_of(run.rank.pid)
        run.rank.send_signal(signal.SIGTERM)
        assert run.rank.wait(60) == 128 + signal.SIGTERM
        assert not engine.is_running()
        (view,) = run.receiver.peers()
    assert view.connection == "ended"
    assert view.sent == view.received
