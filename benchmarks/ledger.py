"""What the ledger costs: time of a step's thread, bytes a group, and how fast it is read.

    python -m benchmarks.ledger [--groups 100000] [--batch 128] [--captions FILE]

A pool and a ledger as in a trainer, with pictures of a few pixels: each step samples `--batch`
groups, half of them new, and enters them. Captions are real: those that the embedded LLM wrote for
the image model's judge, or JSON lines with `caption` and `concept`. So that repeats do not flatter
the size, the ledger is flushed before a caption comes again, which makes its blocks small.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from online_synclr.config.schema import ImagesConfig
from online_synclr.ledger.durable_file import DurableFile
from online_synclr.ledger.facts import Header
from online_synclr.ledger.reading import read_ledger
from online_synclr.ledger.totals import count_ledger
from online_synclr.ledger.writer import LedgerWriter
from online_synclr.paths import PROJECT_DIR
from online_synclr.stream.group import Group, Recipe
from online_synclr.stream.limiter import RateLimiter
from trainer.intake import Intake
from trainer.ledger import TrainerLedger
from trainer.pool import Pool

CAPTIONS = PROJECT_DIR / "recipes/embedded_image_model/judge/captions.jsonl"
IMAGES = np.zeros((1, 3, 2, 2), dtype=np.uint8)
REUSE = 2


def recipe(written: dict[str, str], counter: int) -> Recipe:
    return Recipe(
        caption=written["caption"], concept=written["concept"], source="embedded",
        template=written.get("template") or "concept", background=written.get("background") or "",
        relation=written.get("relation") or "", run_seed=0, incarnation=1, stream=counter % 6,
        counter=counter // 6, num_images=4, llm_fingerprint="transformers:0123456789abcdef",
        image_fingerprint="diffusers:0123456789abcdef",
    )  # fmt: skip


def make_intake(batch: int) -> Intake:
    limiter = RateLimiter(samples_per_insert=REUSE, max_reuse=REUSE, batch=batch)
    size = 8 * batch * IMAGES.nbytes
    pool = Pool(max_bytes=size, group_bytes=IMAGES.nbytes, max_reuse=REUSE, seed=0)
    return Intake(limiter, pool)


def enter(ledger: TrainerLedger, intake: Intake, groups: list[Group], batch: int) -> int:
    """Train on all of them; the number of steps."""
    steps = 0
    for start in range(0, len(groups), batch // REUSE):
        for group in groups[start : start + batch // REUSE]:
            intake.credits_to_issue(1)
            intake.insert(group)
        while (sampled := intake.try_sample(batch)) is not None:
            steps += 1
            ledger.note(sampled, steps)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=128, help="groups a step of one trainer")
    parser.add_argument("--captions", type=Path, default=CAPTIONS)
    given = parser.parse_args()
    written = [json.loads(line) for line in given.captions.read_text("utf-8").splitlines()]
    groups = [Group(recipe(written[i % len(written)], i), IMAGES) for i in range(given.groups)]
    with tempfile.TemporaryDirectory() as folder:
        header = Header(
            run_id="benchmark", run_seed=0, incarnation=1, trainer=0, num_trainers=1,
            resumed_step=0, started_s=int(time.time()), images=ImagesConfig().model_dump_json(),
        )  # fmt: skip
        writer = LedgerWriter(DurableFile(Path(folder) / "000001-t0.ledger"), header, say=print)
        intake = make_intake(given.batch)
        ledger = TrainerLedger(writer, intake)
        steps, flush_s = 0, 0.0
        for start in range(0, len(groups), len(written)):
            steps += enter(ledger, intake, groups[start : start + len(written)], given.batch)
            started_s = time.perf_counter()
            writer.flush()
            flush_s += time.perf_counter() - started_s
        noted = ledger.counters()
        ledger.close(steps)
        started_s = time.perf_counter()
        totals = count_ledger(read_ledger(Path(folder)))
        read_s = time.perf_counter() - started_s
    length = sum(len(one["caption"]) for one in written) / len(written)
    flushes = -(-len(groups) // len(written))
    print(f"{len(written)} different captions of {length:.0f} characters on average")
    print(f"a step of {given.batch} groups: {1e6 * noted.step_s / steps:.0f} us of its own thread")
    print(
        f"the ledger's thread: {1e6 * noted.thread_s / noted.groups:.1f} us a group, disk included"
    )
    print(f"a flush of {len(written)} groups: {1e3 * flush_s / flushes:.1f} ms")
    print(f"on disk: {totals.bytes_per_group:.1f} bytes a group")
    print(f"counting it all: {totals.entries / read_s:.0f} groups a second")


if __name__ == "__main__":
    main()
