"""What one generator and the trainers can do, as measured or given. Pure; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GeneratorRate:
    """One generator that never waits for credits.

    Attributes:
        groups_per_s: Groups it makes, its own captions included.
        render_groups_per_s: Groups its renderer makes while captions lie ready; None: not known.
        captions_per_s: Accepted captions its LLM writes while it has room; None: not known.
        shared_llm: Whether `captions_per_s` is of one server for all generators of a node.
        rss_bytes: Most resident memory of its engine; 0: not known.
        gpu_bytes: Most GPU memory of its engine; 0: none, or not known.
    """

    groups_per_s: float
    render_groups_per_s: float | None = None
    captions_per_s: float | None = None
    shared_llm: bool = False
    rss_bytes: float = 0.0
    gpu_bytes: float = 0.0

    def of_node(self, num_generators: int) -> float:
        """Groups a second that so many generators of one node make."""
        if not self.shared_llm or self.captions_per_s is None:
            return num_generators * self.groups_per_s
        each = self.render_groups_per_s or self.groups_per_s
        return min(num_generators * each, self.captions_per_s)

    @property
    def llm_is_slower(self) -> bool:
        """Whether captions, not pictures, bound it."""
        render, captions = self.render_groups_per_s, self.captions_per_s
        return render is not None and captions is not None and captions < render


@dataclass(frozen=True, kw_only=True)
class StepPoint:
    """The time of one step, seconds, at one local batch.

    `num_trainers` stepped together (of one node), each with `local_images`; `low_s` and `high_s`:
    fastest and slowest part of the measurement. Bytes are of the trainer that uses most.
    """

    num_trainers: int
    local_images: int
    step_s: float
    low_s: float = 0.0
    high_s: float = 0.0
    rss_bytes: float = 0.0
    gpu_bytes: float = 0.0


@dataclass(frozen=True)
class StepTimes:
    """Measured steps, and local batches (in images) that did not fit into memory."""

    points: Sequence[StepPoint]
    too_large: Sequence[int] = ()

    @classmethod
    def at_rate(cls, images_per_s: float) -> "StepTimes":
        """A trainer whose time is proportional to its images."""
        return cls([StepPoint(num_trainers=1, local_images=1, step_s=1.0 / images_per_s)])

    def fits(self, local_images: int) -> bool:
        """Whether nothing so small has run out of memory."""
        return all(local_images < size for size in self.too_large)

    def step_s(self, num_trainers: int, local_images: int) -> float:
        """Seconds of a step of so many trainers of a node, each with `local_images`.

        Measured, or on the line through the two nearest batches measured with as many trainers;
        failing those, with one trainer, and then without what exchanging gradients costs. From one
        point alone time is proportional to images.
        """
        points = self._nearest(num_trainers, local_images)
        first = points[0]
        if first.local_images == local_images:
            return first.step_s
        if len(points) == 1:
            return first.step_s * local_images / first.local_images
        low, high = sorted(points[:2], key=lambda point: point.local_images)
        slope = (high.step_s - low.step_s) / (high.local_images - low.local_images)
        # Noise between close points must not make a small batch free.
        least = min(point.step_s / point.local_images for point in points) * local_images
        straight = low.step_s + slope * (local_images - low.local_images)
        return max(straight, least) if local_images < low.local_images else straight

    def memory(self, num_trainers: int, local_images: int) -> tuple[float, float]:
        """Resident and GPU bytes of a trainer at the nearest batch measured; 0: not known."""
        point = self._nearest(num_trainers, local_images)[0]
        return point.rss_bytes, point.gpu_bytes

    def exchanged(self, num_trainers: int) -> bool:
        """Whether steps of so many trainers together were measured."""
        return num_trainers == 1 or any(p.num_trainers == num_trainers for p in self.points)

    def _nearest(self, num_trainers: int, local_images: int) -> list[StepPoint]:
        together = [point for point in self.points if point.num_trainers == num_trainers]
        fewest = min(point.num_trainers for point in self.points)
        points = together or [point for point in self.points if point.num_trainers == fewest]
        return sorted(points, key=lambda point: abs(point.local_images - local_images))


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Both sides, and in words where the figures come from."""

    generator: GeneratorRate
    trainer: StepTimes
    source: str
    notes: Sequence[str] = ()
