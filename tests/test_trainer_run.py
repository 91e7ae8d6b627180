"""A whole trainer in this process, fed over the real stream by a generator that is a thread."""

import itertools
import json
import math
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist

from online_synclr.config import Config, ConfigError
from online_synclr.monitor.summary import Summary
from online_synclr.rendezvous import Rendezvous
from online_synclr.stream.errors import StreamError
from online_synclr.stream.group import Group
from online_synclr.stream.messages import Hello
from online_synclr.stream.receiver import Receiver
from online_synclr.stream.ring_memory import TrainerRing
from online_synclr.stream.sender import Sender
from online_synclr.topology import Member, RankEnv, Roster
from tests.full_disk import files_end_at
from tests.tiny_objective import tiny_config
from tests.tiny_step import ALONE, SIDE_PX, tiny_group
from trainer import checkpoint_files
from trainer.assembly import build_step
from trainer.distributed import check_own_gpus
from trainer.main import run_trainer
from trainer.objective.objective import LossParts, Objective
from trainer.role import TrainerRole

GROUPS_FOR_EVER = 10**9


def make_config(run_dir: Path, steps: int, **sections: dict[str, Any]) -> Config:
    config = tiny_config(steps=steps, checkpoint={"every_steps": 2, "keep": 2})
    updates: dict[str, dict[str, Any]] = {
        "run": {"dir": run_dir},
        "images": {"send_px": SIDE_PX, "render_px": SIDE_PX},
        "stream": {"heartbeat_s": 0.2},
        "generators": {"goodbye_s": 10.0},
        "monitor": {"knn_folder": "", "log_every_steps": 1, "samples_every_steps": 0},
    }
    for name, values in {**updates, **sections}.items():
        section = getattr(config, name).model_copy(update={**updates.get(name, {}), **values})
        config = config.model_copy(update={name: section})
    return config


def make_role(run_dir: Path, incarnation: int = 1) -> TrainerRole:
    members = [
        Member(rank=rank, local_rank=rank, node=0, host="here", role=role, gpu=None)
        for rank, role in enumerate(("trainer", "generator"))
    ]
    env = RankEnv.from_environ({"RANK": "0", "WORLD_SIZE": "2"})
    run_dir.mkdir(exist_ok=True)
    return TrainerRole(
        run_id="run-1",
        run_dir=run_dir,
        incarnation=incarnation,
        trainer_index=0,
        roster=Roster(members),
        gpu=None,
        cpu_threads=1,
        rendezvous=Rendezvous(dist.HashStore(), env, timeout_s=60),
        attempt=0,
        launch_time=time.time(),
    )


class ThreadGenerator:
    """Sends random groups until END; after `most` groups it fails with `error`, or with `stalls`
    sends nothing but heartbeats."""

    def __init__(
        self,
        config: Config,
        role: TrainerRole,
        *,
        most: int = GROUPS_FOR_EVER,
        error: str = "",
        stalls: bool = False,
    ) -> None:
        self._config = config
        self._role = role
        self._most = most
        self._error = error
        self._stalls = stalls
        self.sent = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        (address,) = self._role.rendezvous.await_addresses(1)
        shape = (self._config.images.per_caption, 3, SIDE_PX, SIDE_PX)
        hello = Hello(
            run_id=self._role.run_id,
            generator_id="g0",
            role="engine",
            incarnation=self._role.incarnation,
            stream=0,
            image_shape=shape,
        )
        sender = Sender([address], hello, heartbeat_s=0.2)
        while not sender.end_seen.is_set() and self.sent < self._most:
            if sender.put(self._group(), timeout_s=0.2):
                self.sent += 1
                counters = {"images_rendered": float(self.sent * shape[0])}
                sender.publish_status(counters, "running")
        if self._stalls:
            sender.end_seen.wait()
        if self._error and not sender.end_seen.is_set():
            while sender.counters()["groups_sent"] < self._most:
                time.sleep(0.01)
            sender.report_error(self._error)
        sender.close(5.0)

    def _group(self) -> Group:
        group = tiny_group(self._config, self.sent)
        recipe = msgspec.structs.replace(group.recipe, incarnation=self._role.incarnation)
        return replace(group, recipe=recipe)


def play(
    config: Config,
    *,
    incarnation: int = 1,
    meanwhile: Callable[[Path], None] | None = None,
    **how: Any,
) -> tuple[int, Summary, list[dict[str, Any]]]:
    role = make_role(config.run.dir, incarnation)
    generator = ThreadGenerator(config, role, **how)
    helper = threading.Thread(target=meanwhile or (lambda folder: None), args=(config.run.dir,))
    helper.start()
    code = run_trainer(config, role)
    generator.join()
    helper.join()
    lines = (config.run.dir / "metrics.jsonl").read_text().splitlines()
    return code, Summary.read(config.run.dir / "summary.json"), [json.loads(row) for row in lines]


