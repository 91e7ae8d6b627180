"""From the settings to a rate limiter, for the check of the settings and for the trainers alike."""

from online_synclr.config.schema import Config
from online_synclr.stream.limiter import RateLimiter


def limiter_of(config: Config, *, local_batch: int) -> RateLimiter:
    """The limiter that `config.pool` describes for a trainer that samples `local_batch` groups.

    Raises:
        LimiterError: settings under which training could stop; names the key and the mend.
    """
    limiter = RateLimiter(
        samples_per_insert=config.pool.samples_per_insert,
        max_reuse=config.pool.max_reuse,
        batch=local_batch,
        min_groups=config.pool.min_groups,
        error_buffer=config.pool.error_buffer,
        adaptive=config.pool.adaptive_reuse,
    )
    limiter.check_capacity(config.pool.max_bytes, config.group_bytes)
    return limiter
