"""Adaptive reuse in a real run: a generator that is too slow for its trainer."""

from pathlib import Path

import pytest

from online_synclr.monitor import metrics
from tests.torchrun import SYNTHETIC, assert_accounts_balance, torchrun

pytestmark = pytest.mark.slow


def test_reuse_rises_where_groups_are_short_and_people_see_it(tmp_path: Path) -> None:
    """Five groups a second feed 0.4 steps/s at one use each; with up to eight uses, more."""
    run = torchrun(
        tmp_path / "run",
        *SYNTHETIC,
        "images.render_px=32",
        "images.send_px=32",
        "images.batch_groups=1",
        "trainer.crops={global_px: 32, local_px: 16}",
        "images.rate_images_per_s=20",
        "pool={samples_per_insert: 1, max_reuse: 8, adaptive_reuse: true}",
        "trainer.steps=25",
    )
    assert run.code == 0, run.output
    assert_accounts_balance(run.summary)
    reuse = [row[metrics.POOL_REUSE] for row in run.metrics if metrics.POOL_REUSE in row]
    assert reuse[0] == 1.0
    assert max(reuse) > 2.0
    assert max(reuse) <= 8.0
    uses = run.summary["group_uses"] / run.summary["groups_received"]
    assert 1.2 < uses <= 8.0
    assert "(set " in run.output
