"""Features: the view they are of, what is kept of them, and what several ranks do together."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.bench import Bench
from evaluation.errors import EvaluationError
from evaluation.feature_chunks import Chunk, ChunkFolder, spans_of
from evaluation.features import FeatureTable, extract_features
from evaluation.preprocessing import centre_crop
from evaluation.progress import LINE_EVERY_S, Lines
from online_synclr.paths import PROJECT_DIR
from tests.feature_fakes import MemorySplit, tiny_backbone
from tests.torchrun import environment

CPU = torch.device("cpu")


def bench(cache_dir: Path | None = None, **changes: object) -> Bench:
    return Bench(device=CPU, cache_dir=cache_dir, precision="fp32", **changes)  # type: ignore[arg-type]


def naive(split: MemorySplit) -> torch.Tensor:
    """One image at a time, with numpy and Pillow alone."""
    backbone, rows = tiny_backbone(), []
    for index in range(len(split)):
        image, _ = split[index]
        scale = 16 / min(image.size)
        size = tuple(int(scale * side) for side in image.size)
        small = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
        top, left = round((small.shape[0] - 16) / 2), round((small.shape[1] - 16) / 2)
        crop = small[top : top + 16, left : left + 16]
        normal = (crop - np.float32(backbone.mean)) / np.float32(backbone.std)
        with torch.no_grad():
            rows.append(backbone.model(torch.from_numpy(normal).permute(2, 0, 1)[None])[0])
    return torch.stack(rows)


def chunk_files(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.rglob("*.safetensors"))


def test_features_are_those_of_the_centre_crop_in_order() -> None:
    split = MemorySplit(70)
    table = extract_features(tiny_backbone(), split, bench(batch_images=9))
    torch.testing.assert_close(table.features_ND, naive(split), rtol=1e-4, atol=1e-5)
    assert table.features_ND.dtype == torch.float32
    assert table.labels.tolist() == [split.label(index) for index in range(70)]
    assert table.class_names == ("class 0", "class 1", "class 2")
    spread = table.features_ND.std(0).mean()
    assert spread > 0.01, "images that all look alike would prove nothing"


def test_images_are_read_by_worker_processes_in_order() -> None:
    split = MemorySplit(70)
    in_workers = extract_features(tiny_backbone(), split, bench(batch_images=9, cpu_threads=8))
    assert split.reads == [], "they were read elsewhere"
    here = extract_features(tiny_backbone(), split, bench(batch_images=9))
    assert torch.equal(in_workers.features_ND, here.features_ND)
    assert torch.equal(in_workers.labels, here.labels)


def test_images_of_several_classes(tmp_path: Path) -> None:
    split = MemorySplit(66, several=True)
    for _ in range(2):
        table = extract_features(tiny_backbone(), split, bench(tmp_path))
        assert table.labels.dtype == torch.bool
        assert table.labels.shape == (66, 3)
        assert table.labels.sum(1).tolist() == [int(split.label(i).sum()) for i in range(66)]  # type: ignore[union-attr]


def test_the_crop_keeps_as_much_as_it_is_told() -> None:
    backbone = tiny_backbone()
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (10, 0, 30, 20))
    whole = centre_crop(backbone)
    assert (whole.crop_px, whole.resize_px) == (16, 16)
    assert int(whole(image).min()) > 200, "the white square in the middle, and nothing else"
    assert centre_crop(backbone, crop_pct=0.8).resize_px == 20
    assert centre_crop(backbone, image_px=224, crop_pct=224 / 256).resize_px == 256
    backbone.model.pretrained_cfg = {"crop_pct": 0.5}
    assert centre_crop(backbone, crop_pct=None).resize_px == 32
    with pytest.raises(EvaluationError, match="--crop-pct"):
        centre_crop(backbone, crop_pct=1.5)


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    said: list[str] = []
    split = MemorySplit(130)
    first = extract_features(tiny_backbone(), split, bench(tmp_path, say=said.append))
    assert len(split.reads) == 130
    second = extract_features(tiny_backbone(), split, bench(tmp_path, say=said.append))
    assert len(split.reads) == 130
    assert torch.equal(first.features_ND, second.features_ND)
    assert torch.equal(first.labels, second.labels)
    assert [line.partition("images, ")[2] for line in said] == [
        "0 kept, 130 to compute",
        "130 kept, none to compute",
    ]


def changed_view(split: MemorySplit, cache_dir: Path) -> FeatureTable:
    return extract_features(tiny_backbone(), split, bench(cache_dir, crop_pct=0.5))


def changed_backbone(split: MemorySplit, cache_dir: Path) -> FeatureTable:
    return extract_features(tiny_backbone(seed=1), split, bench(cache_dir))


def changed_precision(split: MemorySplit, cache_dir: Path) -> FeatureTable:
    settings = Bench(device=CPU, cache_dir=cache_dir, precision="bf16")
    return extract_features(tiny_backbone(), split, settings)


def changed_images(split: MemorySplit, cache_dir: Path) -> FeatureTable:
    split.seed = 1
    return extract_features(tiny_backbone(), split, bench(cache_dir))


@pytest.mark.parametrize(
    "changed", [changed_view, changed_backbone, changed_precision, changed_images]
)
def test_what_features_depend_on_has_features_of_its_own(changed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    split = MemorySplit(8)
    before = extract_features(tiny_backbone(), split, bench(tmp_path))
    after = changed(split, tmp_path)
    assert len(split.reads) == 16
    assert not torch.equal(before.features_ND, after.features_ND)


KILLED = """
import sys
from pathlib import Path
from tests.feature_fakes import MemorySplit, tiny_backbone
from tests.test_features import bench
from evaluation.features import extract_features