def checkpoints(config: Config) -> list[str]:
    return sorted(path.name for path in (config.run.dir / "checkpoints").iterdir())


@pytest.mark.parametrize("shared_memory", ["auto", "never"])
def test_groups_lie_in_shared_memory_unless_it_is_not_wanted(
    shared_memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, positions = TrainerRing.read, []

    def noting(ring: TrainerRing, position: int, out_mchw: np.ndarray) -> None:
        read(ring, position, out_mchw)
        positions.append(position)

    monkeypatch.setattr(TrainerRing, "read", noting)
    stream = {"heartbeat_s": 0.2, "shared_memory": shared_memory}
    code, summary, _ = play(make_config(tmp_path / "run", steps=3, stream=stream))
    assert code == 0
    assert summary.check_identities() == []
    assert len(positions) == (summary.groups_received if shared_memory == "auto" else 0)


def test_a_run_a_resume_and_what_they_count(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", steps=5)
    code, summary, rows = play(config)
    assert code == 0
    assert summary.check_identities() == []
    assert (summary.steps, summary.group_uses) == (5, 5 * config.trainer.batch_groups)
    assert summary.groups_sent > 0
    assert summary.groups_lost == summary.groups_discarded == 0
    assert summary.distinct_captions == summary.groups_trained
    assert 0 < summary.time_to_first_step_s <= summary.wall_s
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert checkpoints(config) == ["step_00000004", "step_00000005"]

    longer = make_config(tmp_path / "run", steps=8)
    code, resumed, rows = play(longer, incarnation=2)
    assert code == 0
    assert resumed.check_identities() == []
    assert (resumed.steps, resumed.group_uses) == (8, 8 * config.trainer.batch_groups)
    assert resumed.groups_sent > summary.groups_sent
    assert resumed.images_rendered > summary.images_rendered
    assert [row["step"] for row in rows] == list(range(1, 9))

    finished, again, _ = play(longer, incarnation=3)
    assert finished == 0, "all steps are done already"
    assert "holds a finished run (8 of 8 steps)" in capfd.readouterr().out
    assert again.steps == 8
    assert again.check_identities() == []


def test_no_generator_left_ends_with_its_first_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", steps=1000)
    code, summary, _ = play(config, most=24, error="the engine ran out of memory")
    assert code == 1
    assert "generator g0 failed first: the engine ran out of memory" in capfd.readouterr().err
    assert summary.ended_by.startswith("no generator is left")
    assert summary.check_identities() == []
    assert 0 < summary.steps < 1000
    assert checkpoints(config)[-1] == f"step_{summary.steps:08d}", "the run can be continued"


def test_a_starved_run_names_who_is_short_and_stops_where_that_is_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", steps=1000)
    patience = {"starve_s": 1.0, "on_starvation": "stop", "starvation_stop_s": 2.0}
    trainer = config.trainer.model_copy(update=patience)
    config = config.model_copy(update={"trainer": trainer})
    code, summary, _ = play(config, most=24, stalls=True)
    assert code == 1
    assert summary.ended_by == "groups were short for too long; g0 running"
    assert summary.check_identities() == []
    assert 0 < summary.steps < 1000
    assert checkpoints(config)[-1] == f"step_{summary.steps:08d}", "the run can be continued"
    said = capfd.readouterr()
    assert "trainer 0 short of groups for 0:00:01; trainer 0: g0 running" in said.out
    assert f"stopped after {summary.steps} steps, groups were short for too long" in said.err


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_but_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write = checkpoint_files.write_checkpoint

    def disk_full_for_steps_4_to_6(folder: Path, step: int, *contents: Any) -> Path:
        # The limit makes writing itself fail, half-way through the file, as a full disk does.
        with files_end_at(2**17 if 4 <= step <= 6 else resource.RLIM_INFINITY):
            return write(folder, step, *contents)

    monkeypatch.setattr(checkpoint_files, "write_checkpoint", disk_full_for_steps_4_to_6)
    config = make_config(tmp_path / "run", steps=9)
    code, summary, rows = play(config)
    assert code == 0
    assert (summary.steps, summary.checkpoints_failed) == (9, 2)
    assert [row["run/checkpoints_failed"] for row in rows] == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert checkpoints(config) == ["step_00000008", "step_00000009"]
    out = capfd.readouterr().out
    assert out.count("THE CHECKPOINT OF STEP 4 COULD NOT BE WRITTEN") == 1
    assert "OF STEP 6" not in out, "said once"
    assert "the checkpoint of step 8 is written; 2 before it could not be" in out


def test_a_diverged_loss_tells_the_generators_and_writes_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    compare = Objective.compare
    steps = itertools.count()

    def break_from_step_3(self: Objective, *arguments: Any) -> LossParts:
        parts = compare(self, *arguments)
        return replace(parts, total=parts.total * math.nan) if next(steps) >= 3 else parts

    monkeypatch.setattr(Objective, "compare", break_from_step_3)
    config = make_config(tmp_path / "run", steps=1000)
    trainer = config.trainer.model_copy(update={"max_non_finite_steps": 3})
    config = config.model_copy(update={"trainer": trainer})
    code, summary, _ = play(config)
    assert code == 1
    assert summary.ended_by.startswith("the loss diverged; the last 3 steps")
    assert summary.check_identities() == []
    assert summary.steps == 6
    assert checkpoints(config) == ["step_00000002", "step_00000004"]
    assert capfd.readouterr().err.count("stopped after 6 steps: the last 3 steps") == 1


def test_a_signal_finishes_the_step_and_saves(tmp_path: Path) -> None:
    def stop_soon(run_dir: Path) -> None:
        metrics = run_dir / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    config = make_config(tmp_path / "run", steps=10**6)
    before = signal.getsignal(signal.SIGTERM)
    code, summary, _ = play(config, meanwhile=stop_soon)
    assert code == 0
    assert summary.ended_by == "stop requested"
    assert summary.check_identities() == []
    assert checkpoints(config)[-1] == f"step_{summary.steps:08d}"
    assert signal.getsignal(signal.SIGTERM) is before


def test_torchs_generators_are_seeded_for_each_trainer_and_start(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", steps=5)
    role = make_role(config.run.dir)

    def first_draw(**changes: int) -> float:
        build_step(config, replace(role, **changes), ALONE)  # type: ignore[arg-type]
        return torch.rand(()).item()

    draws = [first_draw(), first_draw(trainer_index=1), first_draw(incarnation=2)]
    assert len(set(draws)) == 3, "drop path differs between trainers and after a restart"
    assert first_draw() == draws[0]


def test_a_receiver_that_dies_while_draining_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drain = Receiver.drain

    def fail(receiver: Receiver, timeout_s: float) -> bool:
        drain(receiver, timeout_s)
        raise StreamError("the receiver's thread failed: MemoryError()")

    monkeypatch.setattr(Receiver, "drain", fail)
    config = make_config(tmp_path / "run", steps=3)
    play(config)
    assert checkpoints(config) == ["step_00000002", "step_00000003"]
    assert "the receiver's thread failed: MemoryError()" in capfd.readouterr().err


def test_a_backbone_that_does_not_exist_is_a_wrong_setting(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", steps=5)
    trainer = config.trainer.model_copy(update={"backbone": "vit_of_dreams"})
    with pytest.raises(ConfigError, match=r"trainer\.backbone"):
        run_trainer(config.model_copy(update={"trainer": trainer}), make_role(config.run.dir))


def test_pictures_and_knn_are_logged(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("dark", "light"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(index).integers(0, 128, (24, 24, 3), dtype=np.uint8)
            offset = np.uint8(127 * (label == "light"))
            Image.fromarray(pixels + offset).save(tmp_path / "set" / label / f"{index}.png")
    monitor = {
        "knn_folder": str(tmp_path / "set"),
        "knn_neighbours": 3,
        "knn_every_steps": 2,
        "samples_every_steps": 2,
        "embeddings_every_steps": 3,
        "max_probe_share": 1e9,  # however slow the machine is
    }
    config = make_config(tmp_path / "run", steps=6, monitor=monitor)
    code, summary, rows = play(config)
    assert code == 0
    measured = [(row["step"], row["knn/of_step"]) for row in rows if "knn/accuracy" in row]
    # Eight pictures, six after each step, and the step after that they are compared.
    assert measured == [(0, 0), (4, 2), (6, 6)]
    embedded = [row for row in rows if "embeddings/rankme" in row]
    assert [row["step"] for row in embedded] == [3, 6]
    assert all(1 < row["embeddings/rankme"] <= 16 for row in embedded)
    assert all(0 <= row["embeddings/alignment"] <= 4 for row in embedded)
    assert summary.knn_before is not None
    assert summary.knn_after is not None
    pictures = sorted(path.name for path in (config.run.dir / "samples").iterdir())
    assert [name for name in pictures if name.endswith("2.png") or name.endswith("4.png")]


def test_two_trainers_may_not_share_a_gpu() -> None:
    def member(rank: int, gpu: int | None, host: str = "a") -> Member:
        return Member(rank=rank, local_rank=rank, node=0, host=host, role="trainer", gpu=gpu)

    check_own_gpus(Roster([member(0, 0), member(1, 1), member(2, 0, "b")]))
    check_own_gpus(Roster([member(0, None), member(1, None)]))
    with pytest.raises(ConfigError, match="may not share a GPU"):
        check_own_gpus(Roster([member(0, 0), member(1, 0)]))
