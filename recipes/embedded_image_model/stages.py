"""The recipe's stages in order; a stage takes the settings and leaves its work on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from recipes.embedded_image_model import (
    card,
    diffusion,
    evaluate,
    export,
    judge,
    latents,
    licences,
    llm,
    scenes,
    sheet,
    tokens,
    vae,
)
from recipes.embedded_image_model.config import Config
from recipes.embedded_image_model.training import Ema, load_state

TRAIN_CAPTIONS, EVAL_CAPTIONS = "captions_train.jsonl", "captions_eval.jsonl"


def icons(config: Config) -> None:
    """Fetch the icon packages; draw the atlas and the backgrounds."""
    scenes.composer(Path(config.work), config, seed=config.seed)


def captions(config: Config) -> None:
    """Let the LLM write the captions of the evaluation and of the training."""
    work = Path(config.work)
    llm.write_captions(
        work / EVAL_CAPTIONS, config.captions, each=config.captions.eval_each, seed=1001
    )
    llm.write_captions(work / TRAIN_CAPTIONS, config.captions, each=config.captions.each, seed=77)


def codec(config: Config) -> None:
    """Train the codec."""
    work = Path(config.work)
    if not (work / "vae").exists():
        vae.train(scenes.scene_pool(work, config), work, config.vae, seed=config.seed)


def _tokenizer(config: Config) -> CLIPTokenizer:
    """The tokenizer, trained on captions the first time."""
    folder = Path(config.work) / "tokenizer"
    if (folder / "vocab.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    corpus = latents.caption_corpus(Path(config.work) / TRAIN_CAPTIONS, config, count=12000)
    made = tokens.train(corpus, vocabulary=config.text.vocabulary)
    return tokens.save(made, folder, positions=config.text.positions)


def _model(config: Config, tokenizer: CLIPTokenizer) -> diffusion.TextToLatent:
    """Text encoder and denoiser with their first weights."""
    torch.manual_seed(config.seed)
    return diffusion.TextToLatent(
        diffusion.build_text(config.text, tokenizer), diffusion.build_unet(config.unet, config.text)
    )


def denoiser(config: Config) -> None:
    """Train text encoder and denoiser, then the denoiser alone with the text frozen.

    A resumed training fills its pool with other scenes.
    """
    work = Path(config.work)
    tokenizer = _tokenizer(config)
    while (start := diffusion.steps_done(work)) < config.unet.steps:
        text = None
        if start >= config.unet.joint_steps:
            text = diffusion.averaged_text(_model(config, tokenizer), work, config.unet)
        pool = latents.LatentPool(
            composer=scenes.composer(
                work, config, seed=config.seed + 11 + start, sources=config.unet.sources
            ),
            captioner=latents.Captioner(
                work / TRAIN_CAPTIONS, config, seed=config.seed + 12 + start
            ),
            codec=AutoencoderKL.from_pretrained(work / "vae").eval(),
            tokenizer=tokenizer,
            size=config.unet.pool,
            seed=config.seed + 13 + start,
            text=text,
        )
        model = _model(config, tokenizer)
        diffusion.train(pool, model, tokenizer, work, config.unet, seed=config.seed)


def decoder(config: Config) -> None:
    """Train the codec's decoder on; independent of the denoiser, so it may run beside it."""
    work = Path(config.work)
    if not (work / "vae_tuned").exists():
        codec_ = AutoencoderKL.from_pretrained(work / "vae")
        vae.tune_decoder(
            codec_, scenes.scene_pool(work, config), work, config.vae, seed=config.seed
        )


def ship(config: Config) -> None:
    """Export the averaged weights so far; works in the middle of a training too."""
    work = Path(config.work)
    model = _model(config, _tokenizer(config))
    ema = Ema(model, decay=config.unet.ema)
    load_state(work / "unet_state.pt", model, ema, None)
    ema.copy_to(model)
    codec_ = vae.averaged_decoder(work)
    test = scenes.scene_pool(work, config, count=256, seed=config.seed + 400)
    figure = {"psnr_db": round(vae.psnr(codec_, test), 2)}
    (work / "psnr.json").write_text(json.dumps(figure), encoding="utf-8")
    out = Path(config.out)
    export.write(
        out, codec=codec_, text=model.text, unet=model.unet, tokenizer_folder=work / "tokenizer"
    )
    licences.write(out / "LICENSES")


def _referee(config: Config) -> judge.Judge:
    """The judge, trained the first time."""
    work = Path(config.work)
    composer = scenes.composer(work, config, seed=501)
    return judge.train(composer, work, config.judge, seed=501)


def train_judge(config: Config) -> None:
    """Train the judge."""
    _referee(config)


def measure(config: Config) -> None:
    """Evaluate the shipped folder and draw the sample sheet."""
    work = Path(config.work)
    composer = scenes.composer(work, config, seed=config.seed + 9000)
    records = evaluate.unseen(
        llm.read_captions(work / EVAL_CAPTIONS), llm.read_captions(work / TRAIN_CAPTIONS)
    )
    report = evaluate.evaluate(config, _referee(config), composer, records, work)
    print(json.dumps(report, indent=2), flush=True)
    texts = [record["caption"] for record in evaluate.pick(records, 1)]
    pipeline = export.load(Path(config.out))
    sheet.draw(pipeline, texts, config.demo, Path(config.sheet), seed=config.seed * 1000)


def texts(config: Config) -> None:
    """Write the model card and the report from the figures."""
    card.write(config)


STAGES: dict[str, Callable[[Config], None]] = {
    "icons": icons,
    "captions": captions,
    "codec": codec,
    "denoiser": denoiser,
    "decoder": decoder,
    "export": ship,
    "judge": train_judge,
    "evaluation": measure,
    "texts": texts,
}
