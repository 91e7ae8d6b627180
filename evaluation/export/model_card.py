"""README.md of an export: Hugging Face metadata, and what a stranger must know to use and judge it.

Figures are the run's own or a results file's; what is not known is said to be unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import timm
import torch
from huggingface_hub import ModelCardData

from evaluation.export import onnx_file
from evaluation.export.models_used import ModelUsed, models_used
from evaluation.export.recipe import (
    Rows,
    has_outside_sources,
    recipe_rows,
    seen_rows,
    seen_until,
    summary_of,
)
from evaluation.export.results_table import markdown_table, metadata
from evaluation.results import Result
from evaluation.sources.checkpoint import Checkpoint, Network
from evaluation.sources.plain_vit import PlainViT
from online_synclr import __version__

CARD_NAME = "README.md"
NO_LICENCE = "unknown"
_TAGS = ("timm", "transformers", "feature-extraction", "self-supervised-learning", "synclr")
_PIPELINE_TAG = "image-feature-extraction"

_CITATION = """\
```bibtex
@article{tian2023learning,
  title   = {Learning Vision from Models Rivals Learning Vision from Data},
  author  = {Tian, Yonglong and Fan, Lijie and Chen, Kaifeng and Katabi, Dina and Krishnan, Dilip
             and Isola, Phillip},
  journal = {arXiv preprint arXiv:2312.17742},
  year    = {2023}
}
```"""


@dataclass(frozen=True, eq=False, kw_only=True)
class CardFacts:
    """title: the model's name. own: those of `results` that are of this very backbone.

    licence: a hub licence id that whoever exports chose, or `NO_LICENCE`. onnx: whether there is an
    ONNX file.
    """

    title: str
    checkpoint: Checkpoint
    network: Network
    vit: PlainViT
    results: Sequence[Result]
    own: Sequence[Result]
    licence: str
    onnx: bool


def model_card(facts: CardFacts) -> str:
    """The whole file."""
    models = models_used(facts.checkpoint.config)
    parts = [
        f"---\n{_metadata(facts)}\n---",
        f"# {facts.title}",
        _opening(facts),
        "## How to load it",
        _loading(facts),
        "## What it saw",
        _saw(facts),
        "## Recipe",
        _table(recipe_rows(facts.checkpoint.config)),
        _versions(),
        "## Evaluation",
        _evaluation(facts),
        "## Models that made its captions and images",
        _models(facts, models),
        "## Licence",
        _licence(facts, models),
        "## Citation",
        f"The recipe is SynCLR's:\n\n{_CITATION}",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: CardFacts) -> str:
    data = ModelCardData(
        library_name="timm",
        pipeline_tag=_PIPELINE_TAG,
        license=facts.licence,
        tags=[*_TAGS, *(["onnx"] if facts.onnx else [])],
        model_name=facts.title if facts.own else None,
        eval_results=metadata(facts.own) or None,
    )
    return data.to_yaml().strip()


def _opening(facts: CardFacts) -> str:
    vit = facts.vit
    num_parameters = sum(parameter.numel() for parameter in vit.model.parameters())
    lines = [
        f"A vision transformer of {_number(num_parameters)} parameters "
        f"({vit.architecture} of timm, {vit.image_px} px, patches of {_patch_px(vit)} px, "
        f"{vit.model.num_features} features) that learned from captions and images which models "
        f"wrote and drew while it trained, by Online SynCLR {__version__}. This is the "
        f"{facts.network} after {facts.checkpoint.step:,} steps. It has no classifier.",
    ]
    synthetic = facts.checkpoint.config.synthetic_parts
    if synthetic:
        lines.append(
            f"**It was trained on stand-ins for tests ({', '.join(synthetic)}), not on generated "
            "images: it is of no use but to try programs with.**"
        )
    return "\n\n".join(lines)


def _number(number: int) -> str:
    return f"{number:,}" if number < 1e6 else f"{number / 1e6:.1f} million"


def _loading(facts: CardFacts) -> str:
    blocks = [
        "`DIR` is this folder; on the hub, `hf-hub:USER/NAME` takes the place of `local-dir:DIR`, "
        "and `USER/NAME` that of `DIR`.",
        """\
```python
import timm, torch
from PIL import Image

model = timm.create_model("local-dir:DIR", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    features = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0))
```""",
        """\
```python
from transformers import AutoImageProcessor, AutoModel

processor, model = AutoImageProcessor.from_pretrained("DIR"), AutoModel.from_pretrained("DIR")
features = model(**processor(image)).pooler_output
```""",
        f"Images of other sizes work as they are, where both sides are multiples of "
        f"{_patch_px(facts.vit)}: positions are interpolated.",
    ]
    if facts.onnx:
        blocks.append(
            f"`{onnx_file.FILE_NAME}` takes `{onnx_file.INPUT}`, float32 (N, 3, "
            f"{facts.vit.image_px}, {facts.vit.image_px}), normalised as config.json says, and "
            f"gives `{onnx_file.OUTPUT}` (N, {facts.vit.model.num_features})."
        )
    return "\n\n".join(blocks)


def _saw(facts: CardFacts) -> str:
    checkpoint = facts.checkpoint
    rows = seen_rows(checkpoint, seen_until(checkpoint), summary_of(checkpoint))
    text = _table(rows)
    if has_outside_sources(checkpoint.config.trainer):
        return text
    return f"{text}\n\nNo photograph, and no label but which caption an image is of."


def _versions() -> str:
    return f"Exported with Online SynCLR {__version__}, timm {timm.__version__}, torch " + (
        f"{torch.__version__.partition('+')[0]}."
    )


def _evaluation(facts: CardFacts) -> str:
    if not facts.results:
        return (
            "None was given. `python -m online_synclr evaluate` measures it, and `export "
            "--results` puts its figures here."
        )
    note = (
        "Rows of this very model are bold."
        if facts.own
        else ("No row is of this very model: they are for comparison.")
    )
    return f"{markdown_table(facts.results, facts.own)}\n\n{note}"


def _models(facts: CardFacts, models: Sequence[ModelUsed]) -> str:
    rows = ["| part | model | licence |", "| --- | --- | --- |"]
    for model in models:
        name = (
            f"[{model.name}](https://huggingface.co/{model.name})" if model.hub_id else model.name
        )
        rows.append(f"| {model.part} | {name} | {model.licence} |")
    text = "\n".join(rows)
    summary = summary_of(facts.checkpoint)
    prints = sorted(set((summary.generator_models if summary else {}).values()))
    shown = ", ".join(f"`{one}`" for one in prints if "/" not in one)
    return f"{text}\n\nFingerprints of models and settings: {shown}." if shown else text


def _licence(facts: CardFacts, models: Sequence[ModelUsed]) -> str:
    if facts.licence == NO_LICENCE:
        chosen = "No licence was chosen for these weights: choose one before publishing them."
    else:
        chosen = f"These weights are published under {facts.licence}."
    unknown = [model.name for model in models if model.licence.startswith("not known")]
    rest = (
        "Licences in the table above are those of the models, as known when this version of Online "
        "SynCLR was made; their own pages hold. Whether a licence of a model that draws images, or "
        "of what it was itself trained on, reaches weights that learned from those images is not "
        "settled, and not decided here."
    )
    missing = f" Not known: {', '.join(unknown)}." if unknown else ""
    return f"{chosen}\n\n{rest}{missing}"


def _table(rows: Rows) -> str:
    lines = ["| what | value |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {_cell(value)} |" for name, value in rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _patch_px(vit: PlainViT) -> int:
    return int(vit.model.patch_embed.patch_size[0])
