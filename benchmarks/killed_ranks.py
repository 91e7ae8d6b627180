"""Whole torchrun ranks killed with SIGKILL, trainers included: the job comes back by itself.

    python -m benchmarks.killed_ranks [--kills 10] [--writing 4] [--steps 120]

Two trainers and two generators with stand-in engines under `torchrun --max-restarts`. Ranks are
killed one after another: trainers while a checkpoint is being written (its folder still has its
temporary name after the trainer is dead), and any rank at any other moment. Each time the job must
start again from the newest complete checkpoint. At the end every step must have been taken, logged
once and counted once, the loss must not rise after a resume by more than it does elsewhere by
chance, no seeds may have been used twice, and nothing may be left over. Prints a table and exits
with 1 where something does not hold.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.killed_checks import (
    WINDOW_STEPS,
    counted_wrongly,
    curve_breaks,
    logged_wrongly,
    losses,
    recorded_wrongly,
    step_after,
    usual_steps,
)
from online_synclr.monitor.summary import Summary
from tests.killed_job import POLL_S, Job

NUM_TRAINERS = NUM_GENERATORS = 2
BATCH_GROUPS = 12
CHECKPOINT_STEPS = 5
MAX_REUSE = 4
SETTINGS = (
    f"trainer.batch_groups={BATCH_GROUPS}",
    f"pool.max_reuse={MAX_REUSE}",
    f"trainer.checkpoint={{every_steps: {CHECKPOINT_STEPS}, keep: 3}}",
    # Large heads: a checkpoint takes long enough to be met, at little work a step.
    "trainer.contrastive={projector_hidden: 1024, predictor_hidden: 1024, out_dim: 64}",
    "images.rate_images_per_s=40",
    "stream.heartbeat_s=0.5",
    # Generators wait for the credits of a dead trainer during half of it before they leave.
    "generators.goodbye_s=6",
)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill. `checkpoints`: the newest complete one after the kill and at the next attempt's
    start, which trainers that were asked to leave may have saved. `back_s`: until the next
    attempt's first step was logged.
    """

    rank: int
    while_writing: bool
    at_step: int
    resumed_at: int
    checkpoints: tuple[int, int]
    back_s: float

    @property
    def role(self) -> str:
        """Which rank it was."""
        kind, first = ("trainer", 0) if self.rank < NUM_TRAINERS else ("generator", NUM_TRAINERS)
        return f"{kind} {self.rank - first}"

    @property
    def steps_lost(self) -> int:
        """Steps that had to be taken again."""
        return self.at_step - self.resumed_at


def kill_while_writing(job: Job, rank: int) -> bool:
    """Kill a rank at the next checkpoint; whether that was left unfinished."""
    job.await_that(job.being_written, "no checkpoint was being written", POLL_S)
    job.kill(rank)
    return job.being_written()


def kill_between(job: Job, rank: int, after_s: float) -> None:
    """Kill a rank at some moment that has nothing to do with what it does."""
    time.sleep(after_s)
    job.kill(rank)


def kill_one(job: Job, rank: int, *, writing: bool, after_s: float) -> Kill:
    """Kill a rank and wait until the job trains again."""
    job.await_that(job.attempts, "the job did not start")
    attempts = len(job.attempts())
    began = job.attempts()[-1].start_step
    job.await_that(lambda: job.last_step() > began + CHECKPOINT_STEPS, "training does not go on")
    caught = False
    if writing:
        caught = kill_while_writing(job, rank)
    else:
        kill_between(job, rank, after_s)
    killed_s, left_with = time.monotonic(), job.newest_checkpoint()
    job.await_that(lambda: len(job.attempts()) > attempts, "the job did not start again", 0.01)
    checkpoints = left_with, job.newest_checkpoint()
    attempt = job.attempts()[-1]
    job.await_that(lambda: job.has_trained_since(attempt.time_s), "no step after the restart")
    return Kill(
        rank=rank,
        while_writing=caught,
        at_step=attempt.start_step + attempt.thrown_away_steps,
        resumed_at=attempt.start_step,
        checkpoints=checkpoints,
        back_s=time.monotonic() - killed_s,
    )


def plan(num_kills: int, num_writing: int, seed: int) -> list[tuple[int, bool]]:
    """Which rank is killed, and whether while a checkpoint is written, in which order.

    Every rank has its turn; trainer 0 writes, and trainer 1 dies beside it one time in three.
    """
    writing = [(0 if index % 3 != 1 else 1, True) for index in range(num_writing)]
    ranks = NUM_TRAINERS + NUM_GENERATORS
    others = [(index % ranks, False) for index in range(num_kills - num_writing)]
    order = writing + others
    random.Random(seed).shuffle(order)
    return order


