"""Contradictions between settings, found before anything loads."""

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

from online_synclr.config.errors import ConfigError
from online_synclr.config.objective_checks import check_objective
from online_synclr.config.schema import (
    BUNDLED_CHECK_SET,
    EMBEDDED,
    CaptionsConfig,
    Config,
    ImagesConfig,
)
from online_synclr.config.supervised_checks import check_no_supervised_phase

TORCHRUN_SHUTDOWN_S = 30.0
"""torchrun's default time between its signal and SIGKILL."""

PIPELINE_PX = 8
_SET_STEPS, _SET_PX = "set images.steps", "set images.render_px"
_FROM_RECIPES = "leave it out"
CALL_ARGS_OF_SETTINGS = {
    "num_inference_steps": _SET_STEPS,
    "guidance_scale": "set images.guidance",
    "height": _SET_PX,
    "width": _SET_PX,
    "negative_prompt": "set images.negative_prompt",
    "num_images_per_prompt": "set images.per_caption",
    "prompt": _FROM_RECIPES,
    "generator": _FROM_RECIPES,
    "latents": _FROM_RECIPES,
    "output_type": _FROM_RECIPES,
    "return_dict": _FROM_RECIPES,
}
"""Arguments of a pipeline's call that `images.call_args` may not hold, and the mend."""
"""Pixels of a latent's side: pipelines refuse other sizes, at their first picture."""


def check(config: Config, *, num_trainers: int | None = 1) -> None:
    """Refuse what cannot work, given the number of trainers in the run.

    None: it is not known yet, because nodes may split differently; see `check_shares`.

    Raises:
        ConfigError: one sentence that names the key and the mend.
    """
    _check_images(config)
    _check_captions(config)
    _check_stream(config)
    _check_groups(config)
    check_objective(config)
    if num_trainers is not None:
        check_shares(config, num_trainers)
    _check_high_resolution(config)
    _check_labelled_folder(config.monitor.knn_folder)
    check_no_supervised_phase(config)
    _check_run_folder(config.run.dir)
    _check_grace(config.run.grace_s)


def _check_high_resolution(config: Config) -> None:
    """The last phase's settings must work as well, with its own sizes."""
    phase = config.trainer.high_resolution
    names = ("global_px", "local_px", "send_px", "render_px")
    sizes = {name: getattr(phase, name) for name in names}
    if not phase.steps:
        given = [key for key, value in sizes.items() if value is not None]
        if given:
            raise ConfigError(
                f"trainer.high_resolution.{given[0]} is set, but trainer.high_resolution.steps=0 "
                "leaves the phase out; say how many steps it has."
            )
        return
    if not any(sizes.values()):
        raise ConfigError(
            f"trainer.high_resolution.steps={phase.steps}, but no size is set for them; set "
            "trainer.high_resolution.global_px, and send_px beside it."
        )
    if phase.steps >= config.trainer.steps:
        raise ConfigError(
            f"trainer.high_resolution.steps={phase.steps} are the last ones of trainer.steps="
            f"{config.trainer.steps}, which must be more; raise it, or set the sizes of the whole "
            "run instead."
        )
    last = config.at_step(config.trainer.steps)
    with _naming_the_phase():
        _check_images(last)
        check_objective(last)


