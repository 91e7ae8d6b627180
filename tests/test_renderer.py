"""Renderers: one source of chance an image, whatever else is in the batch; and the same again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import numpy as np
import pytest
import torch

from generators.errors import GeneratorError, SetupError
from generators.images import diffusers_renderer
from generators.images.diffusers_renderer import DiffusersRenderer
from generators.images.factory import create_renderer
from generators.images.noise import noise_generator
from generators.images.pipeline import drop_safety_checker, resolve_image_model
from generators.images.pixels import to_uint8
from generators.images.quality_gate import QualityGate
from generators.images.renderer import Rendered, re_render
from generators.images.synthetic_renderer import SyntheticRenderer
from generators.images.tuning import time_step_to_device
from online_synclr.config.schema import ImagesConfig
from online_synclr.stream.group import Recipe
from tests.tiny_pipeline import save_tiny_pipeline

LEVELS = 2
"""Stated tolerance in float32, of 255 (see DiffusersRenderer)."""

HALF_PRECISION_LEVELS = 16

SCHEDULERS = ["model", "ddim", "euler", "euler_ancestral", "lcm", "dpmsolver++", "unipc"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("images"))


@pytest.fixture(params=SCHEDULERS)
def renderer(request: pytest.FixtureRequest, pipeline: Path) -> Iterator[DiffusersRenderer]:
    made = make(pipeline, scheduler=request.param)
    yield made
    made.close()


def make(pipeline: Path, **changes: object) -> DiffusersRenderer:
    settings = {
        "dtype": "float32",
        "render_px": 32,
        "send_px": 32,
        "steps": 3,
        "per_caption": 2,
        "guidance": 2.0,
    }
    config = ImagesConfig.model_validate({"model": str(pipeline), **settings, **changes})
    return DiffusersRenderer(config, device="cpu")


def recipe(counter: int, fingerprint: str = "", **changes: object) -> Recipe:
    made = Recipe(
        caption=f"a red fox {counter}",
        concept="red fox",
        source="animals",
        template="concept",
        background="",
        relation="",
        run_seed=1,
        incarnation=1,
        stream=0,
        counter=counter,
        num_images=2,
        llm_fingerprint="llm",
        image_fingerprint=fingerprint,
    )
    return msgspec.structs.replace(made, **changes)


def pixels(rendered: Rendered) -> np.ndarray:
    return rendered.group.images_mchw.astype(int)


def test_a_group_does_not_depend_on_its_batch(renderer: DiffusersRenderer) -> None:
    together = renderer.render([recipe(counter) for counter in range(3)])
    for counter, among_others in enumerate(together):
        (alone,) = renderer.render([recipe(counter)])
        assert abs(pixels(alone) - pixels(among_others)).max() <= LEVELS


def test_half_precision_keeps_groups_apart_from_their_batch(pipeline: Path) -> None:
    renderer = make(pipeline, dtype="bfloat16")
    together = renderer.render([recipe(counter) for counter in range(3)])
    for counter, among_others in enumerate(together):
        (alone,) = renderer.render([recipe(counter)])
        assert abs(pixels(alone) - pixels(among_others)).max() <= HALF_PRECISION_LEVELS


def test_images_of_a_group_differ_and_have_the_promised_form(renderer: DiffusersRenderer) -> None:
    (rendered,) = renderer.render([recipe(0)])
    images = rendered.group.images_mchw
    assert images.dtype == np.uint8
    assert images.shape == (2, 3, 32, 32)
    assert images.flags.c_contiguous
    assert rendered.finite
    assert abs(pixels(rendered)[0] - pixels(rendered)[1]).mean() > 1


def test_the_same_recipe_at_the_same_batch_shape_is_equal(renderer: DiffusersRenderer) -> None:
    first, second = (renderer.render([recipe(7)])[0] for _ in range(2))
    assert np.array_equal(first.group.images_mchw, second.group.images_mchw)


@pytest.mark.parametrize("scheduler", ["euler_ancestral", "lcm"])
def test_step_noise_comes_from_each_images_own_seed(pipeline: Path, scheduler: str) -> None:
    """With the first latents fixed, only the noise of the steps can tell two seeds apart."""
    renderer = make(pipeline, scheduler=scheduler)
    latents = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))

    def render(seeds: list[int]) -> torch.Tensor:
        return renderer._pipeline(
            prompt=["a red fox"] * len(seeds),
            latents=latents.repeat(len(seeds), 1, 1, 1),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=3,
            guidance_scale=2.0,
            output_type="pt",
        ).images

    first, second, again = render([1, 2, 1])
    assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(first, again, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(first, render([1])[0], atol=1e-4, rtol=0.0)


def test_re_render_has_identical_noise_and_equal_pixels(pipeline: Path) -> None:
    first = make(pipeline, scheduler="euler_ancestral")
    made = recipe(3, fingerprint=first.fingerprint)
    group = first.render([made])[0].group
    second = make(pipeline, scheduler="euler_ancestral")
    assert np.array_equal(re_render(second, made).images_mchw, group.images_mchw)
    assert (
        made.noise_seeds()
        == msgspec.json.decode(msgspec.json.encode(made), type=Recipe).noise_seeds()
    )


def test_re_render_refuses_another_model_or_setting(pipeline: Path) -> None:
    made = recipe(3, fingerprint=make(pipeline).fingerprint)
    with pytest.raises(GeneratorError, match="rendered by"):
        re_render(make(pipeline, steps=4), made)


def test_fingerprint_follows_what_changes_pixels(pipeline: Path) -> None:
    base = make(pipeline).fingerprint
    assert make(pipeline, batch_groups=2).fingerprint == base
    assert make(pipeline, guidance=3.0).fingerprint != base
    assert make(pipeline, scheduler_args={"timestep_spacing": "trailing"}).fingerprint != base


def test_scheduler_arguments_reach_the_scheduler(pipeline: Path) -> None:
    renderer = make(pipeline, scheduler="ddim", scheduler_args={"timestep_spacing": "trailing"})
    assert renderer._pipeline.scheduler.config.timestep_spacing == "trailing"


def test_call_arguments_reach_the_pipeline(pipeline: Path) -> None:
    """The time steps that DMD2 was distilled at are not those that its scheduler would choose."""
    steps = [999, 749, 499, 249]
    chosen = make(pipeline, scheduler="lcm", steps=4)
    asked = make(pipeline, scheduler="lcm", steps=4, call_args={"timesteps": steps})
    first, second = (made.render([recipe(0)])[0] for made in (chosen, asked))
    assert asked._pipeline.scheduler.timesteps.tolist() == steps
    assert chosen._pipeline.scheduler.timesteps.tolist() != steps
    assert not np.array_equal(first.group.images_mchw, second.group.images_mchw)
    assert chosen.fingerprint != asked.fingerprint


def test_call_arguments_that_the_pipeline_does_not_take_are_one_line(pipeline: Path) -> None:
    with pytest.raises(
        SetupError, match=r"images\.call_args: StableDiffusionPipeline takes no max"
    ):
        make(pipeline, call_args={"max_sequence_length": 256})


def test_negative_prompt_changes_the_picture(pipeline: Path) -> None:
    plain = make(pipeline).render([recipe(0), recipe(1)])[0]
    other = make(pipeline, negative_prompt="a blue owl").render([recipe(0), recipe(1)])[0]
    assert abs(pixels(plain) - pixels(other)).max() > 0


def test_pictures_are_averaged_down_to_the_size_that_is_sent(pipeline: Path) -> None:
    large = pixels(make(pipeline).render([recipe(0)])[0])
    small = pixels(make(pipeline, send_px=16).render([recipe(0)])[0])
    averaged = large.reshape(2, 3, 16, 2, 16, 2).mean(axis=(3, 5))
    assert abs(averaged - small).max() <= 1


@pytest.mark.parametrize("send_px", [4, 5, 8, 12])
def test_resizing_keeps_flat_pictures_flat(send_px: int) -> None:
    out, finite = to_uint8(torch.full((2, 3, 8, 8), 0.5), send_px)
    assert out.shape == (2, 3, send_px, send_px)
    assert out.unique().tolist() == [128]
    assert finite.tolist() == [True, True]


def test_non_finite_pictures_are_seen() -> None:
    images = torch.rand(3, 3, 8, 8)
    images[1, 0, 0, 0] = torch.nan
    images[2, 0, 0, 0] = torch.inf
    out, finite = to_uint8(images, 8)
    assert finite.tolist() == [True, False, False]
    assert out.dtype == torch.uint8


@pytest.mark.parametrize(
    ("bias", "reason"), [(torch.nan, "non_finite"), (torch.inf, "low_contrast")]
)
def test_a_decoder_that_overflows_is_refused(pipeline: Path, bias: float, reason: str) -> None:
    renderer = make(pipeline)
    with torch.no_grad():
        renderer._pipeline.vae.decoder.conv_out.bias.fill_(bias)
    (rendered,) = renderer.render([recipe(0)])
    assert QualityGate((2, 3, 32, 32), min_contrast=2.0).reason(rendered) == reason


def test_a_pipeline_that_ignores_its_seeds_is_refused(pipeline: Path) -> None:
    renderer = make(pipeline)
    call = renderer._pipeline

    def unseeded(**arguments: object) -> object:
        made = call(**arguments)
        made.images[1] = made.images[0]
        return made

    renderer._pipeline = unseeded
    (rendered,) = renderer.render([recipe(0)])
    assert QualityGate((2, 3, 32, 32), min_contrast=0.0).reason(rendered) == "identical"


def test_decoding_apart_gives_the_pipelines_own_pictures(pipeline: Path) -> None:
    renderer = make(pipeline)
    assert renderer._decoder is not None
    apart = renderer.render([recipe(0), recipe(1)])
    renderer._decoder = None
    within = renderer.render([recipe(0), recipe(1)])
    for one, other in zip(apart, within, strict=True):
        assert np.array_equal(one.group.images_mchw, other.group.images_mchw)


@pytest.mark.parametrize(
    "vae",
    [
        {"scaling_factor": 0.5},
        {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [2.0] * 4},
        {"shift_factor": 1.0},
    ],
)
def test_a_decoder_is_taken_only_if_its_pictures_are_the_pipelines(
    pipeline: Path, vae: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This pipeline knows a scale only; where a decoder's settings say more, it decodes itself."""
    load = diffusers_renderer.load_pipeline

    def loaded(*args: Any) -> Any:
        made = load(*args)
        made.vae.register_to_config(**vae)
        return made

    monkeypatch.setattr(diffusers_renderer, "load_pipeline", loaded)
    renderer = make(pipeline)
    assert (renderer._decoder is not None) == (list(vae) == ["scaling_factor"])
    (rendered,) = renderer.render([recipe(0)])
    assert rendered.group.images_mchw.shape == (2, 3, 32, 32)


