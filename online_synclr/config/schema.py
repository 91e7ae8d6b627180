"""The settings, section by section.

Units are in the names (`_s` seconds, `_px` pixels, `_bytes`). Figures named "paper" come from
SynCLR, arXiv 2312.17742; "StableRep" is arXiv 2306.00984; "iBOT" is arXiv 2111.07832.
Nothing here imports torch: the command line must answer a wrong setting in well under a second.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
ShareAboveZero = Annotated[float, Field(gt=0.0, le=1.0)]
ShareBelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
ScaleRange = tuple[Share, Share]
# Every reader of these gets the same path: only some libraries know `~`.
HomePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
HomeName = Annotated[str, AfterValidator(os.path.expanduser)]

EMBEDDED = "embedded"
"""Name of the models that ship with the project, for `captions.model` and `images.model`."""

BUNDLED_CHECK_SET = "check_set"
"""Name of the labelled pictures that ship with the project, for `monitor.knn_folder`."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot be changed after loading."""

    # Deferred: building the validators takes most of the import, and not every importer validates.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), defer_build=True
    )


SectionT = TypeVar("SectionT", bound=Section)


class RunConfig(Section):
    """The run as a whole."""

    dir: HomePath = Field(Path("runs/default"), description="Run folder.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of concepts, captions, noise, crops.")
    resume: Literal["never", "auto"] | HomePath = Field(
        "auto",
        description="`auto`: continue from the run folder's newest complete checkpoint, if any; "
        "`never`: refuse a folder that has one; a path: that checkpoint.",
    )
    grace_s: Positive = Field(
        20.0,
        description="Time to leave in after a stop request; then the process is ended. Below "
        "torchrun's own shutdown time-out (30 s), after which it kills.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cpu_threads: CountOrZero = Field(
        0, description="Torch threads of each rank on CPU; 0 shares the cores between the ranks."
    )


class TopologyConfig(Section):
    """Ranks per node by role; the one left out takes the rest of the node's ranks."""

    generators: CountOrZero | None = Field(None, description="Generator ranks on each node.")
    trainers: CountOrZero | None = Field(None, description="Trainer ranks on each node.")
    await_joiners: bool = Field(
        False,
        description="Generators join on their own (`python -m online_synclr generate`): where none "
        "is left, wait for one instead of ending the run; `generators: 0` is allowed then.",
    )


class StreamConfig(Section):
    """The wire between generators and trainers."""

    transport: Literal["auto", "ipc", "tcp"] = Field(
        "auto",
        description="`auto`: ipc when every rank is on this host and `host` is a loopback address, "
        "else tcp.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address trainers bind with tcp; 0.0.0.0: every network of theirs. Beyond "
        "loopback it needs `keys`.",
    )
    advertise: str = Field(
        "",
        description="Host told to generators in place of the trainer's own, with the same port: a "
        "relay's or a gateway's, for example. Empty: `host`, or with 0.0.0.0 found out.",
    )
    keys: HomePath | None = Field(
        None,
        description="Folder made by `python -m online_synclr keys`: who may connect. None: with "
        "tcp on one host the run makes its own.",
    )
    port: int = Field(
        0, ge=0, le=65535, description="First tcp port; trainer i takes port + i; 0: any free one."
    )
    fan_out: CountOrZero = Field(0, description="Trainers one generator serves; 0 means all.")
    credits_per_generator: Count = Field(
        16, description="Most groups one generator may have in flight to one trainer."
    )
    io_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Threads of each trainer that read from the network. A connection is one's, "
        "which also decrypts it: about 0.8 GB/s a thread under keys, so more pay with several fast "
        "generators on other hosts (docs/transport.md).",
    )
    shared_memory: Literal["auto", "never"] = Field(
        "auto",
        description="`auto`: groups of generators that run where the trainer does are put into "
        "memory that both share, and only words about them are sent; others send them. `never`: "
        "all are sent.",
    )
    shared_memory_bytes: Count = Field(
        2**30,
        description="Most shared memory of one trainer: credits_per_generator groups for each "
        "generator. Those it does not suffice for send their groups.",
    )
    encoding: Literal["raw", "jpeg"] = Field(
        "raw",
        description="Of groups that are sent. jpeg pays on links slower than 2-4 Gb/s a core.",
    )
    jpeg_quality: int = Field(95, ge=50, le=100)
    heartbeat_s: Positive = Field(2.0, description="A generator sends STATUS at least this often.")
    silence_s: Positive = Field(30.0, description="A peer silent for this long counts as dead.")
    max_group_bytes: Count = Field(64 * 2**20, description="Largest payload accepted.")


