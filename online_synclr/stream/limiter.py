"""How far sampling and inserting may run apart: one pure object, no clock, no lock, no thread.

The error e grows by the reuse in force r with every group inserted and falls by one with every
group-use sampled:

    e = sum of r over the groups inserted - group-uses sampled
    offset = samples_per_insert * min_groups
    min_diff = offset - error_buffer            max_diff = offset + error_buffer

    sampling B is allowed   if inserted >= min_groups and e - B >= min_diff
    inserting one is allowed if inserted + f < min_groups  or  e + r * (f + 1) <= max_diff

with f the groups on their way (credits in flight count as inserts). The insert side gates the issue
of credits. So e + r * f <= max_diff always holds.

Why the pair of limiter and pool cannot block both sides (B: batch, M: max_reuse, R: the largest r,
G: groups the pool may hold, f = 0). Suppose inserting is blocked: e > max_diff - r.
  - Sampling is not blocked by e, since max_diff - min_diff >= B + R.
  - Nor by too few groups. Call r - uses what a group still owes. e is what the s groups held owe,
    at most R * s, plus D, what those evicted owed. Groups leave used up (owing r - M <= 0) or, from
    a full pool, most used first. If the one evicted owed something, every other owed at least d,
    the smallest positive value of r - uses, so D <= max_diff - G * d from then on. With
    max_diff >= R * B and G >= R * B / d this leaves s >= B.
  - Another bound on G serves fractional r and adaptive reuse, where d is small or r varies: e less
    the uses left in the pool never exceeds max_diff - min(1, r) * G after an eviction, hence
    min(1, r) * G >= M * (B - 1) + R leaves s >= B too. `groups_needed` takes the smaller one.
The pool also keeps B groups out of the reach of credits, so that issuing never empties it. Both
bounds on G are sufficient; small settings searched exhaustively show them to be safe, not tight.
"""

import math
from typing import Final

from online_synclr.stream.errors import LimiterError

TOLERANCE: Final = 1e-6
"""Slack of comparisons, in group-uses: rounding must not block both sides at an exact boundary."""

ADAPT_BATCHES: Final = 4
"""Adaptive reuse crosses its whole range in the inserts of this many batches."""


