"""The denoiser: built, and trained in the codec's latent space on what the text encoder says.

v-prediction on a squared-cosine schedule. The denoiser looks at the text with cross-attention at
its outer level, where it paints patch by patch, and gets the pooled text with the time embedding
(`addition_embed_type="text"`), both as the stock pipeline does it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recipes.embedded_image_model.config import TextConfig, UnetConfig
from recipes.embedded_image_model.latents import Batch, LatentPool
from recipes.embedded_image_model.training import (
    Clock,
    Ema,
    late_decay_rate,
    load_state,
    save_state,
)
from recipes.embedded_image_model.vae import LATENT_CHANNELS

STATE = "unet_state.pt"


def scheduler() -> DDIMScheduler:
    """The noise schedule of the training."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused by trailing spacing; 0 draws a deprecation warning
    )


def sampler() -> DPMSolverMultistepScheduler:
    """The sampler the folder ships with: DPM-Solver++ 2M on the same schedule."""
    return DPMSolverMultistepScheduler.from_config(scheduler().config)


def build_unet(config: UnetConfig, text: TextConfig) -> UNet2DConditionModel:
    """An untrained denoiser: attention and convolutions at 8 x 8, convolutions alone at 4 x 4."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=config.channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text.width,
        attention_head_dim=4,
        norm_num_groups=32,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
        encoder_hid_dim=text.width,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def train(
    pool: LatentPool,
    unet: UNet2DConditionModel,
    empty_TD: torch.Tensor,
    work: Path,
    config: UnetConfig,
    *,
    seed: int,
) -> None:
    """Train, resuming from `work/unet_state.pt`; alone or as one of a group of processes.

    pool: this process's own. empty_TD: the text encoder's states for the empty caption, which
    stands in for some captions so that the denoiser can be guided (classifier-free guidance).
    Processes of a group wait for each other in every step's backward pass.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    ema = Ema(unet, decay=config.ema)
    optimiser = torch.optim.AdamW(
        unet.parameters(), lr=config.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    state = work / STATE
    start = load_state(state, unet, ema, optimiser)
    net = DistributedDataParallel(unet, gradient_as_bucket_view=True) if world > 1 else unet
    noise_schedule = scheduler()
    clock = Clock("unet", config.steps, start)
    share, refresh_every = config.batch // world, 4
    fresh = max(1, round(refresh_every * share / config.uses))
    torch.manual_seed(seed + start + 1_000_003 * rank)
    average = 0.0
    for step in range(start, config.steps):
        if step % refresh_every == 0 and step > start:
            pool.refresh(fresh)
        for group in optimiser.param_groups:
            group["lr"] = late_decay_rate(
                step, config.steps, config.rate, warm=300, tail=config.decay_share
            )
        loss = step_loss(net, pool.draw(share), empty_TD, noise_schedule, config)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update(unet)
        keep = min(0.99, (step - start) / (step - start + 1))
        average = keep * average + (1 - keep) * loss.item()
        if rank == 0:
            clock.tick(step, f"loss {average:.4f}")
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save_state(state, unet, ema, optimiser, step + 1)


def averaged(unet: UNet2DConditionModel, work: Path, config: UnetConfig) -> UNet2DConditionModel:
    """The denoiser with the averaged weights of the checkpoint in `work`."""
    ema = Ema(unet, decay=config.ema)
    load_state(work / STATE, unet, ema, None)
    ema.copy_to(unet)
    return unet.eval()


def draw_times(count: int, shift: float) -> torch.Tensor:
    """Diffusion times (B,): one in four anywhere, the others around sigmoid(`shift`) of the way."""
    crowded = torch.sigmoid(0.9 * torch.randn(count) + shift)
    share = torch.where(torch.rand(count) < 0.75, crowded, torch.rand(count))
    return (share * 1000).long().clamp(0, 999)


def step_loss(
    net: nn.Module,
    batch: Batch,
    empty_TD: torch.Tensor,
    noise_schedule: DDIMScheduler,
    config: UnetConfig,
) -> torch.Tensor:
    """Mean squared error of v, some captions replaced by the empty one."""
    clean = batch.latents_BCHW
    count = len(clean)
    dropped = torch.rand(count) < config.drop_text
    noise, time_B = torch.randn_like(clean), draw_times(count, config.time_shift)
    noisy = noise_schedule.add_noise(clean, noise, time_B)
    want = noise_schedule.get_velocity(clean, noise, time_B)
    states_BTD = torch.where(dropped[:, None, None], empty_TD[None], batch.states_BTD)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(noisy, time_B, states_BTD).sample
    return F.mse_loss(got.float(), want)