class CaptionFilterConfig(Section):
    """What a written caption must be to be rendered."""

    min_words: Count = 3
    max_words: Count = 40
    require_concept: bool = Field(True, description="The concept must be named in the caption.")
    history: Count = Field(
        2**18, description="Captions remembered to refuse repeats, about 140 bytes each."
    )
    max_rejected_share: ShareAboveZero = Field(
        0.6,
        description="More refused than this of a generator's last 512 captions is said loudly; "
        "1: never.",
    )


class VllmConfig(Section):
    """Settings of the vLLM engine, in the generator child or behind `server: per_node`."""

    gpu_memory_utilization: ShareAboveZero = 0.3
    kv_cache_memory_bytes: CountOrZero = Field(0, description="0: vLLM decides.")
    dtype: str = "auto"
    max_model_len: Count = 1024
    enforce_eager: bool = False
    server_device: CountOrZero | None = Field(
        None, description="GPU of the node's server; none: that of the node's first generator."
    )


class ShareChange(Section):
    """A change of what part of the captions the sources of the concept bank have."""

    step: CountOrZero = Field(..., description="Steps done before it holds.")
    shares: dict[Annotated[str, Field(min_length=1, max_length=128)], Share] = Field(
        ...,
        description="By source, of all captions; sources that are not named have what is left, in "
        "the bank's proportions. None named: the bank's own shares again.",
    )
    ramp_steps: CountOrZero = Field(
        0, description="Steps over which the shares move there in a straight line; 0: at once."
    )


class CaptionsConfig(Section):
    """The LLM and what it is asked."""

    backend: Literal["auto", "vllm", "openai", "transformers", "template", "ledger"] = Field(
        "auto", description="`ledger`: no LLM; captions and noise of an earlier run (`ledger`)."
    )
    ledger: HomePath | None = Field(
        None, description="Run folder, or its ledger, whose groups this run renders again."
    )
    server: Literal["none", "per_node"] = Field(
        "none", description="`per_node`: the run starts and watches one `vllm serve` on each node."
    )
    model: HomeName = Field(EMBEDDED, description="Hub id, folder, or `embedded`.")
    bank: Path = Field(Path("concepts/paper.yaml"), description="Concept bank.")
    share_schedule: tuple[ShareChange, ...] = Field(
        (),
        description="Changes of the shares of the bank's sources by step, in order, e.g. "
        "[{step: 10000, shares: {imagenet1k: 0.3, cars: 0.1}}]; share_schedule.yaml in the run "
        "folder stands for it (docs/beyond-the-paper-shares.md).",
    )
    url: str = Field("", description="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Variable that holds the key, if any.")
    temperature: NonNegative = 0.8
    top_p: ShareAboveZero = 0.9
    max_tokens: Count = 64
    batch_captions: Count = Field(64, description="Prompts given to the LLM at once.")
    queue_captions: Count = Field(512, description="Captions written ahead of the renderer.")
    concurrency: Count = Field(16, description="openai: requests under way at once.")
    timeout_s: Positive = Field(60.0, description="openai: time-out of one request.")
    retries: CountOrZero = Field(5, description="openai: tries after the first, with back-off.")
    filter: CaptionFilterConfig = Field(default_factory=CaptionFilterConfig)
    vllm: VllmConfig = Field(default_factory=VllmConfig)


