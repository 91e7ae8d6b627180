"""The image codec: a small AutoencoderKL (64 px to 8 x 8 x 12), trained on crops, then on frames.

Each latent channel's mean and deviation are folded into the 1 x 1 convolutions around the latent,
so that `scaling_factor` is 1 and any stock pipeline reads the model right.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKL

from recipes.embedded_image_model.config import VaeConfig
from recipes.embedded_image_model.training import Clock, Ema, cosine_rate, load_state, save_state

LATENT_CHANNELS = 12
OBJECT_WEIGHT = 2.0


def build(config: VaeConfig) -> AutoencoderKL:
    """The untrained codec."""
    levels = len(config.channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def crops(images_NCHW: torch.Tensor, *, batch: int, side_px: int, rng: torch.Generator):
    """Random square crops of random images, mirrored at random, in [-1, 1]: (B, 4, s, s)."""
    rows = torch.randint(len(images_NCHW), (batch,), generator=rng)
    spare = images_NCHW.shape[-1] - side_px
    tops, lefts = torch.randint(spare + 1, (2, batch), generator=rng).tolist()
    cut = [
        images_NCHW[row, :, top : top + side_px, left : left + side_px]
        for row, top, left in zip(rows.tolist(), tops, lefts, strict=True)
    ]
    crops_BCss = torch.stack(cut).float().div(127.5).sub(1)
    mirrored = torch.rand(batch, generator=rng) < 0.5
    crops_BCss[mirrored] = crops_BCss[mirrored].flip(-1)
    return crops_BCss


def picture_loss(got: torch.Tensor, want: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """Absolute and squared pixel error, and absolute error of neighbouring differences.

    Pixels of the object weigh `OBJECT_WEIGHT` times those of the background; `cover` in [-1, 1].
    """
    weight = 1 + (OBJECT_WEIGHT - 1) * (cover + 1) / 2
    error = (got - want) * weight
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2.0 * error.square().mean() + 0.5 * edges


def train(images_NCHW: torch.Tensor, work: Path, config: VaeConfig, *, seed: int) -> AutoencoderKL:
    """Train on uint8 images whose fourth channel is the object's cover; latents folded to N(0, 1).

    Resumes from `work/vae_state.pt`; the finished codec is in `work/vae`.
    Phase one sees crops (cheap steps), phase two whole frames (so that norms see what they will).
    """
    folder = work / "vae"
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder)
    torch.manual_seed(seed)
    vae = build(config)
    ema = Ema(vae, decay=0.998)
    optimiser = torch.optim.AdamW(
        vae.parameters(), lr=config.rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True
    )
    start = load_state(work / "vae_state.pt", vae, ema, optimiser)
    steps = config.crop_steps + config.frame_steps
    clock = Clock("vae", steps, start)
    for step in range(start, steps):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        whole = step >= config.crop_steps
        batch, side = (config.frame_batch, 64) if whole else (config.crop_batch, 32)
        seen = crops(images_NCHW, batch=batch, side_px=side, rng=rng)
        x, cover = seen[:, :3], seen[:, 3:]
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, steps, config.rate, warm=100)
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(x).latent_dist
            got = vae.decode(latent.mode() + config.noise * torch.randn_like(latent.mean)).sample
        mean, logvar = latent.mean.float(), latent.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = picture_loss(got.float(), x, cover) + config.kl_weight * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update(vae)
        error = F.mse_loss(got.detach().float(), x).item()
        clock.tick(step, f"psnr {10 * math.log10(4 / error):.2f} kl {kl.item():.3f}")
        if (step + 1) % config.save_every == 0:
            save_state(work / "vae_state.pt", vae, ema, optimiser, step + 1)
    ema.copy_to(vae)
    fold_latent_statistics(vae, images_NCHW[:2048])
    save_whole(vae, folder)
    print(f"vae: PSNR on frames {psnr(vae, images_NCHW[-512:]):.2f} dB", flush=True)
    return vae


def save_whole(vae: AutoencoderKL, folder: Path) -> None:
    """Write the codec so that its folder is there whole or not at all."""
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    vae.save_pretrained(fresh)
    fresh.rename(folder)


@torch.no_grad()
def encode(vae: AutoencoderKL, images_NCHW: torch.Tensor, *, batch: int = 128) -> torch.Tensor:
    """Latents (N, C, 8, 8) float16 of uint8 images, the distribution's mode."""
    parts = []
    for chunk in images_NCHW.split(batch):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(
                vae.encode(chunk[:, :3].float().div(127.5).sub(1)).latent_dist.mode().half()
            )
    return torch.cat(parts)


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, images_NCHW: torch.Tensor) -> None:
    """Rescale the latent so that every channel has mean 0 and deviation 1, decoding unchanged."""
    latents = encode(vae, images_NCHW).float().transpose(0, 1).flatten(1)
    mean, deviation = latents.mean(dim=1), latents.std(dim=1)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:LATENT_CHANNELS] /= deviation[:, None, None, None]
    into.bias[:LATENT_CHANNELS] = (into.bias[:LATENT_CHANNELS] - mean) / deviation
    into.bias[LATENT_CHANNELS:] -= 2 * deviation.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]


