"""Short names for models and settings, so that a recipe says exactly what made its group."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

_EDGE_BYTES = 2**20
PIPELINE_INDEX = "model_index.json"
"""Names the parts of a diffusers pipeline, each a folder."""
_MARKER_FILES = (PIPELINE_INDEX, "config.json")
_WEIGHTS = {".safetensors", ".bin", ".gguf", ".pt", ".pth"}
_TEXTS = {".json", ".txt", ".model", ".jinja"}


def fingerprint(parts: Mapping[str, object]) -> str:
    """16 hexadecimal digits that change when any part changes; parts must be JSON values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def model_identity(model: str, revision: str | None = None) -> str:
    """What identifies a model's weights, without reading all of them.

    A folder: a hash over names, sizes, small files and both ends of every weight file; of a
    pipeline only what its index names, so that licences and figures beside it do not count. A hub
    id: the commit in the local cache, else the revision asked for.
    """
    folder = Path(model)
    if folder.is_dir():
        return f"folder:{_hash_folder(folder)}"
    return f"{model}@{_cached_commit(model, revision) or revision or 'main'}"


def _hash_folder(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in _model_files(folder) if p.suffix in _WEIGHTS | _TEXTS):
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}".encode())
        for chunk in _sampled(path):
            digest.update(chunk)
    return digest.hexdigest()


def _model_files(folder: Path) -> Iterator[Path]:
    index = folder / PIPELINE_INDEX
    if not index.exists():
        yield from folder.rglob("*")
        return
    yield index
    for name in json.loads(index.read_text(encoding="utf-8")):
        if not name.startswith("_"):
            yield from (folder / name).rglob("*")


def _sampled(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield file.read(_EDGE_BYTES)
        size = path.stat().st_size
        if size > _EDGE_BYTES:
            file.seek(max(_EDGE_BYTES, size - _EDGE_BYTES))
            yield file.read(_EDGE_BYTES)


def _cached_commit(model: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    for name in _MARKER_FILES:
        found = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent.name
    return None
