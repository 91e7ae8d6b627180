"""Which trainers a generator serves."""


def choose_trainers(num_trainers: int, fan_out: int, position: int) -> list[int]:
    """Indexes of the trainers that the generator with number `position` serves.

    `fan_out` bounds how many (0: all). Consecutive positions take consecutive trainers, so that
    every trainer is served by as many generators as any other, or one less.
    """
    served = min(fan_out, num_trainers) or num_trainers
    return sorted((position * served + step) % num_trainers for step in range(served))
