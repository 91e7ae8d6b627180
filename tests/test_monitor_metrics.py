"""Names of metrics, the document made from them, the custom page's layout."""

import re
from pathlib import Path

import pytest

from online_synclr.monitor import metrics
from online_synclr.monitor.layout import CATEGORIES
from tests.monitor_helpers import make_scalars

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == metrics.document(), (
        "run: python -m online_synclr.monitor.metrics > docs/metrics.md"
    )


def test_every_metric_has_a_unit_and_a_sentence() -> None:
    for item in metrics.METRICS.values():
        assert item.unit
        assert item.help.endswith(".")
        assert item.help[0].isupper() or item.help.startswith("k-")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        (metrics.of_generator("gen-3", "share"), "throughput_by_generator/<id>/share"),
        (metrics.rejected_captions("too_long"), "captions/rejected_<reason>"),
        (metrics.evictions_with_uses_left(2), "pool_evictions/uses_left_<k>"),
        (metrics.LOSS_TOTAL, "loss/total"),
    ],
)
def test_families_are_described(name: str, pattern: str) -> None:
    item = metrics.describe(name)
    assert item is not None
    assert item.name == pattern


def test_strangers_are_not_described() -> None:
    assert metrics.describe("loss/other") is None
    with pytest.raises(KeyError):
        metrics.of_generator("gen-3", "smiles_per_s")


def test_every_curve_of_the_layout_exists() -> None:
    known = [*make_scalars(), *metrics.BALANCE]
    for category in CATEGORIES:
        for chart in category.charts:
            for tag in chart.tags:
                assert any(re.search(tag, name) for name in known), (chart.title, tag)