class RateLimiter:
    """Keeps uses per group near `samples_per_insert`; formula and proof in the module's docstring.

    Args:
        samples_per_insert: r, uses of a group on average (pool.samples_per_insert).
        max_reuse: M, most uses of one group (pool.max_reuse).
        batch: B, groups this trainer samples a step.
        min_groups: groups before the first sample (pool.min_groups); none: two batches.
        error_buffer: group-uses (pool.error_buffer); none: four batches, or the fewest that are
            enough where B < r or adaptive reuse goes far.
        adaptive: raise r within [samples_per_insert, max_reuse] when sampling is short of groups,
            lower it again when there are more than enough.

    Raises:
        LimiterError: settings under which one side, or both, could block for ever.
    """

    def __init__(
        self,
        *,
        samples_per_insert: float,
        max_reuse: int,
        batch: int,
        min_groups: int | None = None,
        error_buffer: float | None = None,
        adaptive: bool = False,
    ) -> None:
        self.samples_per_insert = float(samples_per_insert)
        self.max_reuse = max_reuse
        self.batch = batch
        self.adaptive = adaptive
        self.min_groups = 2 * batch if min_groups is None else min_groups
        offset = self.samples_per_insert * self.min_groups
        enough = max(batch + self.largest_reuse, self.largest_reuse * batch - offset)
        default_buffer = max(4.0 * batch, enough)
        self.error_buffer = default_buffer if error_buffer is None else float(error_buffer)
        self.min_diff = offset - self.error_buffer
        self.max_diff = offset + self.error_buffer
        self._check()
        self._offset = offset
        self._error = 0.0
        self._inserted = 0
        self._reuse = self.samples_per_insert
        self._short = False

    @property
    def largest_reuse(self) -> float:
        """R: the largest value r can take."""
        return float(self.max_reuse) if self.adaptive else self.samples_per_insert

    @property
    def error(self) -> float:
        """e, in group-uses."""
        return self._error

    @property
    def inserted(self) -> int:
        """Groups inserted since the start or resume."""
        return self._inserted

    @property
    def reuse_in_force(self) -> float:
        """r: what the next group adds to e."""
        return self._reuse

    def can_sample(self, num_groups: int) -> bool:
        """Whether e allows `num_groups` more uses now."""
        if self._inserted < self.min_groups:
            return False
        return self._error - num_groups >= self.min_diff - TOLERANCE

    def inserts_allowed(self, in_flight: int) -> int:
        """How many more groups may be asked for while `in_flight` are on their way."""
        free = self.min_groups - self._inserted - in_flight
        owed = self._error + self._reuse * in_flight
        by_error = math.floor((self.max_diff + TOLERANCE - owed) / self._reuse)
        return max(0, free, by_error)

    def on_insert(self, in_flight: int) -> None:
        """A group arrived; `in_flight` are still on their way."""
        self._inserted += 1
        self._error += self._reuse
        if self.adaptive:
            self._adapt(in_flight)

    def on_sample(self, num_groups: int) -> None:
        """`num_groups` group-uses were sampled (the caller asked `can_sample` first)."""
        self._error -= num_groups

    def note_shortage(self) -> None:
        """Sampling was wanted and e did not allow it: what makes adaptive reuse rise."""
        self._short = self._inserted >= self.min_groups

    def groups_needed(self) -> int:
        """G: the fewest groups a pool must have room for, groups in flight included."""
        batch, reuse, most = self.batch, self.samples_per_insert, self.max_reuse
        by_uses = (most * (batch - 1) + self.largest_reuse) / min(1.0, reuse)
        bounds = [by_uses]
        if not self.adaptive:
            smallest_debt = reuse - (math.ceil(reuse) - 1)
            bounds.append(reuse * batch / smallest_debt)
        return max(math.ceil(min(bounds) - TOLERANCE), batch + 1, self.min_groups)

    def check_capacity(self, max_bytes: int, group_bytes: int) -> None:
        """Raise LimiterError unless `max_bytes` holds `groups_needed()` groups."""
        needed = self.groups_needed()
        if max_bytes // group_bytes < needed:
            raise LimiterError(
                f"pool.max_bytes is {max_bytes}: room for {max_bytes // group_bytes} groups of "
                f"{group_bytes} bytes, the limiter needs {needed}; set it to at least "
                f"{needed * group_bytes} or lower trainer.batch_groups or pool.max_reuse"
            )

    def _adapt(self, in_flight: int) -> None:
        base, top = self.samples_per_insert, float(self.max_reuse)
        step = (top - base) / (ADAPT_BATCHES * self.batch)
        if self._short:
            # Groups on their way were let in at the old r: e + r * f must stay within max_diff.
            room = (self.max_diff - self._error) / in_flight if in_flight else top
            self._reuse = max(self._reuse, min(top, self._reuse + step, room))
        elif self._error > self._offset:
            self._reuse = max(base, self._reuse - step)
        self._short = False

    def _check(self) -> None:
        reuse, batch = self.samples_per_insert, self.batch
        if batch < 1 or self.max_reuse < 1 or not 0 < reuse < math.inf:
            raise LimiterError(
                "pool.samples_per_insert, pool.max_reuse and the local batch must be positive"
            )
        if reuse > self.max_reuse:
            raise LimiterError(
                f"pool.samples_per_insert is {reuse:g}, more than the {self.max_reuse} uses that "
                "pool.max_reuse allows; lower it or raise pool.max_reuse"
            )
        if self.min_groups < batch:
            raise LimiterError(
                f"pool.min_groups is {self.min_groups}, less than the {batch} groups of one local "
                "batch: the first step could never start; raise it or leave it out"
            )
        self._check_range()

    def _check_range(self) -> None:
        width_needed = (self.batch + self.largest_reuse) / 2
        if not width_needed <= self.error_buffer < math.inf:
            raise LimiterError(
                f"pool.error_buffer is {self.error_buffer:g}: sampling and inserting could both be "
                f"blocked; set it to at least {width_needed:g} or leave it out"
            )
        if self.max_diff < self.largest_reuse * self.batch:
            least = self.largest_reuse * self.batch - self.samples_per_insert * self.min_groups
            raise LimiterError(
                f"pool.error_buffer is {self.error_buffer:g}: with pool.adaptive_reuse up to "
                f"{self.max_reuse} uses inserting could stop before one batch is there; set it to "
                f"at least {least:g} or raise pool.min_groups"
            )
