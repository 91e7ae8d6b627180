"""What an engine child is started with, written to a file by its supervisor."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from generators.role import GeneratorRole
from online_synclr.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """One start of one generator's engine."""

    config: Config
    role: GeneratorRole
    stream: int
    server_url: str

    @property
    def device(self) -> str:
        """The engine's torch device; its GPU is the only one that it sees."""
        return "cpu" if self.role.gpu is None else "cuda"

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(images, channels, height, width) of every group."""
        images = self.config.images
        return (images.per_caption, 3, images.send_px, images.send_px)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_SPEC.dump_json(self))

    @classmethod
    def read(cls, path: Path) -> "EngineSpec":
        """Read what `write` wrote."""
        return _SPEC.validate_json(path.read_bytes())


_SPEC: TypeAdapter[EngineSpec] = TypeAdapter(EngineSpec)
