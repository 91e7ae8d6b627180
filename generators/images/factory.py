"""Starts the renderer of a configuration."""

from collections.abc import Callable
from importlib.util import find_spec

from generators.errors import SetupError
from generators.images.renderer import Renderer
from online_synclr.config.schema import ImagesConfig


def create_renderer(settings: ImagesConfig, *, device: str, say: Callable[[str], None]) -> Renderer:
    """Load the configured renderer; says through `say` which one it is.

    Raises:
        SetupError: it cannot be loaded; one sentence that names the setting.
    """
    if settings.backend == "synthetic":
        from generators.images.synthetic_renderer import SyntheticRenderer

        say("images are SYNTHETIC: random shapes, no text-to-image model")
        return SyntheticRenderer(settings)
    if find_spec("diffusers") is None:
        raise SetupError(
            "images.backend=diffusers needs the package diffusers, which is not installed; "
            "run `pip install diffusers`"
        )
    from generators.images.diffusers_renderer import DiffusersRenderer

    say(f"images: diffusers, model {settings.model}, on {device}")
    return DiffusersRenderer(settings, device=device)
