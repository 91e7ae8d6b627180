"""The text encoder and the denoiser: built, trained together in the codec's latent space.

v-prediction on a squared-cosine schedule, uniform over time. The denoiser looks at the text with
cross-attention at its inner level, and gets the pooled text with the time embedding
(`addition_embed_type="text"`), both as the stock pipeline does it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipes.embedded_image_model.concepts import CONCEPTS
from recipes.embedded_image_model.config import TextConfig, UnetConfig
from recipes.embedded_image_model.latents import Batch, LatentPool, text_states, tokenise
from recipes.embedded_image_model.training import Clock, Ema, cosine_rate, load_state, save_state
from recipes.embedded_image_model.vae import LATENT_CHANNELS


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


def build_text(config: TextConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder for the tokenizer."""
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            projection_dim=config.width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    text.set_attn_implementation("eager")  # the fused kind's backward is slow on a CPU
    return text


def build_unet(config: UnetConfig, text: TextConfig) -> UNet2DConditionModel:
    """An untrained denoiser: convolutions at 8 x 8, convolutions and attention at 4 x 4."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=config.channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text.width,
        attention_head_dim=4,
        norm_num_groups=32,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
        encoder_hid_dim=text.width,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


class TextToLatent(nn.Module):
    """Text encoder, denoiser and the auxiliary concept head as one trainable module."""

    def __init__(self, text: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text, self.unet = text, unet
        self.head = nn.Linear(text.config.hidden_size, len(CONCEPTS))

    def read(self, tokens_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Text states (B, T, D) and concept logits (B, K)."""
        seen = self.text(tokens_BT)
        return seen.last_hidden_state, self.head(seen.pooler_output)


def averaged_text(fresh: TextToLatent, work: Path, config: UnetConfig) -> CLIPTextModel:
    """The frozen text encoder: the averaged weights of the checkpoint in `work`."""
    ema = Ema(fresh, decay=config.ema)
    load_state(work / "unet_state.pt", fresh, ema, None)
    ema.copy_to(fresh)
    return fresh.text.requires_grad_(False).eval()


def train(
    pool: LatentPool,
    model: TextToLatent,
    tokenizer: CLIPTokenizer,
    work: Path,
    config: UnetConfig,
    *,
    seed: int,
) -> Ema:
    """Train, resuming from `work/unet_state.pt`; the averaged weights."""
    ema = Ema(model, decay=config.ema)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    state = work / "unet_state.pt"
    start = load_state(state, model, ema, optimiser)
    noise_schedule = scheduler()
    empty_T = tokenise(tokenizer, [""])[0]
    until, empty = min(config.joint_steps, config.steps), empty_T
    if pool.text is not None:
        model.text.requires_grad_(False).load_state_dict(pool.text.state_dict())
        until, empty = config.steps, text_states(pool.text, empty_T[None])[0]
    clock = Clock("unet", config.steps, start)
    refresh_every = 4
    fresh = max(1, round(refresh_every * config.batch / config.uses))
    torch.manual_seed(seed + start)
    average, right = 0.0, 0.0
    for step in range(start, until):
        if step % refresh_every == 0 and step > start:
            pool.refresh(fresh)
        batch = pool.draw(config.batch)
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, config.steps, config.rate, warm=200)
        loss, hits = step_loss(model, batch, empty, noise_schedule, config)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update(model)
        keep = min(0.99, (step - start) / (step - start + 1))
        average = keep * average + (1 - keep) * loss.item()
        right = keep * right + (1 - keep) * hits
        clock.tick(step, f"loss {average:.4f} text {right:.3f}")
        if (step + 1) % config.save_every == 0 or step + 1 == until:
            save_state(state, model, ema, optimiser, step + 1)
    return ema


def steps_done(work: Path) -> int:
    """How far the checkpoint in `work` is."""
    state = work / "unet_state.pt"
    return int(torch.load(state)["step"]) if state.exists() else 0


def draw_times(count: int) -> torch.Tensor:
    """Diffusion times (B,): three in four crowd around the middle, where shapes are decided."""
    middle = torch.sigmoid(0.9 * torch.randn(count))
    share = torch.where(torch.rand(count) < 0.75, middle, torch.rand(count))
    return (share * 1000).long().clamp(0, 999)


def step_loss(
    model: TextToLatent, batch: Batch, empty: torch.Tensor, noise_schedule, config: UnetConfig
) -> tuple[torch.Tensor, float]:
    """Squared error of v, plus the concept loss while the text learns; share of concepts named.

    empty: the empty caption, as tokens (T,), or as states (T, D) once the text is frozen.
    """
    clean = batch.latents_BCHW
    count = len(clean)
    dropped = torch.rand(count) < config.drop_text
    noise, time_B = torch.randn_like(clean), draw_times(count)
    noisy = noise_schedule.add_noise(clean, noise, time_B)
    want = noise_schedule.get_velocity(clean, noise, time_B)
    with torch.autocast("cpu", torch.bfloat16):
        if batch.states_BTD is not None:
            states = torch.where(dropped[:, None, None], empty[None], batch.states_BTD)
            got = model.unet(noisy, time_B, states).sample
            return F.mse_loss(got.float(), want), 1.0
        states, logits = model.read(torch.where(dropped[:, None], empty[None], batch.tokens_BT))
        got = model.unet(noisy, time_B, states).sample
    named = F.cross_entropy(logits.float()[~dropped], batch.concept_B[~dropped])
    loss = F.mse_loss(got.float(), want) + config.class_weight * named
    hits = (logits.argmax(1) == batch.concept_B)[~dropped].float().mean().item()
    return loss, hits
