"""The size of pictures that a run asks of a generator which torchrun has not started.

A run's sizes may change while it lasts (`trainer.high_resolution`), so the trainers say with each
place which one holds (`online_synclr.stream.messages.Ticket`).
"""

from collections.abc import Callable

from online_synclr.config.schema import Config


class SizeError(Exception):
    """This generator's settings cannot make such pictures; the message has the mend."""


def sized(
    config: Config, image_shape: tuple[int, int, int, int], say: Callable[[str], None]
) -> Config:
    """The settings with which this generator makes what the run asks for.

    Those of the run's part that has this size, where the generator has the run's own settings;
    else its own, with the size to send changed.

    Args:
        config: this generator's settings.
        image_shape: (images, channels, height, width) of every group.
        say: told of a size that is not in the settings.

    Raises:
        SizeError: the pictures would have to be larger than they are rendered, or are no squares.
    """
    height, side_px = image_shape[2:]
    parts = (config.at_step(0), config.at_step(config.trainer.steps))
    if height != side_px:
        raise SizeError(
            f"the run trains on pictures of {height} x {side_px} pixels, which are no squares"
        )
    for part in parts:
        if part.images.send_px == side_px:
            return part
    renders_px = max(part.images.render_px for part in parts)
    if side_px > renders_px:
        raise SizeError(
            f"the run trains on pictures of {side_px} px now, and this generator renders "
            f"{renders_px} px; set images.render_px={side_px} or more, or give it the run's "
            "settings (--config RUN/config.yaml)"
        )
    say(f"the run trains on pictures of {side_px} px: they are sent so (images.send_px)")
    part = next(part for part in parts if part.images.render_px >= side_px)
    images = part.images.model_copy(update={"send_px": side_px})
    return part.model_copy(update={"images": images})
