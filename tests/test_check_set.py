"""The bundled check set: readable small images, balanced labels, a licence beside them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from online_synclr.paths import CHECK_SET_DIR

LABELS = sorted(path.name for path in CHECK_SET_DIR.iterdir() if path.is_dir())
FILES = sorted(CHECK_SET_DIR.glob("*/*.png"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_labels_are_balanced() -> None:
    counts = {label: len(list((CHECK_SET_DIR / label).glob("*.png"))) for label in LABELS}
    assert 10 <= len(LABELS) <= 16
    assert min(counts.values()) >= 20
    assert max(counts.values()) <= 65
    assert 350 <= sum(counts.values()) <= 700


def test_the_set_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= 1.5e6


def test_only_images_lie_under_the_labels() -> None:
    assert [p.name for p in CHECK_SET_DIR.glob("*/*") if p.suffix != ".png"] == []


@pytest.mark.parametrize("label", LABELS)
def test_images_are_readable_and_show_something(label: str) -> None:
    for path in sorted((CHECK_SET_DIR / label).glob("*.png")):
        image_HWC = pixels(path)
        assert image_HWC.shape == (64, 64, 3), path
        corner = image_HWC[0, 0].astype(int)
        assert corner.min() >= 150, f"{path}: the background is not pale"
        is_drawn = np.abs(image_HWC.astype(int) - corner).max(axis=-1) > 40
        assert 0.03 < is_drawn.mean() < 0.98, path


def test_no_drawing_comes_twice() -> None:
    assert len({pixels(path).tobytes() for path in FILES}) == len(FILES)


def test_backgrounds_do_not_give_the_label_away() -> None:
    means = [
        np.mean([pixels(path)[0, 0] for path in (CHECK_SET_DIR / label).glob("*.png")], axis=0)
        for label in LABELS
    ]
    assert np.std(means, axis=0).max() < 10


def test_the_licence_is_named() -> None:
    attribution = (CHECK_SET_DIR / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "OpenMoji" in attribution
    assert "CC BY-SA 4.0" in attribution
    assert "Attribution-ShareAlike 4.0" in (CHECK_SET_DIR / "LICENSE").read_text(encoding="utf-8")