class ImagesConfig(Section):
    """The text-to-image pipeline."""

    backend: Literal["diffusers", "synthetic"] = "diffusers"
    model: HomeName = Field(EMBEDDED, description="Hub id, folder, or `embedded`.")
    revision: str | None = None
    variant: str | None = Field(None, description="Weights variant on the hub, e.g. fp16.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    per_caption: Count = Field(4, description="m, images of a group (paper: 4).")
    steps: Count = Field(50, description="Denoising steps (paper: 50 DDIM).")
    guidance: NonNegative = Field(2.5, description="Classifier-free guidance scale (paper: 2.5).")
    scheduler: Literal[
        "model", "ddim", "dpmsolver++", "euler", "euler_ancestral", "lcm", "unipc"
    ] = Field("model", description="`model`: the one the pipeline was saved with.")
    scheduler_args: dict[str, Any] = Field(
        {}, description="Given to the scheduler's from_config, e.g. timestep_spacing: trailing."
    )
    lora: HomeName | None = Field(
        None, description="LoRA weights to fuse, e.g. an LCM-LoRA's hub id."
    )
    lora_file: str | None = Field(
        None, description="Its file, where `lora` holds several, e.g. a .safetensors of DMD2's."
    )
    call_args: dict[str, Any] = Field(
        {},
        description="Given to every call of the pipeline, e.g. timesteps: [999, 749, 499, 249] or "
        "max_sequence_length: 256.",
    )
    vae: HomeName | None = Field(None, description="A smaller decoder, e.g. madebyollin/taesd.")
    negative_prompt: str = ""
    render_px: Count = Field(512, description="Side rendered.")
    send_px: Count = Field(256, description="Side sent to the trainers (area-averaged).")
    batch_groups: Count = Field(4, description="Captions rendered together.")
    safety_checker: bool = Field(
        False,
        description="Keep the checker some pipelines carry (about 27 ms an image); what it blanks, "
        "the quality gate discards.",
    )
    channels_last: bool | None = Field(
        None,
        description="Memory format of UNet and decoder; none: on GPUs both, on CPUs the decoder.",
    )
    compile: Literal["none", "blocks", "full"] = Field(
        "none",
        description="torch.compile of the decoder and of the denoiser: its repeated blocks, or all "
        "of it (minutes at every start). Batches are then filled up to batch_groups.",
    )
    min_contrast: NonNegative = Field(
        2.0,
        description="Quality gate: a group with an image none of whose channels has this standard "
        "deviation (0-255) is discarded (blank or censored pictures).",
    )
    max_rejected_share: ShareAboveZero = Field(
        0.2,
        description="More refused than this of a generator's last 256 groups is said loudly; "
        "1: never.",
    )
    rate_images_per_s: NonNegative = Field(
        0.0, description="synthetic: images a second and generator; 0 means as fast as it goes."
    )


class GeneratorsConfig(Section):
    """The generator ranks' processes."""

    queue_groups: Count = Field(8, description="Rendered groups held while no credit is there.")
    stall_s: Positive = Field(600.0, description="No progress for this long: the child is ended.")
    restarts_per_hour: CountOrZero = Field(6, description="Engine restarts before the rank idles.")
    backoff_s: Positive = Field(2.0, description="Pause before the first restart; then doubled.")
    backoff_max_s: Positive = Field(60.0, description="Longest pause before a restart.")
    goodbye_s: Positive = Field(20.0, description="Longest wait for the trainers' BYE.")


class PoolConfig(Section):
    """A trainer rank's memory of groups and its rate limiter (docs/architecture.md, Limiter)."""

    max_bytes: Count = Field(
        4 * 2**30,
        description="Images held, groups in flight included; one batch more while it is used. "
        "With a GPU all of it is page-locked at the start.",
    )
    samples_per_insert: Positive = Field(
        2.0, description="Reuse r: uses of a group, on average, for each group received."
    )
    max_reuse: Count = Field(4, description="Most uses of one group.")
    min_groups: Count | None = Field(
        None, description="Groups before the first step; none: two local batches."
    )
    error_buffer: Positive | None = Field(
        None,
        description="How far, in group-uses, sampling and inserting may run apart from r; none: "
        "four local batches, more where `adaptive_reuse` may raise r far.",
    )
    adaptive_reuse: bool = Field(
        False, description="Raise r within [samples_per_insert, max_reuse] when groups are short."
    )


class CropsConfig(Section):
    """Multi-crop (paper: 1 x 224 + 4 x 96; scale ranges from its appendix)."""

    global_px: Count = 224
    local_px: Count = 96
    globals_per_image: Count = 1
    locals_per_image: CountOrZero = 4
    global_scale: ScaleRange = (0.32, 1.0)
    local_scale: ScaleRange = (0.08, 0.32)


class AugmentConfig(Section):
    """Batched augmentations; probabilities and strengths of the paper and StableRep."""

    flip: Share = 0.5
    jitter: Share = 0.8
    jitter_strength: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = Field(
        (0.4, 0.4, 0.2, 0.1), description="Brightness, contrast, saturation, hue."
    )
    grey: Share = 0.2
    solarise: Share = Field(0.2, description="Of the second half of the global crops.")
    global_blur: tuple[Share, Share] = Field(
        (1.0, 0.1), description="Blur of the first and of the second half of the global crops."
    )
    local_blur: Share = 0.5
    blur_sigma: tuple[Positive, Positive] = Field((0.1, 2.0), description="At 224 px; scaled.")
    downsample: Share = Field(0.05, description="Random down-and-up before the crop (StableRep).")
    downsample_px: tuple[Count, ...] = (64, 128)


class ContrastiveConfig(Section):
    """Multi-positive contrastive loss (paper, eq. 1-3; StableRep, eq. 2)."""

    temperature: Positive = 0.08
    positives: Literal["caption", "image", "concept"] = Field(
        "caption", description="What makes two crops positives: SynCLR, SimCLR or supervised."
    )
    negatives: Literal["all", "other_concepts"] = Field(
        "all", description="`other_concepts` leaves other captions of the same concept out."
    )
    global_weight: NonNegative = 1.0
    local_weight: NonNegative = 1.0
    projector_layers: Count = 3
    projector_hidden: Count = 4096
    out_dim: Count = 256
    predictor_layers: CountOrZero = Field(2, description="0: no predictor.")
    predictor_hidden: Count = 4096


class MimConfig(Section):
    """Masked image modelling (iBOT)."""

    weight: NonNegative = Field(1.0, description="0 leaves the masked-image loss out.")
    image_share: Share = Field(0.5, description="Of the images, how many are masked.")
    token_share: Share = Field(0.5, description="Of a masked image's tokens, how many.")
    prototypes: Count = 65536
    layers: Count = 3
    hidden: Count = 2048
    bottleneck: Count = 256
    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)
    teacher_warmup_steps: CountOrZero = 4000
    sinkhorn_iterations: Count = 3


