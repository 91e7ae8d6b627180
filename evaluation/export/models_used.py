"""Which models wrote the captions and drew the images, and what is known of their licences."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from online_synclr.config import Config
from online_synclr.config.schema import EMBEDDED

UNKNOWN: Final = "not known here; see its own page"
_LANGUAGE: Final = "captions"

_KNOWN: Final = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "Apache-2.0",
    "Qwen/Qwen2.5-7B": "Apache-2.0",
    "meta-llama/Llama-2-7b-hf": "Llama 2 Community License",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML Open RAIL-M",
    "stabilityai/stable-diffusion-xl-base-1.0": "CreativeML Open RAIL++-M",
    "stabilityai/sd-turbo": "Stability AI's own (commercial use: https://stability.ai/license)",
    "stabilityai/sdxl-turbo": "Stability AI's own (commercial use: https://stability.ai/license)",
    "black-forest-labs/FLUX.1-schnell": "Apache-2.0",
    "latent-consistency/lcm-lora-sdv1-5": "CreativeML Open RAIL++-M",
    "tianweiy/DMD2": "CC BY-NC 4.0: no commercial use",
    "madebyollin/taesd": "MIT",
    "madebyollin/taesdxl": "MIT",
}
"""As their pages said when this list was made."""

_EMBEDDED_LANGUAGE: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
_EMBEDDED_IMAGES: Final = (
    "Apache-2.0; made from Fluent Emoji (Microsoft, MIT), Noto Emoji (Google, Apache-2.0) and "
    "Twemoji (Twitter and contributors, CC BY 4.0)"
)
_STAND_IN: Final = "no model: a stand-in for tests"


@dataclass(frozen=True)
class ModelUsed:
    """part: what it did. name: of the model, for people. licence: as far as known."""

    part: str
    name: str
    licence: str

    @property
    def hub_id(self) -> str | None:
        """Its name on the hub, if it has one."""
        return self.name if self.name.count("/") == 1 and " " not in self.name else None


def models_used(config: Config) -> list[ModelUsed]:
    """Those of a run's settings, captions first."""
    images = config.images
    models = [_writer(config)]
    if images.backend == "synthetic":
        return [*models, ModelUsed("images", "synthetic", _STAND_IN)]
    if images.model == EMBEDDED:
        models.append(ModelUsed("images", "Online SynCLR's embedded model", _EMBEDDED_IMAGES))
    else:
        models.append(_named("images", images.model))
    if images.lora is not None:
        models.append(_named("images, LoRA", images.lora))
    if images.vae is not None:
        models.append(_named("images, decoder", images.vae))
    return models


def _writer(config: Config) -> ModelUsed:
    captions = config.captions
    if captions.backend == "template":
        return ModelUsed(_LANGUAGE, "templates", _STAND_IN)
    if captions.backend == "ledger":
        return ModelUsed(_LANGUAGE, "captions of an earlier run", "that run's model's")
    name = _EMBEDDED_LANGUAGE if captions.model == EMBEDDED else captions.model
    return _named(_LANGUAGE, name)


def _named(part: str, name: str) -> ModelUsed:
    """A folder of this machine is told by its last name only."""
    if Path(name).is_absolute() or Path(name).exists() or name.startswith((".", "~")):
        return ModelUsed(part, f"a local folder, {Path(name).name}", UNKNOWN)
    return ModelUsed(part, name, _KNOWN.get(name, UNKNOWN))
