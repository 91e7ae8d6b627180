"""Images a second of the renderer, against calling the plain diffusers pipeline caption by caption.

    python -m benchmarks.render                                       # embedded model, one thread
    python -m benchmarks.render --threads 2
    python -m benchmarks.render --model sd15 --device cuda            # and --steps 4 --compile full

Both have the same weights, dtype, scheduler, steps, guidance, captions and noise. The plain
pipeline is called as its documentation does: one caption, `num_images_per_prompt=m`, uint8 pictures
on the host. The renderer takes `--groups` captions a batch and has one batch under way while the
one before is fetched, as the engine's loop does. `--model sd15` has the size of Stable Diffusion
1.5 and random weights: for timing only, its pictures are noise.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import REPEATS, describe, interleave, ratio, spread, table
from generators.images.diffusers_renderer import DiffusersRenderer
from generators.images.noise import noise_generator
from generators.images.pipeline import choose_dtype, drop_safety_checker
from generators.images.renderer import Rendered
from online_synclr.config.schema import EMBEDDED, ImagesConfig
from online_synclr.paths import EMBEDDED_IMAGE_MODEL_DIR
from online_synclr.stream.group import Recipe

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PLAIN = "plain, caption by caption"
THINGS = ("red fox", "sailing boat", "slice of pizza", "blue car", "owl", "tree", "violin", "frog")
PLACES = ("on a beach", "in the snow", "at night", "in a green field", "beside a house")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = save_sd15(Path(folder), options.device) if options.model == "sd15" else EMBEDDED
        settings = image_settings(options, model)
        renderer = DiffusersRenderer(settings, device=options.device)
        pipeline = plain_pipeline(settings, options.device)
    recipes = make_recipes(options.groups * options.batches, settings.per_caption)
    cases = {
        PLAIN: lambda: plain(pipeline, recipes, settings),
        "renderer": lambda: rendered(renderer, recipes, settings.batch_groups),
    }
    print(f"largest difference: {difference(*(case() for case in cases.values()))}\n")
    clock = CLOCKS[options.clock]
    speeds = {name: speed(case, clock) for name, case in cases.items()}
    values = interleave(speeds, options.repeats, warm_up=False)
    report(options, settings, values)
    print(shares_table(renderer, recipes, settings))
    print(f"\n{describe('torch', 'diffusers', 'transformers')}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("embedded", "sd15"), default="embedded")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--groups", type=int, default=8, help="captions of a batch")
    parser.add_argument("--batches", type=int, default=1, help="batches of a repeat; on a GPU 3")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--compile", choices=("none", "blocks", "full"), default="none")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: where others keep the machine busy"
    )
    return parser.parse_args(arguments)


def image_settings(options: argparse.Namespace, model: str) -> ImagesConfig:
    large = options.model == "sd15"
    return ImagesConfig.model_validate(
        {
            "model": model,
            "steps": options.steps,
            "guidance": options.guidance,
            "render_px": 512 if large else 64,
            "send_px": 256 if large else 64,
            "batch_groups": options.groups,
            "compile": options.compile,
        }
    )


def make_recipes(count: int, num_images: int) -> list[Recipe]:
    return [
        Recipe(
            caption=f"a {THINGS[i % len(THINGS)]} {PLACES[i % len(PLACES)]}",
            concept=THINGS[i % len(THINGS)],
            source="benchmark",
            template="concept",
            background="",
            relation="",
            run_seed=0,
            incarnation=1,
            stream=0,
            counter=i,
            num_images=num_images,
            llm_fingerprint="benchmark",
            image_fingerprint="benchmark",
        )
        for i in range(count)
    ]


def plain_pipeline(settings: ImagesConfig, device: str) -> Any:
    """As a user would load it, at the renderer's precision."""
    import diffusers

    folder = EMBEDDED_IMAGE_MODEL_DIR if settings.model == EMBEDDED else Path(settings.model)
    dtype = choose_dtype(settings.dtype, torch.device(device))
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=dtype)
    drop_safety_checker(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def plain(pipeline: Any, recipes: Sequence[Recipe], settings: ImagesConfig) -> list[np.ndarray]:
    groups = []
    for recipe in recipes:
        images_NHWC = pipeline(
            recipe.caption,
            num_images_per_prompt=recipe.num_images,
            generator=[noise_generator(seed) for seed in recipe.noise_seeds()],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            height=settings.render_px,
            width=settings.render_px,
            output_type="np",
        ).images
        factor = settings.render_px // settings.send_px
        side = settings.send_px
        small = images_NHWC.reshape(len(images_NHWC), side, factor, side, factor, 3).mean((2, 4))
        groups.append((small * 255.0).round().astype(np.uint8).transpose(0, 3, 1, 2))
    return groups


def rendered(
    renderer: DiffusersRenderer, recipes: Sequence[Recipe], batch_groups: int
) -> list[np.ndarray]:
    """Batch by batch, with one under way."""
    groups: list[Rendered] = []
    before = None
    for start in range(0, len(recipes), batch_groups):
        now = renderer.submit(recipes[start : start + batch_groups])
        groups += before.result() if before is not None else []
        before = now
    groups += before.result() if before is not None else []
    return [one.group.images_mchw for one in groups]


def difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> str:
    """Between the same pictures, so that both really rendered them; of 255 levels."""
    levels = np.abs(np.stack(first).astype(int) - np.stack(second).astype(int))
    return f"{levels.max()} of 255 levels, {levels.mean():.2f} on average"


def speed(
    case: Callable[[], Sequence[np.ndarray]], clock: Callable[[], float]
) -> Callable[[], float]:
    """Images a second of one call."""

    def measure() -> float:
        started_s = clock()
        groups = case()
        return sum(len(group) for group in groups) / (clock() - started_s)

    return measure


def report(
    options: argparse.Namespace, settings: ImagesConfig, values: Mapping[str, list[float]]
) -> None:
    print(
        table(
            ("case", f"images/s, {options.clock} time", "to plain"),
            [
                (name, f"{spread(rates):.2f}", f"{ratio(rates, values[PLAIN]):.2f}")
                for name, rates in values.items()
            ],
        )
    )
    print(
        f"\n{options.model} on {options.device}, {options.threads} threads, {settings.steps} steps,"
        f" guidance {settings.guidance:g}, {options.groups} captions of {settings.per_caption}\n"
    )


def shares_table(
    renderer: DiffusersRenderer, recipes: Sequence[Recipe], settings: ImagesConfig
) -> str:
    """Where one batch's time goes; on a GPU each part is waited for, so nothing overlaps."""
    seconds: dict[str, float] = {}
    pipeline = renderer._pipeline
    parts = {
        "text encoder": (pipeline.text_encoder, "forward"),
        "denoiser": (pipeline.unet, "forward"),
        "decoder": (pipeline.vae, "decode"),
        "scheduler": (pipeline.scheduler, "step"),
    }
    batch = recipes[: settings.batch_groups]
    with timed_parts(parts, seconds):
        started_s = time.perf_counter()
        renderer.render(batch)
        total_s = time.perf_counter() - started_s
    seconds["noise, conversion, the rest"] = total_s - sum(seconds.values())
    return table(
        ("part", "share of the time"),
        [(name, f"{100 * value / total_s:.1f} %") for name, value in seconds.items()],
    )


@contextmanager
def timed_parts(parts: Mapping[str, tuple[Any, str]], seconds: dict[str, float]) -> Iterator[None]:
    def timed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started_s

        return call

    for name, (owner, method) in parts.items():
        setattr(owner, method, timed(name, getattr(owner, method)))
    try:
        yield
    finally:
        for owner, method in parts.values():
            delattr(owner, method)


def save_sd15(folder: Path, device: str) -> str:
    """A pipeline of Stable Diffusion 1.5's sizes (its published configurations), random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=2,
            sample_size=512,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        )
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        # Its words do not matter: the text is cut and padded to 77 tokens all the same.
        tokenizer=CLIPTokenizer.from_pretrained(
            EMBEDDED_IMAGE_MODEL_DIR / "tokenizer", model_max_length=77
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "sd15")
    return str(folder / "sd15")


if __name__ == "__main__":
    main()
