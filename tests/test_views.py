"""Batched views agree with torchvision sample by sample, and depend on the generator alone."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from online_synclr.config.schema import AugmentConfig, CropsConfig
from trainer.objective.augment_apply import IMAGENET_MEAN, IMAGENET_STD
from trainer.objective.augment_blur import blur_radius, gaussian_blur, scaled_sigmas
from trainer.objective.augment_colour import Blend, blend_, grey_of, shift_hue_, solarise
from trainer.objective.augment_crop import draw_boxes
from trainer.objective.augment_params import CropSettings, draw_crop, seen_boxes
from trainer.objective.augment_resample import (
    down_and_up_matrix,
    resample,
    resample_taps,
    rows_first,
)
from trainer.objective.rng import step_generator
from trainer.objective.views import ViewMaker

TOLERANCE = 1e-5
GREY_LEVEL = 1 / 255


def noise_images(num: int, height: int = 40, width: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, height, width), generator=generator, dtype=torch.uint8)


def float_crops(num: int, side: int = 24, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    crops = torch.rand((num, 3, side, side), generator=generator)
    crops[0, :, 2:9, 2:9] = 0.5  # grey pixels have no hue
    for channel in range(3):  # two channels that are equal, above or below the third
        rows = slice(10 + 4 * channel, 14 + 4 * channel)
        crops[0, channel, rows] = crops[0, channel - 1, rows]
    crops[1, :, 3:6] = crops[1, :, 3:6].round()  # black, white and the six pure colours
    return crops


def generator(step: int = 0, rank: int = 0) -> torch.Generator:
    return step_generator("views", run_seed=7, incarnation=1, rank=rank, step=step)


@pytest.mark.parametrize("of_the_box_only", [False, True])
@pytest.mark.parametrize("out", [5, 13, 32, 64])
def test_crops_are_torchvisions_antialiased_bicubic_ones(out: int, of_the_box_only: bool) -> None:
    images = noise_images(12)
    boxes = draw_boxes(12, 40, 48, (0.05, 1.0), generator())
    flips = torch.arange(12) % 2 == 0
    tops, lefts, heights, widths = boxes.unbind(1)
    rows = resample_taps(tops, heights, side=40, out=out).matrices()
    columns = resample_taps(lefts, widths, side=48, out=out, flips_N=flips).matrices()
    crops = resample(rows_first(images), rows, columns, boxes.tolist() if of_the_box_only else None)
    for sample in range(12):
        box = boxes[sample].tolist()
        expected = tv.resized_crop(
            images[sample].float() / 255, *box, [out, out], v2.InterpolationMode.BICUBIC, True
        ).clamp(0, 1)
        if flips[sample]:
            expected = tv.horizontal_flip(expected)
        torch.testing.assert_close(crops[sample], expected, atol=TOLERANCE, rtol=0)


def test_crops_are_within_a_grey_level_of_torchvisions_uint8_path() -> None:
    # Its first axis is rounded and clamped before the second: values must not overshoot.
    images = 80 + noise_images(6) // 3
    boxes = draw_boxes(6, 40, 48, (0.3, 1.0), generator())
    tops, lefts, heights, widths = boxes.unbind(1)
    rows = resample_taps(tops, heights, side=40, out=20).matrices()
    columns = resample_taps(lefts, widths, side=48, out=20).matrices()
    crops = resample(rows_first(images), rows, columns)
    for sample in range(6):
        rounded = tv.resized_crop(
            images[sample], *boxes[sample].tolist(), [20, 20], v2.InterpolationMode.BICUBIC, True
        )
        worst = (crops[sample] - rounded.float() / 255).abs().max()
        assert worst <= 1.5 * GREY_LEVEL


def test_a_box_has_all_pixels_that_a_crop_weighs() -> None:
    augment = AugmentConfig(downsample=0.5, downsample_px=(8, 12, 64))
    settings = CropSettings(augment, (0.05, 0.3), (0.1, 2.0), torch.zeros(20), torch.zeros(20))
    params = draw_crop(settings, height=40, width=48, generator=generator())
    boxes = seen_boxes(params, 40, 48)
    whole = set(torch.cat([params.downsample[8], params.downsample[12]]).tolist())
    assert 0 < len(whole) < 20
    for sample, box in enumerate(boxes):
        assert box == (
            (0, 0, 40, 48) if sample in whole else tuple(params.boxes_N4[sample].tolist())
        )


def test_pixels_outside_of_the_boxes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    augment = AugmentConfig(downsample=0.5, downsample_px=(8, 12, 64))
    make = ViewMaker(CropsConfig(global_px=24, local_px=16, locals_per_image=2), augment)
    of_boxes = make(noise_images(12), generator())
    monkeypatch.setattr("trainer.objective.views.seen_boxes", lambda *_: None)
    of_all = make(noise_images(12), generator())
    torch.testing.assert_close(of_boxes.globals_, of_all.globals_, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(of_boxes.locals_, of_all.locals_, atol=TOLERANCE, rtol=0)


def test_without_antialiasing_the_agreement_would_fail() -> None:
    image = noise_images(1).float() / 255
    plain = tv.resize(image, [13, 13], v2.InterpolationMode.BICUBIC, antialias=False)
    smooth = tv.resize(image, [13, 13], v2.InterpolationMode.BICUBIC, antialias=True)
    assert (plain - smooth).abs().max() > 0.05


def test_down_and_up_is_two_resizes() -> None:
    # Values far from the ends: torchvision's float path does not clamp between the two.
    images = 0.35 + 0.3 * float_crops(3, side=40)
    matrix = down_and_up_matrix(40, 12, images.device)
    result = matrix @ images @ matrix.t()
    small = tv.resize(images, [12, 12], v2.InterpolationMode.BICUBIC, antialias=True)
    expected = tv.resize(small, [40, 40], v2.InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)


def test_boxes_follow_random_resized_crop() -> None:
    boxes = draw_boxes(4000, 40, 48, (0.08, 0.32), generator())
    tops, lefts, heights, widths = boxes.unbind(1)
    assert ((tops >= 0) & (tops + heights <= 40)).all()
    assert ((lefts >= 0) & (lefts + widths <= 48)).all()
    areas = (heights * widths).double() / (40 * 48)
    aspects = widths.double() / heights
    assert areas.min() > 0.07
    assert areas.max() < 0.34
    assert areas.mean().item() == pytest.approx(0.20, abs=0.005)
    assert aspects.log().mean().item() == pytest.approx(0.0, abs=0.02)
    assert aspects.max() < 4 / 3 * 1.15


def test_a_strip_that_no_box_fits_falls_back_to_its_centre() -> None:
    boxes = draw_boxes(5, 10, 200, (0.9, 1.0), generator())
    assert boxes.tolist() == [[0, (200 - 13) // 2, 10, 13]] * 5


def weights(gain: list[float], grey: list[float], mean: list[float]) -> Blend:
    return Blend(torch.tensor(gain), torch.tensor(grey), torch.tensor(mean))


def test_blends_are_torchvisions_adjustments() -> None:
    crops = float_crops(5)
    # Sample 0 brightness, 1 contrast, 2 saturation, 3 nothing, 4 greyscale.
    mixed = blend_(
        crops.clone(),
        weights([1.3, 0.7, 1.2, 1.0, 0.0], [0.0, 0.0, -0.2, 0.0, 1.0], [0.0, 0.3, 0.0, 0.0, 0.0]),
    )
    expected = [
        tv.adjust_brightness(crops[0], 1.3),
        tv.adjust_contrast(crops[1], 0.7),
        tv.adjust_saturation(crops[2], 1.2),
        crops[3],
        tv.rgb_to_grayscale(crops[4], num_output_channels=3),
    ]
    torch.testing.assert_close(mixed, torch.stack(expected), atol=TOLERANCE, rtol=0)


def test_weights_that_no_sample_has_are_left_out() -> None:
    full = weights([1.2, 0.7, 0.9], [-0.2, 0.0, 0.0], [0.0, 0.3, 0.0])
    for chosen, grey, mean in (([0, 2], True, False), ([1], False, True), ([2], False, False)):
        part = full.map(lambda values, chosen=chosen: values[chosen]).without_idle()
        assert part is not None
        assert (part.grey_weight_N is not None, part.mean_weight_N is not None) == (grey, mean)
        crops = float_crops(3)
        expected = blend_(crops.clone(), full)[chosen]
        torch.testing.assert_close(blend_(crops[chosen], part), expected, atol=TOLERANCE, rtol=0)
    assert weights([1.0, 1.0], [0.0, 0.0], [0.0, 0.0]).without_idle() is None


def test_hue_is_torchvisions() -> None:
    crops = float_crops(5)
    turns = torch.tensor([-0.5, -0.1, 0.0, 0.07, 0.5])
    expected = [tv.adjust_hue(crop, turn) for crop, turn in zip(crops, turns.tolist(), strict=True)]
    torch.testing.assert_close(
        shift_hue_(crops.clone(), turns), torch.stack(expected), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("largest", [0.57, 2.0])
def test_blur_is_torchvisions(largest: float) -> None:
    crops = float_crops(4)
    radius = blur_radius(largest)
    sigmas = torch.tensor([0.1, 0.3, 0.9, 1.0]) * largest
    blurred = gaussian_blur(crops, sigmas, radius)
    for sample, sigma in enumerate(sigmas.tolist()):
        expected = tv.gaussian_blur(crops[sample], 2 * radius + 1, sigma)
        torch.testing.assert_close(blurred[sample], expected, atol=TOLERANCE, rtol=0)


def test_blur_at_224_px_has_the_kernel_of_nine() -> None:
    assert scaled_sigmas((0.1, 2.0), 224) == (0.1, 2.0)
    assert blur_radius(2.0) == 4
    assert scaled_sigmas((0.1, 2.0), 112) == (0.05, 1.0)


def test_solarisation_is_torchvisions() -> None:
    crops = float_crops(2)
    torch.testing.assert_close(solarise(crops), tv.solarize(crops, 128 / 255))


def test_a_whole_jitter_is_torchvisions_in_each_samples_own_order() -> None:
    """Rebuild operation and factor of every sample from the blends and replay them one by one."""
    crops = float_crops(16)
    augment = AugmentConfig(jitter=1.0)
    settings = CropSettings(augment, (0.3, 1.0), (0.1, 2.0), torch.zeros(16), torch.zeros(16))
    params = draw_crop(settings, height=40, width=40, generator=generator())
    mixed, orders = crops.clone(), [""] * 16
    expected = [crop.clone() for crop in crops]
    for step in params.jitter:
        mixed = blend_(mixed.clone(), step.blend)
        mixed[step.hue.index_K] = shift_hue_(mixed[step.hue.index_K], step.hue.values_K)
        turns = dict(zip(step.hue.index_K.tolist(), step.hue.values_K.tolist(), strict=True))
        for sample in range(16):
            gain = step.blend.gain_N[sample].item()
            if sample in turns:
                expected[sample], name = tv.adjust_hue(expected[sample], turns[sample]), "h"
            elif step.blend.grey_weight_N[sample]:
                expected[sample], name = tv.adjust_saturation(expected[sample], gain), "s"
            elif step.blend.mean_weight_N[sample]:
                expected[sample], name = tv.adjust_contrast(expected[sample], gain), "c"
            else:
                expected[sample], name = tv.adjust_brightness(expected[sample], gain), "b"
            orders[sample] += name
    assert all(sorted(order) == ["b", "c", "h", "s"] for order in orders)
    assert len(set(orders)) > 6
    torch.testing.assert_close(mixed, torch.stack(expected), atol=TOLERANCE, rtol=0)


def test_views_have_their_shapes_and_are_normalised() -> None:
    crops = CropsConfig(global_px=32, local_px=16, globals_per_image=2, locals_per_image=3)
    quiet = AugmentConfig(
        flip=0, jitter=0, grey=0, solarise=0, global_blur=(0, 0), local_blur=0, downsample=0
    )
    images = torch.full((5, 3, 40, 40), 128, dtype=torch.uint8)
    views = ViewMaker(crops, quiet)(images, generator())
    assert views.globals_.shape == (10, 3, 32, 32)
    assert views.locals_.shape == (15, 3, 16, 16)
    assert views.num_images == 5
    expected = (128 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    for tensor in (views.globals_, views.locals_):
        torch.testing.assert_close(tensor.mean(dim=(0, 2, 3)), expected, atol=1e-4, rtol=0)
        assert tensor.std(dim=(0, 2, 3)).max() < 1e-4


def test_views_in_bf16_are_the_float32_ones_rounded_once() -> None:
    crops = CropsConfig(global_px=24, local_px=16)
    images = noise_images(6)
    exact = ViewMaker(crops, AugmentConfig())(images, generator())
    rough = ViewMaker(crops, AugmentConfig(), torch.bfloat16)(images, generator())
    for views, expected in ((rough.globals_, exact.globals_), (rough.locals_, exact.locals_)):
        assert views.dtype == torch.bfloat16
        assert torch.equal(views, expected.bfloat16())


def test_views_are_crop_major() -> None:
    crops = CropsConfig(global_px=16, local_px=16, globals_per_image=2, locals_per_image=2)
    quiet = AugmentConfig(jitter=0, grey=0, solarise=0)
    images = torch.stack([torch.full((3, 20, 20), 60 * i, dtype=torch.uint8) for i in range(4)])
    views = ViewMaker(crops, quiet)(images, generator())
    for tensor in (views.globals_, views.locals_):
        order = tensor.mean(dim=(1, 2, 3)).view(2, 4)
        assert (order.diff(dim=1) > 0).all()
        torch.testing.assert_close(order[0], order[1], atol=1e-4, rtol=0)


def test_the_generator_decides_and_samples_differ() -> None:
    make = ViewMaker(CropsConfig(global_px=24, local_px=16), AugmentConfig())
    images = noise_images(1).expand(6, -1, -1, -1)
    first, again = make(images, generator()), make(images, generator())
    assert torch.equal(first.globals_, again.globals_)
    assert torch.equal(first.locals_, again.locals_)
    assert not torch.equal(first.globals_, make(images, generator(step=1)).globals_)
    assert not torch.equal(first.globals_, make(images, generator(rank=1)).globals_)
    for one in range(6):
        for other in range(one):
            assert not torch.equal(first.globals_[one], first.globals_[other])


@pytest.mark.parametrize("chosen", [[0, 3, 4, 8], [7], list(range(9))])
def test_views_of_some_images_are_those_of_the_whole_batch(chosen: list[int]) -> None:
    crops = CropsConfig(global_px=24, local_px=16, globals_per_image=2, locals_per_image=3)
    make = ViewMaker(crops, AugmentConfig(downsample=0.5, downsample_px=(8, 12)))
    images = noise_images(9)
    whole = make(images, generator())
    rows = torch.tensor(chosen)
    height, width = images.shape[2:]
    params = make.draw(9, height=height, width=width, generator=generator())
    some = make.make(images[rows], params.of_images(rows))
    assert some.num_images == len(chosen)
    for part, of_all in ((some.globals_, whole.globals_), (some.locals_, whole.locals_)):
        expected = of_all.unflatten(0, (-1, 9))[:, rows].flatten(0, 1)
        torch.testing.assert_close(part, expected, atol=TOLERANCE, rtol=0)
    only = make.make(images[rows], params.of_images(rows).only_globals())
    assert torch.equal(only.globals_, some.globals_)
    assert only.locals_.shape == (0, 3, 16, 16)


def test_two_global_crops_of_an_image_are_of_different_halves() -> None:
    """First half: always blurred here. Second half: always solarised, so white becomes black."""
    crops = CropsConfig(global_px=16, local_px=16, globals_per_image=2, locals_per_image=0)
    augment = AugmentConfig(jitter=0, grey=0, solarise=1.0, global_blur=(1.0, 0.0))
    images = torch.full((40, 3, 20, 20), 255, dtype=torch.uint8)
    views = ViewMaker(crops, augment)(images, generator())
    dark = views.globals_.mean(dim=(1, 2, 3)).view(2, 40) < 0
    assert (dark[0] != dark[1]).all()
    assert 10 < int(dark[0].sum()) < 30
    assert views.locals_.shape == (0, 3, 16, 16)


def test_probabilities_are_those_of_the_settings() -> None:
    num = 4000
    settings = CropSettings(
        AugmentConfig(), (0.3, 1.0), (0.1, 2.0), torch.full((num,), 0.5), torch.full((num,), 0.2)
    )
    params = draw_crop(settings, height=256, width=256, generator=generator())
    jittered = sum(step.hue.index_K.numel() for step in params.jitter)
    low = sum(index.numel() for index in params.downsample.values())
    shares = {
        "flip": params.flips_N.float().mean().item(),
        "jitter": jittered / num,
        "grey": params.grey_K.numel() / num,
        "blur": params.blur.index_K.numel() / num,
        "solarise": params.solarise_K.numel() / num,
        "downsample": low / num,
    }
    expected = {"flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.5, "solarise": 0.2}
    assert shares == pytest.approx({**expected, "downsample": 0.05}, abs=0.03)
    assert set(params.downsample) == {64, 128}
    assert params.blur.values_K.min() >= 0.1
    assert params.blur.values_K.max() <= 2.0


def test_downsampled_views_lose_detail() -> None:
    crops = CropsConfig(global_px=32, local_px=16, locals_per_image=0)
    plain = AugmentConfig(flip=0, jitter=0, grey=0, solarise=0, global_blur=(0, 0), downsample=0)
    always = plain.model_copy(update={"downsample": 1.0, "downsample_px": (8,)})
    images = noise_images(4, 40, 40)
    sharp = ViewMaker(crops, plain)(images, generator()).globals_
    soft = ViewMaker(crops, always)(images, generator()).globals_
    assert soft.std() < 0.5 * sharp.std()


def test_luma_of_grey_is_grey() -> None:
    grey = torch.rand(2, 1, 5, 5).expand(2, 3, 5, 5)
    torch.testing.assert_close(grey_of(grey), grey[:, :1], atol=2e-4, rtol=0)


def test_other_images_are_refused() -> None:
    make = ViewMaker(CropsConfig(global_px=16), AugmentConfig())
    with pytest.raises(ValueError, match="uint8"):
        make(torch.rand(2, 3, 20, 20), generator())
