"""Shares that change while a real run goes on, read from its ledger; then by hand, after a stop."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from online_synclr.ledger.reading import kept_entries, read_ledger
from online_synclr.monitor import metrics
from tests.torchrun import SYNTHETIC, assert_accounts_balance, torchrun

pytestmark = pytest.mark.slow

SETTINGS = (
    *SYNTHETIC,
    "captions.bank=concepts/paper.yaml",
    "captions.queue_captions=8",
    "captions.batch_captions=8",
    "images={render_px: 32, send_px: 32, batch_groups: 4}",
    "trainer.crops={global_px: 32, local_px: 16}",
    "generators.queue_groups=4",
    "stream.credits_per_generator=4",
    "pool={samples_per_insert: 1, max_reuse: 1, min_groups: 12, error_buffer: 24}",
    "captions.share_schedule=[{step: 10, shares: {cars: 1.0}}]",
)
BATCH_GROUPS = 12
BEHIND_STEPS = 10
"""What is written, rendered, sent or held when shares change fits into so many batches; as the
pool draws at random, some of it is trained on later."""


def sources(run_dir: Path) -> Iterator[tuple[int, str]]:
    """(step, source) of every group trained on."""
    for entry in kept_entries(read_ledger(run_dir).attempts):
        yield entry.fact.step, entry.fact.recipe.source


def test_what_is_trained_on_follows_the_schedule_and_then_the_file(tmp_path: Path) -> None:
    run = torchrun(tmp_path / "run", *SETTINGS, "trainer.steps=30")
    assert run.code == 0, run.output
    early = Counter(source for step, source in sources(run.run_dir) if step <= 10)
    late = Counter(source for step, source in sources(run.run_dir) if step > 10 + BEHIND_STEPS)
    assert early["imagenet1k"] > early["cars"]
    assert late["cars"] > 0.8 * late.total()
    in_force = {row["step"]: row for row in run.metrics if metrics.LOSS_TOTAL in row}
    name = metrics.of_source("cars", "in_force")
    assert [in_force[step][name] for step in (9, 10, 30)] == pytest.approx([0.05, 1.0, 1.0])
    trained = [in_force[step][metrics.of_source("cars", "trained")] for step in (10, 30)]
    assert trained[1] > trained[0] + 0.2

    (run.run_dir / "share_schedule.yaml").write_text("- {step: 0, shares: {food: 1.0}}\n")
    again = torchrun(run.run_dir, *SETTINGS, "trainer.steps=40")
    assert again.code == 0, again.output
    assert_accounts_balance(again.summary)
    resumed = Counter(source for step, source in sources(run.run_dir) if step > 30)
    assert resumed == {"food": BATCH_GROUPS * 10}, "no caption is older than the attempt"
