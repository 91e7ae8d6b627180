"""The text encoder: a small CLIP text model, taught to say what a caption's picture holds.

A caption is padded to `TextConfig.positions`. Its words have the first positions; the last 32 are
slots. From slot k the code of patch k of the first thing can be read linearly, from slot 16 + k
that of the second (zeros if there is none). Background, place, size and colour are read from the
first slot. The readout heads are thrown away after the training; the denoiser learns its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipes.embedded_image_model import colours
from recipes.embedded_image_model.backgrounds import BACKGROUNDS
from recipes.embedded_image_model.codes import CODE, PATCHES
from recipes.embedded_image_model.compose import PLACES, SIZE_RANGES, Wish
from recipes.embedded_image_model.config import TextConfig
from recipes.embedded_image_model.training import Clock, Ema, cosine_rate, load_state, save_state

SLOTS = 2 * PATCHES
_PLACES = (None, *((place, front) for place in PLACES for front in (True, False)))
_SIZES = tuple(SIZE_RANGES)
# Attribute and number of answers; one of them is "not said".
ATTRIBUTES = {
    "background": len(BACKGROUNDS) + 1,
    "place": len(_PLACES),
    "size": len(_SIZES),
    "colour": len(colours.NAMES) + 1,
}


def build(config: TextConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
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


class Reader(nn.Module):
    """The text encoder with the heads that are read during its training."""

    def __init__(self, text: CLIPTextModel) -> None:
        super().__init__()
        self.text = text
        width = text.config.hidden_size
        self.code = nn.Linear(width, CODE)
        self.attributes = nn.ModuleDict({k: nn.Linear(width, n) for k, n in ATTRIBUTES.items()})

    def forward(self, tokens_BT: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Codes (B, 32, 72) and the logits of every attribute."""
        slots = self.text(tokens_BT).last_hidden_state[:, -SLOTS:]
        return self.code(slots), {k: head(slots[:, 0]) for k, head in self.attributes.items()}


@dataclass(frozen=True)
class Answers:
    """What B captions should be read as: codes (B, 32, 72), attributes name -> (B,)."""

    codes: torch.Tensor
    attributes: dict[str, torch.Tensor]


def answers(wishes: list[Wish | None], codes_KPD: torch.Tensor) -> Answers:
    """The right reading of captions with these wishes; None is an empty caption."""
    things = torch.zeros(len(wishes), 2, *codes_KPD.shape[1:])
    rows: dict[str, list[int]] = {name: [] for name in ATTRIBUTES}
    for row, wish in enumerate(wishes):
        if wish is not None:
            things[row, 0] = codes_KPD[wish.concept]
            if wish.second is not None:
                things[row, 1] = codes_KPD[wish.second]
        for name, answer in _attributes(wish).items():
            rows[name].append(answer)
    return Answers(things.flatten(1, 2), {k: torch.tensor(v) for k, v in rows.items()})


def _attributes(wish: Wish | None) -> dict[str, int]:
    """The right class of every attribute."""
    background = None if wish is None else wish.background
    colour = None if wish is None else wish.colour
    place = None if wish is None or wish.place is None else (wish.place, wish.front)
    return {
        "background": len(BACKGROUNDS) if background is None else background,
        "place": _PLACES.index(place),
        "size": _SIZES.index(None if wish is None else wish.size),
        "colour": len(colours.NAMES) if colour is None else colour,
    }


def train(
    draw: Callable[[int], tuple[torch.Tensor, Answers]],
    reader: Reader,
    work: Path,
    config: TextConfig,
    *,
    seed: int,
) -> None:
    """Train on batches of `draw(count)`, resuming from `work/text_state.pt`; leaves the average.

    Progress shows the share of the codes' variance that is explained and the share of attributes
    that are right.
    """
    ema = Ema(reader, decay=0.998)
    optimiser = torch.optim.AdamW(
        reader.parameters(), lr=config.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    state = work / "text_state.pt"
    start = load_state(state, reader, ema, optimiser)
    clock = Clock("text", config.steps, start)
    torch.manual_seed(seed + start)
    shown = torch.zeros(2)
    for step in range(start, config.steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, config.steps, config.rate, warm=100)
        tokens_BT, right = draw(config.batch)
        with torch.autocast("cpu", torch.bfloat16):
            codes, attributes = reader(tokens_BT)
        error = F.mse_loss(codes.float(), right.codes)
        named = [
            F.cross_entropy(attributes[k].float(), want) for k, want in right.attributes.items()
        ]
        (error + 0.1 * torch.stack(named).sum()).backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update(reader)
        hits = [(attributes[k].argmax(1) == v).float().mean() for k, v in right.attributes.items()]
        now = torch.stack([1 - error / right.codes.square().mean(), torch.stack(hits).mean()])
        shown = torch.lerp(shown, now.detach(), max(0.02, 1 / (step - start + 1)))
        clock.tick(step, f"codes {shown[0]:.3f} attributes {shown[1]:.3f}")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(state, reader, ema, optimiser, step + 1)
    ema.copy_to(reader)


@torch.no_grad()
def states(text: CLIPTextModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    """What the denoiser reads of a caption: (B, T, D) bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return text(tokens_BT).last_hidden_state.bfloat16()