class OptimizerConfig(Section):
    """The optimiser and its schedules."""

    name: Literal["adamw", "muon"] = Field(
        "adamw", description="`muon`: for the matrices of blocks, projector and predictor."
    )
    muon_lr_ratio: Positive = Field(1.0, description="Muon's rate over that of the rest.")
    peak_lr: Positive = Field(2e-3, description="At `lr_reference_groups` (paper: 2e-3 for B).")
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    lr_reference_groups: Count = Field(8192, description="Global batch, captions, of `peak_lr`.")
    final_lr: NonNegative = 1e-6
    warmup_steps: CountOrZero = 80_000
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    weight_decay: tuple[NonNegative, NonNegative] = Field((0.04, 0.2), description="Start, end.")
    clip_grad_norm: NonNegative = Field(3.0, description="0: none.")
    ema: tuple[Share, Share] = Field((0.994, 1.0), description="Teacher momentum: start, end.")


class BlocksConfig(Section):
    """What the backbone's blocks are made of, beyond the paper; none: as the timm model has it."""

    mlp: Literal["swiglu"] | None = Field(
        None, description="Gated MLPs of two thirds of the width, which are as many parameters."
    )
    layer_scale: Positive | None = Field(
        None, description="LayerScale: every branch is scaled by learned gains that start here."
    )
    registers: Count | None = Field(
        None, description="Register tokens; then only patch tokens have positions."
    )


class HighResolutionConfig(Section):
    """Last steps of the run at another size; what is none stays as in the steps before.

    Both parts of the run have the schedules of their own length: the run's, compressed (DINOv2,
    arXiv 2304.07193, appendix B.2).
    """

    steps: CountOrZero = Field(0, description="Of `trainer.steps`, the last so many; 0: none.")
    global_px: Count | None = Field(None, description="As `crops.global_px`.")
    local_px: Count | None = Field(None, description="As `crops.local_px`.")
    send_px: Count | None = Field(None, description="As `images.send_px`.")
    render_px: Count | None = Field(None, description="As `images.render_px`.")
    micro_batches: Count | None = Field(None, description="Larger crops need more memory.")
    peak_lr_ratio: Positive = Field(0.1, description="Peak learning rate over the run's own.")


class CheckpointConfig(Section):
    """When a checkpoint is written and how many are kept."""

    every_steps: CountOrZero = Field(1000, description="0: only at the end.")
    keep: Count = 3


class DistillationConfig(Section):
    """Distillation from a frozen teacher (docs/beyond-the-paper-distillation.md)."""

    teacher: HomeName = Field(
        "",
        description="Whose features of the global crops the student also imitates: a timm model, "
        "local-dir:DIR (an export), or a run's folder or checkpoint (:student for its student). "
        "Empty: none. To learn from it alone, set the weights of the other losses to 0.",
    )
    teacher_px: Count | None = Field(
        None,
        description="Side of its input; none: so that it has as many patches as the student.",
    )
    class_weight: NonNegative = Field(
        1.0, description="Of the cosine distance of the class token from its pooled feature."
    )
    patch_weight: NonNegative = Field(
        1.0, description="Of the mean cosine distance of the patch tokens from its own."
    )


