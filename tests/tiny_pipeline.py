"""A StableDiffusionPipeline and a causal language model, tiny and random, for tests."""

from functools import cache
from pathlib import Path

WORDS = (
    *("a", "an", "the", "on", "in", "of", "and", "with", "red", "blue", "green", "small", "large"),
    *("fox", "owl", "tree", "table", "river", "sky", "snow", "house", "photo", "dog", "boat"),
)


def save_tiny_pipeline(folder: Path) -> Path:
    """Write a pipeline of some 100k random weights that renders 32 px in milliseconds."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=_text_encoder(),
        tokenizer=_clip_tokenizer(folder / "vocabulary"),
        unet=_unet(),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def _unet():  # type: ignore[no-untyped-def]
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def _text_encoder():  # type: ignore[no-untyped-def]
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(_clip_vocabulary()),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


@cache
def _clip_vocabulary() -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{char}</w>" for char in letters)]
    return {piece: index for index, piece in enumerate(pieces)}


def _clip_tokenizer(folder: Path):  # type: ignore[no-untyped-def]
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=16)


def save_tiny_language_model(folder: Path) -> Path:
    """Write a random two-layer Llama over whole words and newlines."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<unk>", "<eos>", "\n", " ", "=>", *WORDS]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(" ", "isolated")
    tokenizer.decoder = Fuse()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(pieces),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>"
    ).save_pretrained(folder)
    return folder
