"""Whom a trainer lets in."""

from online_synclr.stream.keys import admits
from online_synclr.stream.messages import PROTOCOL_VERSION, Hello


def refusal(
    hello: Hello, key_name: str | None, *, run_id: str, image_shape: tuple[int, int, int, int]
) -> str | None:
    """Why this HELLO is refused, in words a person can act on; None if it is not.

    `key_name`: of the connection's key; None: there are no keys. `run_id`, `image_shape`: of the
    trainer's run.
    """
    if hello.run_id != run_id:
        return (
            f"run id {hello.run_id!r}, this trainer belongs to run {run_id!r}; "
            "connect to the trainers of your run"
        )
    if hello.protocol != PROTOCOL_VERSION:
        return f"protocol version {hello.protocol}, this trainer speaks {PROTOCOL_VERSION}"
    if hello.image_shape != image_shape:
        return (
            f"groups of shape {hello.image_shape}, this run trains on {image_shape}; set "
            "images.per_caption and images.send_px to the trainers' values"
        )
    if key_name is not None and not admits(key_name, hello.generator_id):
        return (
            f"its key is {key_name!r}, which is not one for a generator named "
            f"{hello.generator_id!r}; use a key of that name"
        )
    return None