class SupervisedConfig(Section):
    """A phase on labelled images after a run (docs/beyond-the-paper-supervised.md).

    `python -m online_synclr finetune RUN` takes it; a run of its own does not.
    """

    folder: HomeName = Field(
        "",
        description="<class>/<image>, or so below train/ and val/; `check_set`: the bundled "
        "pictures. Empty: no such phase.",
    )
    network: Literal["student", "teacher"] = Field(
        "student", description="Whose backbone is trained on."
    )
    steps: Count = 10_000
    batch_images: Count = Field(1024, description="Images of one step over all ranks.")
    peak_lr: Positive = Field(5e-4, description="Of the classifier; see `layer_decay`.")
    final_lr: NonNegative = 1e-6
    warmup_steps: CountOrZero = 500
    layer_decay: ShareAboveZero = Field(
        0.75, description="Rate of each layer over that of the layer above (BEiT, MAE); 1: equal."
    )
    weight_decay: NonNegative = 0.05
    clip_grad_norm: NonNegative = Field(3.0, description="0: none.")
    label_smoothing: ShareBelowOne = 0.1
    drop_path: ShareBelowOne = 0.1
    ema: ShareBelowOne = Field(
        0.999,
        description="Momentum of the average, which checkpoints call teacher; lower at first, "
        "(1 + step) / (10 + step).",
    )
    load_px: Count | None = Field(
        None,
        description="Side of the square that pictures are read as, before the views' crop; none: "
        "trainer.crops.global_px * 256 / 224.",
    )
    workers: CountOrZero = Field(
        4, description="Processes of each rank that read pictures; 0: the rank itself."
    )
    val_every_steps: CountOrZero = Field(
        0, description="Accuracy on val/, if there is one; 0: only at the end."
    )