@torch.no_grad()
def psnr(vae: AutoencoderKL, images_NCHW: torch.Tensor) -> float:
    """Mean PSNR in dB of encoding and decoding uint8 images."""
    total, count = 0.0, 0
    for chunk in images_NCHW.split(64):
        x = chunk[:, :3].float().div(127.5).sub(1)
        got = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        total += (-10 * torch.log10((got - x).square().mean(dim=(1, 2, 3)) / 4)).sum().item()
        count += len(chunk)
    return total / count


def tune_decoder(
    vae: AutoencoderKL, images_NCHW: torch.Tensor, work: Path, config: VaeConfig, *, seed: int
) -> AutoencoderKL:
    """Train the decoder on with the encoder frozen: latents, and what learns on them, stay valid.

    May run beside the denoiser's training. Resumes from `work/decoder_state.pt`; the result is in
    `work/vae_tuned`. Latents get noise, so that the decoder bears with a denoiser's small errors.
    """
    folder = work / "vae_tuned"
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    latents = encode(vae, images_NCHW)
    parts = torch.nn.ModuleList([vae.decoder, vae.post_quant_conv])
    ema = Ema(parts, decay=0.998)
    optimiser = torch.optim.AdamW(
        parts.parameters(), lr=config.decoder_rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True
    )
    start = load_state(work / "decoder_state.pt", parts, ema, optimiser)
    clock = Clock("decoder", config.decoder_steps, start)
    average = 0.0
    for step in range(start, config.decoder_steps):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + 500_009 + step)
        rows = torch.randint(len(latents), (config.frame_batch,), generator=rng)
        seen, z = images_NCHW[rows].float().div(127.5).sub(1), latents[rows].float()
        x, cover = seen[:, :3], seen[:, 3:]
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, config.decoder_steps, config.decoder_rate, warm=50)
        z = z + config.noise * torch.randn(z.shape, generator=rng)
        with torch.autocast("cpu", torch.bfloat16):
            got = vae.decode(z).sample
        loss = picture_loss(got.float(), x, cover)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update(parts)
        error = F.mse_loss(got.detach().float(), x).item()
        average = error if step == start else 0.99 * average + 0.01 * error
        clock.tick(step, f"psnr {10 * math.log10(4 / average):.2f}")
        if (step + 1) % config.save_every == 0 or step + 1 == config.decoder_steps:
            save_state(work / "decoder_state.pt", parts, ema, optimiser, step + 1)
    ema.copy_to(parts)
    save_whole(vae, folder)
    return vae


def averaged_decoder(work: Path) -> AutoencoderKL:
    """The codec with the tuned decoder so far: from the last checkpoint if there is one."""
    vae = AutoencoderKL.from_pretrained(work / "vae")
    parts = torch.nn.ModuleList([vae.decoder, vae.post_quant_conv])
    ema = Ema(parts, decay=0.998)
    if load_state(work / "decoder_state.pt", parts, ema, None):
        ema.copy_to(parts)
    return vae.eval()