extract_features(tiny_backbone(), MemorySplit(320, kill_at=200), bench(Path(sys.argv[1])))
"""


def test_a_run_killed_half_way_goes_on_from_its_chunks(tmp_path: Path) -> None:
    """Of five chunks of 64 images three are whole when image 200 ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=PROJECT_DIR,
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    assert len(chunk_files(tmp_path)) == 3
    split = MemorySplit(320)
    table = extract_features(tiny_backbone(), split, bench(tmp_path))
    assert split.reads == list(range(192, 320))
    fresh = extract_features(tiny_backbone(), MemorySplit(320), bench())
    assert torch.equal(table.features_ND, fresh.features_ND)
    assert torch.equal(table.labels, fresh.labels)


def test_a_damaged_chunk_is_found_and_computed_again(tmp_path: Path) -> None:
    whole = extract_features(tiny_backbone(), MemorySplit(200), bench(tmp_path))
    flipped, cut, moved, _ = chunk_files(tmp_path)
    data = bytearray(flipped.read_bytes())
    data[-100] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-7])
    other = tmp_path / "other"
    extract_features(tiny_backbone(seed=1), MemorySplit(200), bench(other))
    moved.write_bytes(chunk_files(other)[2].read_bytes())
    split, said = MemorySplit(200), list[str]()
    table = extract_features(tiny_backbone(), split, bench(tmp_path, say=said.append))
    assert split.reads == list(range(192))
    assert torch.equal(table.features_ND, whole.features_ND)
    assert sum("damaged" in line for line in said) == 3
    again = MemorySplit(200)
    extract_features(tiny_backbone(), again, bench(tmp_path))
    assert again.reads == []


def test_no_flipped_bit_of_a_chunk_goes_unnoticed(tmp_path: Path) -> None:
    span = spans_of(3)[0]
    folder = ChunkFolder(tmp_path, {"of": "this"}, {}, lambda text: None)
    chunk = Chunk(torch.randn(3, 2), torch.tensor([1, 0, 2]))
    folder.write(span, chunk)
    (path,) = chunk_files(tmp_path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        found = folder.read(span)
        # A bit of padding, say, or a harmless one of the header.
        assert found is None or (
            torch.equal(found.features_ND, chunk.features_ND)
            and torch.equal(found.labels, chunk.labels)
        ), place
    path.write_bytes(data)
    assert folder.read(span) is not None


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder would be")
    said: list[str] = []
    table = extract_features(tiny_backbone(), MemorySplit(8), bench(tmp_path, say=said.append))
    assert len(table.labels) == 8
    assert sum("cannot be kept" in line for line in said) == 1


def test_chunks_are_as_long_as_the_data_asks() -> None:
    def lengths(num_images: int) -> list[int]:
        spans = spans_of(num_images)
        assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
        assert (spans[0].start, spans[-1].end) == (0, num_images)
        return [len(span) for span in spans]

    assert lengths(1) == [1]
    assert lengths(150) == [64, 64, 22]
    assert set(lengths(60_000)[:-1]) == {960}
    assert set(lengths(1_281_167)[:-1]) == {1024}


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(EvaluationError, match=r"^image 5 cannot be read\.$"):
        extract_features(tiny_backbone(), MemorySplit(9, bad_at=5), bench())
    with pytest.raises(EvaluationError, match=r"^image 5 cannot be read\.$"):
        extract_features(tiny_backbone(), MemorySplit(9, bad_at=5), bench(cpu_threads=4))
    with pytest.raises(EvaluationError, match="no images"):
        extract_features(tiny_backbone(), MemorySplit(0), bench())
    diverged = tiny_backbone()
    diverged.model.norm.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not finite"):
        extract_features(diverged, MemorySplit(3), bench())
    classifier = tiny_backbone()
    classifier.model.head = torch.nn.Linear(24, 5)
    with pytest.raises(EvaluationError, match="without a classifier"):
        extract_features(classifier, MemorySplit(3), bench())


def test_reading_images_leaves_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    extract_features(tiny_backbone(), MemorySplit(5), bench())
    assert torch.equal(torch.rand(2), expected)


def test_progress_as_lines_has_the_time_left() -> None:
    said: list[str] = []
    now_s = 0.0
    lines = Lines(said.append, "work", 100, clock=lambda: now_s)
    for _ in range(10):
        now_s += LINE_EVERY_S / 2
        lines.advance(10)
    assert said[0] == "work: 20 of 100, 0:01:00 left"
    assert len(said) == 4, "every second step, and not the end"
