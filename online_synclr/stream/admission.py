"""Whom a trainer lets in, and the place that it gives to those who ask for one: pure decisions."""

from dataclasses import dataclass

from online_synclr.stream.keys import RANKS, admits
from online_synclr.stream.messages import MAX_GENERATORS, PROTOCOL_VERSION, Hello, Join


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a generator must agree with.

    Attributes:
        run_id: The trainer's run.
        image_shape: (images, channels, height, width) of every group.
        incarnation: Of this attempt; None: whichever a generator says (there are no attempts).
        num_launched: Generators launched with the run: they have the first numbers.
    """

    run_id: str
    image_shape: tuple[int, int, int, int]
    incarnation: int | None = None
    num_launched: int = 0

    def refusal(self, asking: Hello | Join, key_name: str | None) -> str | None:
        """Why this generator is refused, in words a person can act on; None if it is not.

        `key_name`: of the connection's key; None: there are no keys.
        """
        if asking.run_id != self.run_id and (isinstance(asking, Hello) or asking.run_id):
            return (
                f"run id {asking.run_id!r}, this trainer belongs to run {self.run_id!r}; "
                "connect to the trainers of your run"
            )
        if asking.protocol != PROTOCOL_VERSION:
            return f"protocol version {asking.protocol}, this trainer speaks {PROTOCOL_VERSION}"
        if isinstance(asking, Hello) and asking.image_shape != self.image_shape:
            return (
                f"groups of shape {asking.image_shape}, this run trains on {self.image_shape}; set "
                "images.per_caption and images.send_px to the trainers' values"
            )
        # Sides are told with the place: they may change from attempt to attempt.
        if asking.image_shape[:2] != self.image_shape[:2]:
            return (
                f"groups of shape {asking.image_shape}, this run trains on {self.image_shape}; set "
                "images.per_caption to the trainers' value"
            )
        if isinstance(asking, Join) and admits(RANKS, asking.generator_id):
            return (
                f"{asking.generator_id!r} is a name of torchrun's own generators; give this one "
                "another name"
            )
        if key_name is not None and not admits(key_name, asking.generator_id):
            return (
                f"its key is {key_name!r}, which is not one for a generator named "
                f"{asking.generator_id!r}; use a key of that name"
            )
        return None

    def attempt_over(self, hello: Hello) -> str | None:
        """What to say to a generator of another attempt; None to one of this."""
        if self.incarnation is None or hello.incarnation == self.incarnation:
            return None
        return (
            f"attempt {hello.incarnation} of this run is over, this is attempt {self.incarnation}; "
            "join it anew"
        )


class PlaceNumbers:
    """Numbers for the generators that join: every trainer gives others, none gives one twice."""

    def __init__(self, trainer_index: int) -> None:
        self._trainer_index = trainer_index
        self._given = 0

    def next(self, *, num_launched: int, num_trainers: int) -> tuple[int, int] | None:
        """The next free number and its position; None when all are given.

        Numbers of one trainer are `num_trainers` apart, so that alone they would all choose the
        same trainers to serve; positions of one trainer are neighbours.
        """
        number = num_launched + self._trainer_index + self._given * num_trainers
        if number >= MAX_GENERATORS:
            return None
        position = num_launched + self._trainer_index + self._given
        self._given += 1
        return number, position