def test_many_pictures_are_decoded_in_parts(pipeline: Path) -> None:
    renderer = make(pipeline)
    sizes: list[int] = []
    decode = renderer._pipeline.vae.decode

    def counted(latents: torch.Tensor, **arguments: object) -> object:
        sizes.append(len(latents))
        return decode(latents, **arguments)

    renderer._pipeline.vae.decode = counted
    rendered = renderer.render([recipe(counter) for counter in range(9)])
    assert sizes == [16, 2]
    assert len(rendered) == 9


def test_the_negative_prompt_is_encoded_once_for_all_batches(pipeline: Path) -> None:
    renderer = make(pipeline, negative_prompt="a blue owl")
    rows: list[int] = []
    encode = renderer._pipeline.text_encoder.forward

    def counted(tokens: torch.Tensor, **arguments: object) -> object:
        rows.append(len(tokens))
        return encode(tokens, **arguments)

    renderer._pipeline.text_encoder.forward = counted
    for first in (0, 3):
        renderer.render([recipe(first + counter) for counter in range(3)])
    assert rows == [3, 3]


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "lcm", "dpmsolver++"])
def test_time_steps_stay_on_the_host(pipeline: Path, scheduler: str) -> None:
    """`meta` stands for a GPU: steps that were made on it could not be looked up."""
    made = make(pipeline, scheduler=scheduler)._pipeline.scheduler
    for asked in ((3, "meta"), (3,)):
        made.set_timesteps(*asked)
        assert made.timesteps.device.type == "cpu"
        assert len(made.timesteps) == 3