class TrainerConfig(Section):
    """The learning side."""

    steps: Count = 500_000
    batch_groups: Count = Field(8192, description="Captions of one step over all trainers.")
    images_per_group: Count | None = Field(
        None, description="n of a group's m images used a step; none: all."
    )
    micro_batches: Count = Field(
        1,
        description="Parts that each trainer computes its share of a batch in, one after another: "
        "less memory, the same step (gradient accumulation).",
    )
    backbone: str = Field("vit_base_patch16_224", description="timm model name.")
    backbone_args: dict[str, Any] = Field({}, description="Given to timm.create_model.")
    blocks: BlocksConfig = Field(default_factory=BlocksConfig)
    drop_path: Share = 0.1
    pretrained: bool = Field(False, description="Short for init_from=<backbone>.")
    init_from: HomeName = Field(
        "",
        description="What a new run's backbone starts from: a timm model's weights, "
        "`local-dir:DIR` (an export), or a run folder or checkpoint (`:student` for the student's; "
        "else the teacher's). Positions and patches of other sizes are resampled.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto`: bf16 autocast where the device has fast bf16."
    )
    recompute_blocks: bool = Field(
        False,
        description="Keep only each block's input and compute the rest again in the backward pass: "
        "about a quarter more work; of ViT-B 3.6 kB a token and block are kept instead of 46.",
    )
    compile: bool = Field(
        False,
        description="torch.compile for blocks and heads; the first step takes minutes longer.",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="`fsdp`: each trainer holds only its share of weights, gradients and moments, "
        "for more traffic between the trainers; one trainer holds all.",
    )
    crops: CropsConfig = Field(default_factory=CropsConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    contrastive: ContrastiveConfig = Field(default_factory=ContrastiveConfig)
    mim: MimConfig = Field(default_factory=MimConfig)
    distillation: DistillationConfig = Field(default_factory=DistillationConfig)
    supervised: SupervisedConfig = Field(default_factory=SupervisedConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    resize_on_resume: bool = Field(
        False,
        description="Continue a checkpoint of another number of trainers; the global batch stays.",
    )
    resample_on_resume: bool = Field(
        False,
        description="Continue a checkpoint of another `crops.global_px`: its position embeddings "
        "are resampled.",
    )
    high_resolution: HighResolutionConfig = Field(default_factory=HighResolutionConfig)
    max_non_finite_steps: Count = Field(
        50, description="Steps in a row with a loss that is not finite, after which the run stops."
    )
    starve_s: Positive = Field(30.0, description="Starved for this long: named in log and console.")
    on_starvation: Literal["wait", "stop"] = Field(
        "wait", description="What trainers do that have been starved for `starvation_stop_s`."
    )
    starvation_stop_s: Positive = Field(
        1800.0,
        description="With on_starvation=stop: starved for this long, the run saves and stops.",
    )
    shuffle_positives: bool = Field(
        False,
        description="Control experiment: the images of different groups are exchanged before the "
        "loss, so that positives are images of different captions.",
    )

    @property
    def first_part_steps(self) -> int:
        """Steps before the high-resolution phase; all of them where there is none."""
        return max(0, self.steps - self.high_resolution.steps)

    def in_high_resolution(self, step: int) -> bool:
        """Whether a run goes on in the high-resolution phase after `step` steps."""
        return self.high_resolution.steps > 0 and step >= self.first_part_steps

    def part_end(self, step: int) -> int:
        """Steps after which the part of the run ends that goes on after `step` steps."""
        return self.steps if self.in_high_resolution(step) else self.first_part_steps

    @property
    def initial_weights(self) -> str:
        """Where a new run's backbone comes from; empty: random weights."""
        return self.backbone if self.pretrained else self.init_from


class MonitorConfig(Section):
    """What is written for people, and how often."""

    log_every_steps: Count = 10
    console_every_s: Positive = 2.0
    samples_every_steps: CountOrZero = Field(500, description="Pictures of groups; 0: none.")
    samples_groups: Count = 8
    knn_every_steps: CountOrZero = Field(
        0,
        description="kNN accuracy of the teacher, shared out over trainers and steps; 0: only "
        "before and after.",
    )
    knn_folder: HomeName = Field(
        BUNDLED_CHECK_SET,
        description="Labelled image folder, `check_set` (bundled), or empty: none.",
    )
    knn_neighbours: Count = 10
    embeddings_every_steps: CountOrZero = Field(
        500,
        description="Alignment, uniformity and RankMe of the teacher's embeddings of the groups "
        "trained on; 0: never.",
    )
    embeddings: Annotated[int, Field(ge=2, le=2**17)] = Field(
        2048,
        description="Embeddings, of all trainers, that these are made of; RankMe is never larger.",
    )
    max_probe_share: ShareAboveZero = Field(
        0.02,
        description="Most of the run's time that kNN and embeddings may take: what costs more is "
        "measured less often.",
    )
    tensorboard: bool = True


class Config(Section):
    """One run, whole."""

    run: RunConfig = Field(default_factory=RunConfig)
    topology: TopologyConfig = Field(default_factory=TopologyConfig)
    stream: StreamConfig = Field(default_factory=StreamConfig)
    captions: CaptionsConfig = Field(default_factory=CaptionsConfig)
    images: ImagesConfig = Field(default_factory=ImagesConfig)
    generators: GeneratorsConfig = Field(default_factory=GeneratorsConfig)
    pool: PoolConfig = Field(default_factory=PoolConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    monitor: MonitorConfig = Field(default_factory=MonitorConfig)

    def at_step(self, step: int) -> "Config":
        """The settings that are in force after `step` steps: sizes change with the phase."""
        if not self.trainer.in_high_resolution(step):
            return self
        phase = self.trainer.high_resolution
        crops = {"global_px": phase.global_px, "local_px": phase.local_px}
        trainer = {
            "crops": _changed(self.trainer.crops, crops),
            "micro_batches": phase.micro_batches or self.trainer.micro_batches,
        }
        images = {"send_px": phase.send_px, "render_px": phase.render_px}
        return self.model_copy(
            update={
                "trainer": self.trainer.model_copy(update=trainer),
                "images": _changed(self.images, images),
            }
        )

    @property
    def images_per_group(self) -> int:
        """n, images of a group used in one step."""
        return self.trainer.images_per_group or self.images.per_caption

    @property
    def group_bytes(self) -> int:
        """Bytes of one group as held in the pool (m x 3 x H x W, uint8)."""
        return self.images.per_caption * 3 * self.images.send_px**2

    @property
    def synthetic_parts(self) -> list[str]:
        """Names of the stand-in engines in use, for every place that shows the run."""
        parts = []
        if self.captions.backend == "template":
            parts.append("captions.backend=template")
        if self.images.backend == "synthetic":
            parts.append("images.backend=synthetic")
        return parts


def _changed(section: SectionT, changes: dict[str, int | None]) -> SectionT:
    """With those values that are not none."""
    return section.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )
