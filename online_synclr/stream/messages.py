"""What generators and trainers say to each other: typed, versioned, bounded.

    generator -> trainer   JOIN  HELLO  GROUP  STATUS  BYE  ERROR
    trainer -> generator   TICKET  WELCOME or REJECT  CREDIT  END  BYE_ACK

JOIN asks for a place in the running attempt and TICKET gives it, to generators that torchrun has
not started; with it they greet as all do. HELLO opens a lease period and WELCOME names it; every
CREDIT and GROUP carries the period, so that groups sent under credits that were taken back are
recognised. Frames are packed in `frames.py`.
"""

import math
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.group import Origin, Recipe

PROTOCOL_VERSION: Final = 3
MAX_HEADER_BYTES: Final = 256 * 2**10
MAX_TEXT: Final = 4096
MAX_COUNTERS: Final = 256
MAX_COUNTER_NAME: Final = 64
MAX_TRAINERS: Final = 512
MAX_GENERATORS: Final = 2**31
"""Numbers of one attempt's generators, those that have left included; streams are built on it."""

MAX_COUNTER: Final = 2.0**53
"""Above it a counter would no longer count: what sums them up stays far from any overflow."""

MAX_CREDITS: Final = 2**20
MAX_SIDE_PX: Final = 8192
MAX_IMAGES: Final = 1024

Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Address = Annotated[str, Meta(min_length=1, max_length=256)]
GeneratorId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
RunId = Annotated[str, Meta(min_length=1, max_length=64)]
CounterName = Annotated[str, Meta(min_length=1, max_length=MAX_COUNTER_NAME)]
Counters = Annotated[dict[CounterName, float], Meta(max_length=MAX_COUNTERS)]
Images = Annotated[int, Meta(ge=1, le=MAX_IMAGES)]
Channels = Annotated[int, Meta(ge=1, le=4)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
Shape = tuple[Images, Channels, Side, Side]
Role = Literal["engine", "control"]
Encoding = Literal["raw", "jpeg"]
PeerState = Literal["loading", "running", "draining", "idle", "failed"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all messages: fields by name, unknown ones refused."""


class Join(_Message, frozen=True, kw_only=True, tag="join"):
    """A generator that torchrun has not started asks for a place in the running attempt.

    `run_id`: of the run it belongs to; empty: whichever it finds.
    """

    run_id: Annotated[str, Meta(max_length=64)] = ""
    protocol: Natural = PROTOCOL_VERSION
    generator_id: GeneratorId
    image_shape: Shape


class Ticket(_Message, frozen=True, kw_only=True, tag="ticket"):
    """Its place: what HELLO must say. `number` is its own in this attempt, and nobody else's.

    `position` spreads generators over trainers (`stream.fan_out`).
    """

    run_id: RunId
    incarnation: Natural
    number: Annotated[int, Meta(ge=0, lt=MAX_GENERATORS)]
    position: Natural = 0
    addresses: Annotated[list[Address], Meta(max_length=MAX_TRAINERS)]


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """A generator introduces one connection of one of its incarnations.

    `role`: "engine" sends groups, "control" is the supervisor's and sends none. `image_shape` is
    (images, channels, height, width) of every group to come; a control connection repeats it.
    `connection` counts how often this end has connected: of two HELLOs the higher one is newer.
    """

    run_id: RunId
    protocol: Natural = PROTOCOL_VERSION
    generator_id: GeneratorId
    role: Role
    incarnation: Natural
    stream: Natural
    image_shape: Shape
    connection: Natural = 0
    fingerprint: Text = ""


class Welcome(_Message, frozen=True, kw_only=True, tag="welcome"):
    """Accepted. `lease` numbers the lease period; credits of an earlier one are void."""

    trainer_index: Natural
    addresses: Annotated[list[Address], Meta(max_length=MAX_TRAINERS)]
    lease: Natural


class Reject(_Message, frozen=True, kw_only=True, tag="reject"):
    """Refused, with a reason a person can act on.

    `rejoin`: nothing is wrong but the attempt, which is over; JOIN gives a place in this one.
    """

    reason: Text
    rejoin: bool = False


class Credit(_Message, frozen=True, kw_only=True, tag="credit"):
    """Permission for `num_groups` more groups, within lease period `lease`."""

    num_groups: Annotated[int, Meta(ge=1, le=MAX_CREDITS)]
    lease: Natural


class GroupHeader(_Message, frozen=True, kw_only=True, tag="group"):
    """Header of one group; the payload is the second frame.

    `sequence` counts this connection's groups to this trainer from 0, over all lease periods.
    """

    recipe: Recipe
    shape: Shape
    dtype: Literal["uint8"] = "uint8"
    encoding: Encoding
    payload_bytes: Natural
    sequence: Natural
    lease: Natural


class Status(_Message, frozen=True, kw_only=True, tag="status"):
    """Heartbeat: cumulative counters and state; `sent` is the groups sent to this trainer."""

    state: PeerState
    counters: Counters
    sent: Natural


class Bye(_Message, frozen=True, kw_only=True, tag="bye"):
    """A clean end. Nothing follows; `sent` is the groups sent to this trainer, all of them."""

    counters: Counters
    sent: Natural


class ByeAck(_Message, frozen=True, kw_only=True, tag="bye_ack"):
    """Everything before the BYE has been read: the generator may close its socket."""


class End(_Message, frozen=True, kw_only=True, tag="end"):
    """This attempt is over: send nothing more, say BYE.

    `final`: so is the run; else it may be started again, and generators may join it then.
    """

    reason: Text
    final: bool = True


class Error(_Message, frozen=True, kw_only=True, tag="error"):
    """Something failed for good. From an engine: itself. From a control connection: the engine
    with that `stream`, or, when none is named, the generator as a whole."""

    message: Text
    stream: Natural | None = None


FromGenerator = Join | Hello | GroupHeader | Status | Bye | Error
FromTrainer = Ticket | Welcome | Reject | Credit | End | ByeAck
Message = FromGenerator | FromTrainer

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_body(message: Message) -> bytes:
    """Msgpack bytes of a message.

    Raises:
        ValueError: text that is not valid Unicode, or more than MAX_HEADER_BYTES.
    """
    try:
        body = _encoder.encode(message)
    except (msgspec.MsgspecError, OverflowError, UnicodeError) as error:
        raise ValueError(f"message cannot be encoded: {error}") from error
    if len(body) > MAX_HEADER_BYTES:
        raise ValueError(f"message of {len(body)} bytes exceeds {MAX_HEADER_BYTES}")
    return body


def decode_body(body: bytes | memoryview) -> Message:
    """The message in `body`.

    Raises:
        MalformedMessage: anything that is not exactly one message within all bounds.
    """
    if len(body) > MAX_HEADER_BYTES:
        raise MalformedMessage("header_size", f"{len(body)} bytes")
    try:
        message = _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage("header", str(error)[:200]) from error
    if isinstance(message, Status | Bye):
        check_counters(message.counters)
    elif isinstance(message, GroupHeader):
        _check_group(message)
    return message


def engine_start(stream: int) -> int:
    """How many starts of the same generator's engine came before that of a stream's number."""
    return stream // MAX_GENERATORS


def peer_identity(hello: Hello) -> bytes:
    """A connection's name: one for each role of each start of each engine."""
    parts = (hello.generator_id, hello.role, str(hello.incarnation), str(hello.stream))
    return "/".join(parts).encode()


def clip_text(text: str) -> str:
    """`text` cut to what a message may carry, with unencodable characters replaced."""
    return text.encode("utf-8", "replace").decode()[:MAX_TEXT]


def check_counters(counters: dict[str, float]) -> None:
    """Raise MalformedMessage unless the counters can be sent: names, number, finite values."""
    if len(counters) > MAX_COUNTERS:
        raise MalformedMessage("counter_number", str(len(counters)))
    for name, value in counters.items():
        if not 0 < len(name) <= MAX_COUNTER_NAME:
            raise MalformedMessage("counter_name", name[:200])
        if not math.isfinite(value):
            raise MalformedMessage("counter_not_finite", name)
        if not 0 <= value <= MAX_COUNTER:
            raise MalformedMessage("counter_range", name)


def check_recipe(recipe: Recipe) -> None:
    """Raise MalformedMessage unless every text and number of the recipe is within bounds."""
    parts: list[Recipe | Origin] = [recipe]
    if recipe.origin is not None:
        parts.append(recipe.origin)
    for part in parts:
        for name in part.__struct_fields__:
            value = getattr(part, name)
            if isinstance(value, str) and len(value) > MAX_TEXT:
                raise MalformedMessage("recipe_text", name)
            if isinstance(value, int) and not 0 <= value < 2**63:
                raise MalformedMessage("recipe_number", name)


def _check_group(header: GroupHeader) -> None:
    check_recipe(header.recipe)
    if header.recipe.num_images != header.shape[0]:
        raise MalformedMessage("image_count", f"{header.recipe.num_images} != {header.shape[0]}")
