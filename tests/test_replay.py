"""Groups of a ledger rendered again: the same pixels at the same batch shape, close at another."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from generators.images.factory import create_renderer
from generators.replay import padded_batches
from online_synclr import __main__ as main_module
from online_synclr.config.schema import ImagesConfig
from online_synclr.ledger.facts import Header
from online_synclr.stream.group import Group, Recipe
from tests.ledger_files import IMAGES, make_header, recipes, write_attempt
from tests.stream_helpers import with_origin
from tests.test_renderer import LEVELS
from tests.tiny_pipeline import save_tiny_pipeline


def header_of(settings: ImagesConfig, incarnation: int = 1, resumed_step: int = 0) -> Header:
    header = make_header(incarnation, resumed_step=resumed_step)
    return msgspec.structs.replace(header, images=settings.model_dump_json())


def render_and_enter(run: Path, settings: ImagesConfig, given: Sequence[Recipe]) -> list[Group]:
    """As a run does: batches of the settings' size, each group's recipe into the ledger."""
    renderer = create_renderer(settings, device="cpu", say=lambda text: None)
    named = [
        msgspec.structs.replace(recipe, image_fingerprint=renderer.fingerprint) for recipe in given
    ]
    groups = []
    for start in range(0, len(named), settings.batch_groups):
        batch = named[start : start + settings.batch_groups]
        groups += [rendered.group for rendered in renderer.render(batch)]
    renderer.close()
    write_attempt(run, header_of(settings), [named], uses=3)
    return groups


def replay(run: Path, groups: str, out: Path, *more: str) -> int:
    arguments = ["replay", str(run), "--groups", groups, "--out", str(out), *more]
    return main_module.main([*arguments, "--device", "cpu"])


def pictures(path: Path, num_images: int) -> np.ndarray:
    """(images, 3, height, width) of a file with images side by side."""
    row_hwc = np.asarray(Image.open(path))
    return np.stack([part.transpose(2, 0, 1) for part in np.split(row_hwc, num_images, axis=1)])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ImagesConfig:
    model = save_tiny_pipeline(tmp_path_factory.mktemp("model"))
    return ImagesConfig(
        model=str(model),
        dtype="float32",
        render_px=32,
        send_px=32,
        steps=3,
        per_caption=2,
        batch_groups=3,
        # Noise in every step as well as at the first: all of it must come back.
        scheduler="euler_ancestral",
    )


def embedded() -> ImagesConfig:
    return ImagesConfig(
        dtype="float32",
        render_px=64,
        send_px=64,
        steps=2,
        guidance=3.0,
        per_caption=2,
        batch_groups=2,
    )


@pytest.mark.parametrize("model", ["tiny", "embedded"])
def test_replayed_pixels_are_those_that_were_trained_on(
    model: str, tiny: ImagesConfig, tmp_path: Path
) -> None:
    settings = tiny if model == "tiny" else embedded()
    size, run = settings.batch_groups, tmp_path / "run"
    trained_on = render_and_enter(run, settings, recipes(0, 2 * size))

    assert replay(run, f"0:{2 * size}", tmp_path / "all") == 0
    for number, group in enumerate(trained_on):
        again = pictures(tmp_path / "all" / f"group_{number:09d}.png", 2)
        assert np.array_equal(again, group.images_mchw), "at the same batch shape: equal"

    # In a call of another size, and among other groups.
    assert replay(run, f"1:{size + 1}", tmp_path / "one", "--batch", "1") == 0
    for number in range(1, size + 1):
        again = pictures(tmp_path / "one" / f"group_{number:09d}.png", 2)
        assert abs(again.astype(int) - trained_on[number].images_mchw).max() <= LEVELS


def test_a_group_alone_is_rendered_at_the_runs_batch_shape(
    tiny: ImagesConfig, tmp_path: Path
) -> None:
    trained_on = render_and_enter(tmp_path / "run", tiny, recipes(0, 3))
    assert replay(tmp_path / "run", "0", tmp_path / "out") == 0
    again = pictures(tmp_path / "out" / "group_000000000.png", 2)
    assert np.array_equal(again, trained_on[0].images_mchw)


def test_batches_are_filled_up() -> None:
    given = recipes(0, 5)
    assert [len(batch) for batch in padded_batches(given, 4)] == [4, 4]
    assert list(padded_batches(given, 4))[1] == [given[4]] * 4
    assert list(padded_batches(given, 1)) == [[recipe] for recipe in given]


def test_recipe_and_pictures_of_a_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    replayed = [with_origin(recipe) for recipe in recipes(1, 2)]
    trained_on = render_and_enter(run, IMAGES, [*recipes(0, 1), *replayed])
    assert replay(run, "1:9", out, "--each") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "group_000000001.json",
        "group_000000001_0.png",
        "group_000000001_1.png",
    ]
    record = json.loads((out / "group_000000001.json").read_text())
    assert msgspec.convert(record["recipe"], Recipe) == trained_on[1].recipe
    assert record["noise_seeds"] == trained_on[1].recipe.noise_seeds()
    assert (record["number"], record["step"], record["uses"]) == (1, 1, 3)
    assert record["same_model"]
    for index in range(2):
        again = pictures(out / f"group_000000001_{index}.png", 1)
        assert np.array_equal(again[0], trained_on[1].images_mchw[index])
    output = capsys.readouterr().out
    assert "NOT THE SAME PICTURES" not in output
    assert "SYNTHETIC" in output


def test_another_model_is_told_and_each_attempt_has_its_own_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    write_attempt(run, header_of(IMAGES), [recipes(0, 1)])
    larger = IMAGES.model_copy(update={"send_px": 24})
    write_attempt(run, header_of(larger, 2, 1), [recipes(0, 1, incarnation=2)])
    assert replay(run, "0:2", tmp_path / "out") == 0
    sides = [pictures(tmp_path / "out" / f"group_00000000{n}.png", 2).shape[-1] for n in (0, 1)]
    assert sides == [16, 24]
    assert capsys.readouterr().out.count("NOT THE SAME PICTURES: the run rendered with image") == 2
    assert not json.loads((tmp_path / "out" / "group_000000000.json").read_text())["same_model"]


@pytest.mark.parametrize(
    ("groups", "words"),
    [("10:", "give numbers"), ("-1:2", "give numbers"), ("4:4", "no group"), ("7", "no group 7")],
)
def test_groups_that_are_not_there_are_one_line(
    groups: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_attempt(tmp_path, make_header(), [recipes(0, 2)])
    arguments = ["replay", str(tmp_path), f"--groups={groups}", "--out", str(tmp_path / "out")]
    assert main_module.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
