"""The recipe's stages in order; a stage takes the settings and leaves its work on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import distributed, multiprocessing
from transformers import CLIPTokenizer

from online_synclr.seeds import derive_seed
from recipes.embedded_image_model import (
    atlas,
    bank,
    card,
    codes,
    diffusion,
    evaluate,
    export,
    judge,
    latents,
    licences,
    llm,
    scenes,
    sheet,
    text_encoder,
    tokens,
    vae,
)
from recipes.embedded_image_model.concepts import CONCEPTS, NAMES, OFFERED
from recipes.embedded_image_model.config import Config
from recipes.embedded_image_model.training import Ema, load_state, steps_done

TRAIN_CAPTIONS, EVAL_CAPTIONS = "captions_train.jsonl", "captions_eval.jsonl"


def icons(config: Config) -> None:
    """Fetch the icon packages; draw the atlas and the backgrounds."""
    scenes.composer(Path(config.work), config, seed=config.seed)


def captions(config: Config) -> None:
    """Let the LLM write the captions of the evaluation and of the training."""
    work = Path(config.work)
    bank_file = bank.write_apart(work / "configs")
    shown = config.demo.captions_each
    for file, each, least, seed in (
        (EVAL_CAPTIONS, config.captions.eval_each, shown + 1, 1001),
        (TRAIN_CAPTIONS, config.captions.each, shown, 77),
    ):
        llm.write_captions(
            work / file, bank_file, config.captions, each=each, least=least, seed=seed
        )


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
    records = llm.read_captions(Path(config.work) / TRAIN_CAPTIONS)
    corpus = latents.caption_corpus(records, config, count=20000)
    made = tokens.train(corpus, vocabulary=config.text.vocabulary)
    return tokens.save(made, folder, positions=config.text.positions)


def _captioner(config: Config, *, seed: int, about: Sequence[int] = ()) -> latents.Captioner:
    """Drafts training captions, about all concepts or some."""
    work = Path(config.work)
    kept_back = [record["caption"] for record in llm.read_captions(work / EVAL_CAPTIONS)]
    records = llm.read_captions(work / TRAIN_CAPTIONS)
    return latents.Captioner(records, config, seed=seed, avoid=kept_back, about=about)


def _reader(config: Config) -> text_encoder.Reader:
    """The trained text encoder with its heads.

    Raises:
        ValueError: its training is not done.
    """
    torch.manual_seed(config.seed)
    reader = text_encoder.Reader(text_encoder.build(config.text, _tokenizer(config)))
    ema = Ema(reader, decay=0.0)
    done = load_state(Path(config.work) / "text_state.pt", reader, ema, None)
    if done < config.text.steps:
        raise ValueError(f"the text encoder is at step {done}: train it first (--only text)")
    ema.copy_to(reader)
    return reader


def text(config: Config) -> None:
    """Teach the text encoder to say what a caption's picture holds."""
    work = Path(config.work)
    tokenizer = _tokenizer(config)
    codes_KPD = codes.of_concepts(atlas.build(work, size_px=config.icon_px), len(CONCEPTS))
    start = steps_done(work / "text_state.pt")
    captioner = _captioner(config, seed=derive_seed("text", config.seed, start))

    def draw(count: int) -> tuple[torch.Tensor, text_encoder.Answers]:
        captions, wishes = zip(*(captioner.reading() for _ in range(count)), strict=True)
        answers = text_encoder.answers(list(wishes), codes_KPD)
        return latents.tokenise(tokenizer, list(captions)), answers

    torch.manual_seed(config.seed)
    reader = text_encoder.Reader(text_encoder.build(config.text, tokenizer))
    text_encoder.train(draw, reader, work, config.text, seed=config.seed)


def _unet(config: Config) -> UNet2DConditionModel:
    """The denoiser with its first weights."""
    torch.manual_seed(config.seed)
    return diffusion.build_unet(config.unet, config.text)


def denoiser(config: Config) -> None:
    """Train the denoiser on the frozen text encoder's states, in one or several processes.

    A resumed training fills its pools with other scenes.
    """
    if steps_done(Path(config.work) / diffusion.STATE) >= config.unet.steps:
        return
    if config.unet.processes == 1:
        _denoise(0, config, "")
        return
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _denoise, (config, f"file://{folder}/meet"), config.unet.processes, start_method="spawn"
        )


def _denoise(rank: int, config: Config, meet: str) -> None:
    """One process of the denoiser's training; meet: where a group meets, empty for one alone."""
    work, world = Path(config.work), config.unet.processes
    torch.set_num_threads(max(1, config.threads // world))
    if meet:
        distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    start = steps_done(work / diffusion.STATE)

    def seed(what: str) -> int:
        return derive_seed(what, config.seed, rank, start) % 2**31

    tokenizer = _tokenizer(config)
    encoder = _reader(config).text.requires_grad_(False).eval()
    pool = latents.LatentPool(
        composer=scenes.composer(work, config, seed=seed("scenes"), sources=config.unet.sources),
        captioner=_captioner(config, seed=seed("captions"), about=OFFERED),
        codec=AutoencoderKL.from_pretrained(work / "vae").eval(),
        tokenizer=tokenizer,
        text=encoder,
        size=config.unet.pool // world,
        seed=seed("pool"),
    )
    empty_TD = text_encoder.states(encoder, latents.tokenise(tokenizer, [""]))[0]
    diffusion.train(pool, _unet(config), empty_TD, work, config.unet, seed=config.seed)
    if meet:
        distributed.destroy_process_group()


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
    codec_ = vae.averaged_decoder(work)
    test = scenes.scene_pool(work, config, count=256, seed=config.seed + 400)
    figure = {"psnr_db": round(vae.psnr(codec_, test), 2)}
    (work / "psnr.json").write_text(json.dumps(figure), encoding="utf-8")
    out = Path(config.out)
    export.write(
        out,
        codec=codec_,
        text=_reader(config).text.eval(),
        unet=diffusion.averaged(_unet(config), work, config.unet),
        tokenizer_folder=work / "tokenizer",
    )
    licences.write(out / "LICENSES")
    bank.write(Path(config.configs))


def train_judge(config: Config) -> judge.Judge:
    """The judge, trained the first time."""
    composer = scenes.composer(Path(config.work), config, seed=501, drawings=scenes.JUDGE_DRAWINGS)
    return judge.train(composer, config.judge, seed=501)


def measure(config: Config) -> None:
    """Evaluate the shipped folder and draw the sample sheet."""
    work = Path(config.work)
    composer = scenes.composer(work, config, seed=config.seed + 9000, drawings=scenes.TEST_DRAWINGS)
    offered = {NAMES[index] for index in OFFERED}
    records = [r for r in llm.read_captions(work / EVAL_CAPTIONS) if r["concept"] in offered]
    report = evaluate.evaluate(config, train_judge(config), composer, records, work)
    print(json.dumps(report, indent=2), flush=True)
    one_each = sorted(evaluate.pick(records, 1)[0], key=lambda r: NAMES.index(r["concept"]))
    texts = [record["caption"] for record in one_each[:: config.sheet_every]]
    pipeline = export.load(Path(config.out))
    sheet.draw(pipeline, texts, config.demo, Path(config.sheet), seed=config.seed * 1000)


def texts(config: Config) -> None:
    """Write the model card and the report from the figures."""
    card.write(config)


STAGES: dict[str, Callable[[Config], object]] = {
    "icons": icons,
    "captions": captions,
    "codec": codec,
    "text": text,
    "denoiser": denoiser,
    "decoder": decoder,
    "judge": train_judge,
    "export": ship,
    "evaluation": measure,
    "texts": texts,
}