@contextlib.contextmanager
def _naming_the_phase() -> Iterator[None]:
    """An error names a setting; say that its value is the phase's."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            f"in the last phase, with the values of trainer.high_resolution: {error}"
        ) from None


def _check_grace(grace_s: float) -> None:
    limit_s = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", TORCHRUN_SHUTDOWN_S))
    if grace_s >= limit_s:
        raise ConfigError(
            f"run.grace_s={grace_s:g} is not below the {limit_s:g} s after which torchrun kills "
            "what it asked to stop; lower it, or export a longer TORCH_ELASTIC_SHUTDOWN_TIMEOUT."
        )


def check_shares(config: Config, num_trainers: int) -> None:
    """Refuse what cannot work with each of so many trainers' share of batch and pool.

    Raises:
        ConfigError: one sentence that names the key and the mend.
    """
    _check_batch(config, num_trainers)
    _check_limiter(config, num_trainers)
    if config.trainer.high_resolution.steps:
        last = config.at_step(config.trainer.steps)
        with _naming_the_phase():
            _check_batch(last, num_trainers)
            _check_limiter(last, num_trainers)


def _check_images(config: Config) -> None:
    images = config.images
    _check_model_folder("images.model", images.model)
    for key, part in {"images.vae": images.vae, "images.lora": images.lora}.items():
        if part is not None:
            _check_model_folder(key, part, ships=False)
    if images.lora_file is not None and images.lora is None:
        raise ConfigError(
            f"images.lora_file={images.lora_file} is a file of images.lora, which is not set; set "
            "it, or leave images.lora_file out."
        )
    _check_call_args(images)
    if images.backend == "diffusers" and images.render_px % PIPELINE_PX:
        raise ConfigError(
            f"images.render_px={images.render_px} is not a multiple of {PIPELINE_PX}, which "
            "diffusers pipelines need; set it to "
            f"{max(1, round(images.render_px / PIPELINE_PX)) * PIPELINE_PX}."
        )
    if images.send_px > images.render_px:
        raise ConfigError(
            f"images.send_px={images.send_px} is larger than images.render_px={images.render_px}; "
            "pictures are only ever sent at the size rendered or smaller."
        )
    if config.group_bytes > config.stream.max_group_bytes:
        raise ConfigError(
            f"a group of {images.per_caption} images at {images.send_px} px has "
            f"{config.group_bytes} bytes, more than stream.max_group_bytes="
            f"{config.stream.max_group_bytes}; raise it or lower images.send_px."
        )


def _check_call_args(images: ImagesConfig) -> None:
    own = sorted(images.call_args.keys() & CALL_ARGS_OF_SETTINGS.keys())
    if own:
        raise ConfigError(
            f"images.call_args.{own[0]} is given by the renderer itself; "
            f"{CALL_ARGS_OF_SETTINGS[own[0]]}."
        )
    timesteps = images.call_args.get("timesteps")
    if timesteps is not None and len(timesteps) != images.steps:
        raise ConfigError(
            f"images.call_args.timesteps names {len(timesteps)} steps, but images.steps="
            f"{images.steps}; make them agree."
        )


def _check_captions(config: Config) -> None:
    captions = config.captions
    if captions.server == "per_node" and captions.backend not in ("auto", "openai"):
        raise ConfigError(
            f"captions.server=per_node is asked through the openai back end, but captions.backend="
            f"{captions.backend}; set it to auto."
        )
    if captions.filter.min_words > captions.filter.max_words:
        raise ConfigError("captions.filter.min_words is larger than captions.filter.max_words.")
    if captions.backend == "ledger":
        _check_ledger(captions.ledger, config.run.dir)
        _check_own_checkpoint(config.run.resume, config.run.dir)
        if captions.share_schedule:
            raise ConfigError(
                "captions.share_schedule says what new captions are about, but captions.backend="
                "ledger writes none; leave it out."
            )
        return
    if captions.ledger is not None:
        raise ConfigError(
            f"captions.ledger is set, but captions.backend={captions.backend} writes captions of "
            "its own; set captions.backend=ledger, or leave captions.ledger out."
        )
    asks_url = captions.url and captions.backend in ("auto", "openai")
    if not asks_url:
        # A server knows its model by any name.
        _check_model_folder("captions.model", captions.model)
    elif captions.server == "per_node":
        raise ConfigError(
            "captions.url names a server, but captions.server=per_node starts one; set "
            "captions.server=none or leave captions.url out."
        )
    if not os.path.isfile(captions.bank):
        raise ConfigError(
            f"captions.bank: there is no file {captions.bank}; name a concept bank's YAML."
        )
    _check_share_schedule(captions)
    if captions.backend == "openai" and captions.server == "none" and not captions.url:
        raise ConfigError(
            "captions.backend=openai needs captions.url, for example http://127.0.0.1:8000/v1, or "
            "captions.server=per_node."
        )


def _check_share_schedule(captions: CaptionsConfig) -> None:
    # Imported here: it reads the configuration's types.
    from online_synclr.concept_shares import bank_shares, check_changes

    if captions.share_schedule:
        check_changes(bank_shares(captions.bank), captions.share_schedule)


def _check_ledger(folder: Path | None, run_dir: Path) -> None:
    # Imported here: the ledger reads the configuration's types.
    from online_synclr.ledger.facts import FOLDER_NAME, ledger_folder

    if folder is None:
        raise ConfigError(
            "captions.backend=ledger needs captions.ledger: the folder of a run that has trained."
        )
    found = ledger_folder(folder)
    if not any(found.glob("*.ledger")):
        raise ConfigError(
            f"captions.ledger: there is no ledger in {folder}; name the folder of a run that has "
            "trained."
        )
    if found.resolve() == (run_dir / FOLDER_NAME).resolve():
        raise ConfigError(
            "captions.ledger is this run's own ledger; name another run's, or another run.dir."
        )


def _check_own_checkpoint(resume: Path | str, run_dir: Path) -> None:
    """What was trained on before is known from the run folder's own ledger alone."""
    if resume in ("auto", "never"):
        return
    if Path(resume).expanduser().resolve().parent != (run_dir / "checkpoints").resolve():
        raise ConfigError(
            f"run.resume={resume} is another run's checkpoint, and captions.backend=ledger, which "
            "does not know what that run trained on, would train on it again; set run.dir to that "
            "run's folder and run.resume=auto, or another captions.backend."
        )


