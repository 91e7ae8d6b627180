"""What generators and trainers say to each other: typed, versioned, bounded.

    generator -> trainer   JOIN  HELLO  GROUP  IN_RING  STATUS  BYE  ERROR
    trainer -> generator   TICKET  WELCOME or REJECT  PROGRESS  CREDIT  END  BYE_ACK

JOIN asks for a place in the running attempt and TICKET gives it, to generators that torchrun has
not started; with it they greet as all do. HELLO opens a lease period and WELCOME names it; every
CREDIT, GROUP and IN_RING carries the period, so that groups sent under credits that were taken back
are recognised. PROGRESS tells generators what changes as the run goes on. Frames are packed in
`frames.py`.
"""

import math
from operator import attrgetter
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.group import Origin, Recipe

PROTOCOL_VERSION: Final = 5
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
MAX_RUN_ID: Final = 64
MAX_GENERATOR_ID: Final = 64
GENERATOR_ID: Final = rf"[A-Za-z0-9._-]{{1,{MAX_GENERATOR_ID}}}"
"""Regular expression of what a generator may be named."""

MAX_SIDE_PX: Final = 8192
MAX_IMAGES: Final = 1024
MAX_SLOT_BYTES: Final = 2**40
TOKEN_BYTES: Final = 16
MAX_IN_RING: Final = 64
MAX_SOURCES: Final = 256
MAX_SOURCE_NAME: Final = 128

Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Address = Annotated[str, Meta(min_length=1, max_length=256)]
GeneratorId = Annotated[str, Meta(pattern=rf"\A{GENERATOR_ID}\Z")]
RunId = Annotated[str, Meta(min_length=1, max_length=MAX_RUN_ID)]
CounterName = Annotated[str, Meta(min_length=1, max_length=MAX_COUNTER_NAME)]
Counters = Annotated[dict[CounterName, float], Meta(max_length=MAX_COUNTERS)]
SourceName = Annotated[str, Meta(min_length=1, max_length=MAX_SOURCE_NAME)]
Shares = Annotated[dict[SourceName, float], Meta(max_length=MAX_SOURCES)]
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

    `run_id`: of the run it belongs to; empty: whichever it finds. `image_shape`: as its settings
    have it; the side is the run's to say, which may change it (TICKET).
    """

    run_id: Annotated[str, Meta(max_length=MAX_RUN_ID)] = ""
    protocol: Natural = PROTOCOL_VERSION
    generator_id: GeneratorId
    image_shape: Shape


class Ticket(_Message, frozen=True, kw_only=True, tag="ticket"):
    """Its place: what HELLO must say. `number` is its own in this attempt, and nobody else's.

    `position` spreads generators over trainers (`stream.fan_out`). `image_shape` is what HELLO must
    say, and every group have.
    """

    run_id: RunId
    incarnation: Natural
    number: Annotated[int, Meta(ge=0, lt=MAX_GENERATORS)]
    position: Natural = 0
    addresses: Annotated[list[Address], Meta(max_length=MAX_TRAINERS)]
    image_shape: Shape


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """A generator introduces one connection of one of its incarnations.

    `role`: "engine" sends groups, "control" is the supervisor's and sends none. `image_shape` is
    (images, channels, height, width) of every group to come; a control connection repeats it.
    `connection` counts how often this end has connected: of two HELLOs the higher one is newer.
    `place`: where it runs (`whereabouts.py`); empty: it wants no shared memory.
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
    place: Annotated[str, Meta(max_length=128)] = ""


class RingOffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shared memory of the trainer's, for the groups of one lease period (`ring_memory.py`).

    It is file `file` of process `pid`, begins with `token`, and has `num_slots` slots.
    """

    pid: Annotated[int, Meta(ge=1, lt=2**31)]
    file: Annotated[int, Meta(ge=0, lt=2**31)]
    token: Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
    num_slots: Annotated[int, Meta(ge=1, le=MAX_CREDITS)]
    slot_bytes: Annotated[int, Meta(ge=1, le=MAX_SLOT_BYTES)]


class Progress(_Message, frozen=True, kw_only=True, tag="progress"):
    """How far the run is, said when something that depends on it changes.

    `step`: at least so many steps are done; of two messages the one with the higher step is newer.
    `shares`: what part of the captions each source of concepts has from now on, relative to each
    other; none: what the concept bank says.
    """

    step: Natural
    shares: Shares = {}


class Welcome(_Message, frozen=True, kw_only=True, tag="welcome"):
    """Accepted. `lease` numbers the lease period; credits of an earlier one are void.

    `ring`: where the period's groups may be put; none: they are sent. `progress`: none: it is not
    known yet and follows, as its own message; what is made before that may not fit.
    """

    trainer_index: Natural
    addresses: Annotated[list[Address], Meta(max_length=MAX_TRAINERS)]
    lease: Natural
    ring: RingOffer | None = None
    progress: Progress | None = None


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


class InRing(_Message, frozen=True, kw_only=True, tag="in_ring"):
    """Groups that lie in the ring, one after the other; no payload.

    The first has `position` there and `sequence` among this connection's groups, the next ones one
    more each. Small groups are told of together: each costs as much as a message otherwise.
    """

    recipes: Annotated[list[Recipe], Meta(min_length=1, max_length=MAX_IN_RING)]
    position: Natural
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


FromGenerator = Join | Hello | GroupHeader | InRing | Status | Bye | Error
FromTrainer = Ticket | Welcome | Reject | Progress | Credit | End | ByeAck
Message = FromGenerator | FromTrainer

# All fields of a kind at once: every group that arrives is checked.
_texts_of = attrgetter(
    *(field.name for field in msgspec.structs.fields(Recipe) if field.type is str)
)
_numbers_of = attrgetter(
    *(field.name for field in msgspec.structs.fields(Recipe) if field.type is int)
)
_origin_of = attrgetter(*Origin.__struct_fields__)

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
    elif isinstance(message, Progress):
        check_shares(message.shares)
    elif isinstance(message, Welcome):
        if message.progress is not None:
            check_shares(message.progress.shares)
    elif isinstance(message, InRing):
        for recipe in message.recipes:
            check_recipe(recipe)
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


def check_shares(shares: dict[str, float]) -> None:
    """Raise MalformedMessage unless one can draw by them: finite, none below 0, not all 0."""
    values = shares.values()
    if not all(0 <= value <= MAX_COUNTER for value in values) or (shares and not any(values)):
        raise MalformedMessage("shares")


def check_recipe(recipe: Recipe) -> None:
    """Raise MalformedMessage unless every text and number of the recipe is within bounds."""
    if max(map(len, _texts_of(recipe))) > MAX_TEXT:
        raise MalformedMessage("recipe_text")
    numbers = _numbers_of(recipe)
    if recipe.origin is not None:
        numbers += _origin_of(recipe.origin)
    if min(numbers) < 0 or max(numbers) >= 2**63:
        raise MalformedMessage("recipe_number")


def _check_group(header: GroupHeader) -> None:
    check_recipe(header.recipe)
    if header.recipe.num_images != header.shape[0]:
        raise MalformedMessage("image_count", f"{header.recipe.num_images} != {header.shape[0]}")