def test_the_unet_gets_its_time_step_on_its_own_device() -> None:
    """`meta` again: nothing can be copied from it, so nothing was waited for."""
    step, text = torch.tensor(749), torch.zeros(2)
    latents = torch.empty(2, 4, 8, 8, device="meta")
    found = time_step_to_device(None, (latents, step, text))
    assert found[0] is latents
    assert (found[1].device.type, found[1].dtype, found[1].shape) == ("meta", step.dtype, ())
    assert found[2] is text
    on_host = torch.zeros(2, 4, 8, 8)
    assert time_step_to_device(None, (on_host, step))[1] is step
    assert time_step_to_device(None, (latents, 749))[1] == 749


def test_channels_last_is_chosen_by_device(pipeline: Path) -> None:
    def parts(**changes: object) -> tuple[bool, bool]:
        made = make(pipeline, **changes)._pipeline
        weights = (made.unet.conv_in.weight, made.vae.decoder.conv_in.weight)
        last = [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights]
        return last[0], last[1]

    assert parts() == (False, True)
    assert parts(channels_last=True) == (True, True)
    assert parts(channels_last=False) == (False, False)


@pytest.mark.parametrize(("asked", "compiled"), [("blocks", False), ("full", True)])
def test_compiled_pipelines_always_see_the_same_shape(
    pipeline: Path, asked: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled runs as it is here; that it would be the same each time is what counts."""
    asked_for: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: asked_for.append(module))
    renderer = make(pipeline, compile=asked, batch_groups=3)
    kinds = {type(module).__name__ for module in asked_for}
    assert "Decoder" in kinds
    assert ("UNet2DConditionModel" in kinds) == compiled
    assert ("BasicTransformerBlock" in kinds) != compiled
    sizes: list[int] = []
    unet = renderer._pipeline.unet.forward

    def counted(latents: torch.Tensor, *args: object, **arguments: object) -> object:
        sizes.append(len(latents))
        return unet(latents, *args, **arguments)

    renderer._pipeline.unet.forward = counted
    full = renderer.render([recipe(counter) for counter in range(3)])
    short = renderer.render([recipe(0)])
    assert set(sizes) == {2 * 3 * 2}
    assert [len(full), len(short)] == [3, 1]
    assert np.array_equal(full[0].group.images_mchw, short[0].group.images_mchw)
    assert renderer.fingerprint != make(pipeline).fingerprint


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_under_way_on_a_gpu_are_those_of_the_cpu(pipeline: Path) -> None:
    settings = {"render_px": 32, "send_px": 16, "steps": 3, "per_caption": 2, "guidance": 2.0}
    config = ImagesConfig.model_validate({"model": str(pipeline), "dtype": "float32", **settings})
    renderer = DiffusersRenderer(config, device="cuda")
    recipes = [recipe(counter) for counter in range(3)]
    first = renderer.submit(recipes)
    second = renderer.submit(recipes)
    rendered = [batch.result() for batch in (first, second)]
    for one, other in zip(*rendered, strict=True):
        assert np.array_equal(one.group.images_mchw, other.group.images_mchw)
    on_host = make(pipeline, send_px=16).render(recipes)
    for one, other in zip(rendered[0], on_host, strict=True):
        assert abs(pixels(one) - pixels(other)).max() <= LEVELS


class Gives:
    """Stands for a pipeline that makes pictures of one shape, whatever it is asked for."""

    def __init__(self, images: object) -> None:
        self.images = images

    def __call__(self, **arguments: object) -> "Gives":
        return self


@pytest.mark.parametrize(
    ("images", "mend"),
    [
        (torch.zeros(2, 3, 64, 64), r"set images\.render_px=64"),
        (torch.zeros(2, 3, 32, 64), "square RGB pictures"),
        (torch.zeros(2, 1, 32, 32), "square RGB pictures"),
        (torch.zeros(1, 3, 32, 32), "square RGB pictures"),
        (["a picture", "a picture"], "of shape list"),
    ],
)
def test_pictures_of_another_shape_are_a_wrong_setting(
    pipeline: Path, images: object, mend: str
) -> None:
    renderer = make(pipeline)
    renderer._decoder = None
    good = renderer._pipeline
    renderer._pipeline = Gives(images)
    with pytest.raises(SetupError, match=rf"images\.model=.*{mend}"):
        renderer.render([recipe(0)])
    renderer._pipeline = good
    renderer.render([recipe(0)])
    renderer._pipeline = Gives(images)
    with pytest.raises(GeneratorError, match=mend) as raised:
        renderer.render([recipe(0)])
    assert not isinstance(raised.value, SetupError), "it has worked, so a restart may help"


def test_model_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GeneratorError, match=r"images\.model=/nowhere could not be loaded"):
        make(Path("/nowhere"))
    monkeypatch.setattr("generators.images.pipeline.EMBEDDED_IMAGE_MODEL_DIR", Path("/nowhere"))
    with pytest.raises(SetupError, match=r"images\.model=embedded"):
        resolve_image_model("embedded")


def test_scheduler_that_refuses_its_arguments_is_one_line(pipeline: Path) -> None:
    with pytest.raises(SetupError, match=r"images\.scheduler_args"):
        make(pipeline, scheduler="ddim", scheduler_args={"beta_schedule": "unheard of"})


def test_every_bit_of_a_seed_makes_other_noise() -> None:
    def noise(seed: int) -> torch.Tensor:
        return torch.randn(4096, generator=noise_generator(seed))

    assert torch.equal(noise(2**62 + 5), noise(2**62 + 5))
    for bit in (0, 31, 32, 62):
        assert not torch.equal(noise(5), noise(5 ^ 2**bit))
    assert abs(float(noise(5).mean())) < 0.1
    assert abs(float(noise(5).std()) - 1.0) < 0.1


def test_a_lora_and_another_decoder_change_the_pixels(pipeline: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from safetensors.torch import save_file

    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    (tmp_path / "lora").mkdir()
    layers = [name for name, _ in unet.named_modules() if name.endswith("attn1.to_q")]
    factors = {
        f"unet.{name}.lora_{part}.weight": torch.randn(shape)
        for name in layers
        for part, shape in (("A", (2, unet.get_submodule(name).in_features)), ("B", (32, 2)))
    }
    save_file(factors, tmp_path / "lora" / "one_of_many.safetensors")
    decoder = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    decoder.save_pretrained(tmp_path / "vae")
    lora = {"lora": str(tmp_path / "lora"), "lora_file": "one_of_many.safetensors"}
    plain, tuned, other = (
        make(pipeline, guidance=0.0, **changes)
        for changes in ({}, lora, {"vae": str(tmp_path / "vae")})
    )
    assert other._decoder is not None, "a tiny decoder's latents are decoded apart as well"
    (one,), (two,), (three,) = (made.render([recipe(0)]) for made in (plain, tuned, other))
    assert one.group.images_mchw.shape == two.group.images_mchw.shape
    assert not np.array_equal(one.group.images_mchw, two.group.images_mchw)
    assert not np.array_equal(one.group.images_mchw, three.group.images_mchw)
    assert len({plain.fingerprint, tuned.fingerprint, other.fingerprint}) == 3


def test_synthetic_renderer_is_deterministic_and_says_what_it_is() -> None:
    said: list[str] = []
    settings = ImagesConfig(backend="synthetic", send_px=16, per_caption=2)
    renderer = create_renderer(settings, device="cpu", say=said.append)
    together = renderer.render([recipe(0), recipe(1)])
    (alone,) = renderer.render([recipe(1)])
    assert np.array_equal(together[1].group.images_mchw, alone.group.images_mchw)
    assert alone.group.images_mchw.shape == (2, 3, 16, 16)
    assert QualityGate((2, 3, 16, 16), min_contrast=2.0).reason(alone) is None
    assert "SYNTHETIC" in said[0]


def test_synthetic_renderer_keeps_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], []
    settings = ImagesConfig(backend="synthetic", send_px=8, rate_images_per_s=4.0)
    renderer = SyntheticRenderer(settings, clock=lambda: now[0])

    def wait(duration_s: float) -> None:
        waits.append(duration_s)
        now[0] += duration_s

    monkeypatch.setattr(renderer._closed, "wait", wait)
    for counter in range(3):
        now[0] += 0.1
        renderer.render([recipe(counter)])
    # Two images a call at four a second: half a second each, less what the work took.
    assert waits == pytest.approx([0.4, 0.4, 0.4])


class FakeSafetyChecker(torch.nn.Module):
    """Stands where Stable Diffusion 1.x has its checker."""


def test_a_safety_checker_is_dropped_on_loading(tmp_path: Path) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(tmp_path))
    pipeline.register_modules(safety_checker=FakeSafetyChecker())
    drop_safety_checker(pipeline)
    assert pipeline.safety_checker is None
    assert not pipeline.config.requires_safety_checker