def _check_model_folder(key: str, model: str, *, ships: bool = True) -> None:
    """A name that can only be a folder must be one; `owner/name` is left to the hub.

    `ships`: whether the name of the embedded models will do.
    """
    if ships and model == EMBEDDED:
        return
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") != 1
    if looks_like_path and not os.path.isdir(model):
        raise ConfigError(
            f"{key}: there is no folder {model}; give a model folder, a hub id such as owner/name"
            + (f", or `{EMBEDDED}`." if ships else ".")
        )


def _check_stream(config: Config) -> None:
    host = config.stream.host
    if not is_address(host):
        raise ConfigError(
            f"stream.host={host} is not an address of this machine; give one in figures, or "
            "0.0.0.0 for every network."
        )
    keys = config.stream.keys
    if keys is None and not is_loopback(host):
        raise ConfigError(
            f"stream.host={host} is not a loopback address, and no socket of this project listens "
            "beyond loopback without keys; make some with `python -m online_synclr keys DIR` and "
            "set stream.keys=DIR."
        )
    if keys is not None and not keys.is_dir():
        raise ConfigError(
            f"stream.keys: there is no folder {keys}; `python -m online_synclr keys {keys}` makes "
            "it."
        )
    if not is_loopback(host) and config.stream.transport == "ipc":
        raise ConfigError(
            f"stream.host={host} is for generators elsewhere, but stream.transport=ipc stays on "
            "this machine; set it to auto or tcp."
        )
    if config.stream.heartbeat_s >= config.stream.silence_s:
        raise ConfigError(
            f"stream.heartbeat_s={config.stream.heartbeat_s} must be below stream.silence_s="
            f"{config.stream.silence_s}, or live generators count as dead."
        )


def is_address(host: str) -> bool:
    """Whether this is an IP address, or the one name that is one everywhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def is_loopback(host: str) -> bool:
    """Whether an address to bind stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_groups(config: Config) -> None:
    if config.images_per_group > config.images.per_caption:
        raise ConfigError(
            f"trainer.images_per_group={config.images_per_group} is more than images.per_caption="
            f"{config.images.per_caption}; lower it or render more."
        )


def _check_batch(config: Config, num_trainers: int) -> None:
    trainer = config.trainer
    if trainer.batch_groups % num_trainers:
        raise ConfigError(
            f"trainer.batch_groups={trainer.batch_groups} does not divide over {num_trainers} "
            f"trainers; make it a multiple of {num_trainers}."
        )
    if trainer.shuffle_positives and trainer.batch_groups // num_trainers < 2:
        raise ConfigError(
            "trainer.shuffle_positives exchanges images between groups and needs at least two "
            "groups on each trainer; raise trainer.batch_groups."
        )
    _check_micro_batches(config, num_trainers)


def _check_micro_batches(config: Config, num_trainers: int) -> None:
    """Parts are of equally many images: losses are means over anchors, and ranks do equal work."""
    wanted = config.trainer.micro_batches
    num_images = config.trainer.batch_groups // num_trainers * config.images_per_group
    if num_images % wanted == 0:
        return
    below, above = (
        next((number for number in numbers if num_images % number == 0), num_images)
        for numbers in (range(wanted, 0, -1), range(wanted, num_images))
    )
    mend = str(below) if wanted > num_images else f"{below} or {above}"
    raise ConfigError(
        f"trainer.micro_batches={wanted} does not divide the {num_images} images that each trainer "
        f"computes a step; set it to {mend}."
    )


def _check_limiter(config: Config, num_trainers: int) -> None:
    # Imported here: the stream package reads the configuration's types.
    from online_synclr.stream.errors import LimiterError
    from online_synclr.stream.limiter_settings import limiter_of

    try:
        limiter_of(config, local_batch=config.trainer.batch_groups // num_trainers)
    except LimiterError as error:
        raise ConfigError(str(error)) from None


def _check_labelled_folder(folder: str) -> None:
    if folder not in ("", BUNDLED_CHECK_SET) and not os.path.isdir(folder):
        raise ConfigError(
            f"monitor.knn_folder: there is no folder {folder}; give one with a folder of pictures "
            f"for each label, `{BUNDLED_CHECK_SET}`, or an empty name for none."
        )


def _check_run_folder(run_dir: Path) -> None:
    """The folder, or its nearest existing parent, must be a folder that can be written to."""
    existing = next(
        path
        for path in (run_dir.absolute(), *run_dir.absolute().parents)
        # Path.exists raises where a parent may not be entered or a name is too long.
        if os.path.exists(path)
    )
    if not existing.is_dir():
        raise ConfigError(f"run.dir={run_dir}: {existing} is a file; name another folder.")
    if not os.access(existing, os.W_OK | os.X_OK) or not _can_create(existing):
        raise ConfigError(
            f"run.dir={run_dir}: {existing} cannot be written to; name another folder."
        )


def _can_create(folder: Path) -> bool:
    """Access rights alone mislead: root may pass them on a read-only file system."""
    probe = folder / f".online-synclr-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