def kill_all(job: Job, order: list[tuple[int, bool]], seed: int) -> list[Kill]:
    """Carry the plan out, saying each kill as it is done."""
    draws, kills = random.Random(seed), []
    for rank, writing in order:
        kill = kill_one(job, rank, writing=writing, after_s=draws.uniform(0.0, 2.0))
        kills.append(kill)
        print(f"{row(kill)}", flush=True)
    return kills


def row(kill: Kill) -> str:
    """One line of the table."""
    when = "while a checkpoint is written" if kill.while_writing else "at any moment"
    return (
        f"| {kill.role}, {when} | {kill.at_step} | {kill.resumed_at} | {kill.steps_lost} | "
        f"{kill.back_s:.0f} |"
    )


def check_kills(kills: list[Kill], num_writing: int) -> list[str]:
    """What does not hold about the restarts themselves."""
    wrong = [
        f"after {kill.role} died at step {kill.at_step} the job went on from step "
        f"{kill.resumed_at}, not from its newest checkpoint {kill.checkpoints}"
        for kill in kills
        if kill.resumed_at != kill.checkpoints[1] or kill.resumed_at < kill.checkpoints[0]
    ]
    caught = sum(kill.while_writing for kill in kills)
    least = min(3, num_writing)
    if caught < least:
        wrong.append(f"only {caught} kills left a checkpoint half written, not {least}")
    return wrong


def left_over(job: Job, tmp_dir: Path, shm_before: set[str]) -> list[str]:
    """Whatever the job left behind beside its run folder's own files."""
    root = job.folder.root
    files = [*tmp_dir.glob("osynclr-*"), *root.glob(".*.tmp"), *root.glob("checkpoints/.*")]
    shm = set(os.listdir("/dev/shm")) - shm_before
    return [
        *(f"process left over: {line}" for line in job.left_over()),
        *(f"file left over: {path.name}" for path in files),
        *(f"left over in /dev/shm (by anybody): {name}" for name in sorted(shm)),
    ]


def report_curve(curve: dict[int, float], kills: list[Kill]) -> None:
    """The loss around every resume, beside what it does elsewhere."""
    resumed = [kill.resumed_at for kill in kills]
    mean, deviation = usual_steps(curve, resumed)
    inside = [s for s in resumed if WINDOW_STEPS <= s <= len(curve) - WINDOW_STEPS]
    worst = max((step_after(curve, step) for step in inside), default=float("nan"))
    fallen = min((curve[1] - curve[step] for step in inside), default=float("nan"))
    print(
        f"loss {curve[1]:.2f} at step 1, {curve[len(curve)]:.2f} at the end; mean of "
        f"{WINDOW_STEPS} steps after less mean of {WINDOW_STEPS} before: {mean:+.3f} (s.d. "
        f"{deviation:.3f}) away from resumes, at most {worst:+.3f} at the {len(inside)} resumes; "
        f"lost weights would show as {fallen:+.2f} or more"
    )


def run(num_kills: int, num_writing: int, steps: int, seed: int, folder: Path) -> list[str]:
    """The whole job; what does not hold."""
    tmp_dir, run_dir = folder / "tmp", folder / "run"
    tmp_dir.mkdir()
    shm_before = set(os.listdir("/dev/shm"))
    order = plan(num_kills, num_writing, seed)
    print("| killed | at step | went on from | steps taken again | s until the next step |")
    print("| --- | --- | --- | --- | --- |")
    with Job(
        run_dir,
        num_trainers=NUM_TRAINERS,
        num_generators=NUM_GENERATORS,
        max_restarts=num_kills,
        overrides=(*SETTINGS, f"trainer.steps={steps}"),
        tmp_dir=tmp_dir,
    ) as job:
        kills = kill_all(job, order, seed)
        code = job.wait()
    summary, curve = Summary.read(job.folder.summary), losses(job.folder)
    print(summary.text(Path("RUN")))
    report_curve(curve, kills)
    wrong = [] if code == 0 else [f"torchrun ended with {code}: {''.join(job.output[-20:])}"]
    wrong += check_kills(kills, num_writing)
    wrong += logged_wrongly(job.folder, steps)
    wrong += counted_wrongly(
        summary,
        steps=steps,
        batch_groups=BATCH_GROUPS,
        attempts=num_kills + 1,
        thrown_away_steps=sum(kill.steps_lost for kill in kills),
        max_reuse=MAX_REUSE,
    )
    wrong += curve_breaks(curve, [kill.resumed_at for kill in kills])
    wrong += left_over(job, tmp_dir, shm_before)
    return wrong + recorded_wrongly(run_dir, summary, max_reuse=MAX_REUSE)


def main() -> None:
    """Kill, wait, check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--writing", type=int, default=4, help="of them while a checkpoint is written"
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="killed-") as folder:
        wrong = run(
            arguments.kills, arguments.writing, arguments.steps, arguments.seed, Path(folder)
        )
    print(f"{time.monotonic() - began_s:.0f} s")
    for what in wrong:
        print(f"DOES NOT HOLD: {what}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
