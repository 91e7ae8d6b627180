"""The wire format: what is packed comes back, and nothing else is ever believed."""

import io
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from online_synclr.seeds import noise_seed
from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.frames import PREFIX_BYTES, Buffer, pack, unpack
from online_synclr.stream.messages import (
    MAX_HEADER_BYTES,
    MAX_TEXT,
    Bye,
    ByeAck,
    Credit,
    End,
    Error,
    GroupHeader,
    InRing,
    Message,
    Progress,
    Reject,
    RingOffer,
    Status,
    Welcome,
    clip_text,
    decode_body,
)
from online_synclr.stream.payload import JpegCodec, PayloadCodec, RawCodec, make_codec
from tests.stream_helpers import SHAPE, images_of, make_hello, make_recipe, with_origin

OFFER = RingOffer(pid=7, file=9, token=bytes(range(16)), num_slots=4, slot_bytes=384)

MESSAGES: list[Message] = [
    make_hello(),
    make_hello(role="control"),
    Welcome(trainer_index=1, addresses=["tcp://127.0.0.1:1", "ipc:///tmp/x"], lease=3),
    Welcome(trainer_index=1, addresses=[], lease=3, ring=OFFER),
    Welcome(trainer_index=0, addresses=[], lease=3, progress=Progress(step=4, shares={"a": 0.5})),
    Progress(step=7, shares={"pets": 0.25, "cars": 0.0}),
    Progress(step=0),
    InRing(recipes=[make_recipe(4), with_origin()], position=9, sequence=12, lease=3),
    Reject(reason="wrong run"),
    Credit(num_groups=4, lease=3),
    Status(state="loading", counters={"wait_s/credits": 1.5, "groups_sent": 3.0}, sent=3),
    Bye(counters={}, sent=9),
    ByeAck(),
    End(reason="done"),
    Error(message="out of memory", stream=4),
    Error(message="budget spent"),
]


def make_header(**changes: object) -> GroupHeader:
    header = GroupHeader(
        recipe=make_recipe(5),
        shape=SHAPE,
        encoding="raw",
        payload_bytes=int(np.prod(SHAPE)),
        sequence=12,
        lease=1,
    )
    return msgspec.structs.replace(header, **changes)


def packed_group() -> list[bytes]:
    return [bytes(frame) for frame in pack(make_header(), images_of(5).tobytes())]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back(message: Message) -> None:
    assert unpack(pack(message)) == (message, b"")


def decoded(codec: PayloadCodec, payload: Buffer, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    images_mchw = np.full(shape, 7, np.uint8)
    codec.decode(payload, images_mchw)
    return images_mchw


def test_a_group_comes_back() -> None:
    header, payload = unpack(packed_group())
    assert header == make_header()
    assert np.array_equal(decoded(RawCodec(), payload), images_of(5))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_frames_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(MalformedMessage):
        unpack(frames)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bodies_are_refused_or_typed(body: bytes) -> None:
    try:
        message = decode_body(body)
    except MalformedMessage:
        return
    assert isinstance(message, msgspec.Struct)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    frames = packed_group()
    which = data.draw(st.integers(0, 1))
    position = data.draw(st.integers(0, 8 * len(frames[which]) - 1))
    broken = bytearray(frames[which])
    broken[position // 8] ^= 1 << (position % 8)
    frames[which] = bytes(broken)
    with pytest.raises(MalformedMessage):
        unpack(frames)


@settings(deadline=None)
@given(st.integers(0, 400))
def test_no_truncated_header_passes(length: int) -> None:
    header, payload = packed_group()
    if length < len(header):
        with pytest.raises(MalformedMessage):
            unpack([header[:length], payload])


def test_a_group_rendered_again_carries_the_first_renderings_seeds() -> None:
    plain, again = make_recipe(5), with_origin(make_recipe(9), counter=5)
    message, _ = unpack(pack(make_header(recipe=again), images_of(5).tobytes()))
    assert isinstance(message, GroupHeader)
    assert message.recipe == again
    assert again.own_key == make_recipe(9).own_key
    assert again.noise_seeds() == [noise_seed(3, 2, 1, 5, image) for image in range(SHAPE[0])]
    assert plain.noise_key == plain.own_key


def test_payload_and_header_cannot_be_exchanged() -> None:
    first = packed_group()
    second = [bytes(f) for f in pack(make_header(sequence=13), images_of(6).tobytes())]
    with pytest.raises(MalformedMessage, match="checksum"):
        unpack([first[0], second[1]])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (make_header(payload_bytes=1), "payload_size"),
        (make_header(recipe=make_recipe(images=3)), "image_count"),
        (make_header(recipe=make_recipe(-1)), "recipe_number"),
        (make_header(recipe=with_origin(counter=-1)), "recipe_number"),
        (make_header(recipe=with_origin(run_seed=2**63)), "recipe_number"),
        (make_header(shape=(2, 3, 0, 8)), "header"),
        (make_header(shape=(2, 3, 8, 10**6)), "header"),
        (make_header(dtype="float32"), "header"),
        (make_header(encoding="pickle"), "header"),
        (make_header(sequence=-1), "header"),
        (
            make_header(recipe=msgspec.structs.replace(make_recipe(), caption="x" * 5000)),
            "recipe_text",
        ),
        (Status(state="running", counters={"x": float("nan")}, sent=0), "counter_not_finite"),
        (Status(state="running", counters={"x" * 65: 0.0}, sent=0), "header"),
        (Status(state="running", counters={str(i): 0.0 for i in range(257)}, sent=0), "header"),
        (Status(state="dancing", counters={}, sent=0), "header"),  # type: ignore[arg-type]
        (Credit(num_groups=0, lease=0), "header"),
        (Progress(step=-1), "header"),
        (Progress(step=1, shares={"": 1.0}), "header"),
        (Progress(step=1, shares={str(i): 1.0 for i in range(257)}), "header"),
        (Progress(step=1, shares={"a": -0.1, "b": 1.0}), "shares"),
        (Progress(step=1, shares={"a": float("nan"), "b": 1.0}), "shares"),
        (Progress(step=1, shares={"a": float("inf")}), "shares"),
        (Progress(step=1, shares={"a": 0.0}), "shares"),
        (
            Welcome(
                trainer_index=0, addresses=[], lease=1, progress=Progress(step=1, shares={"a": -1})
            ),
            "shares",
        ),
        (make_hello("../etc"), "header"),
        (make_hello("x" * 65), "header"),
        (make_hello(run_id=""), "header"),
        (make_hello(role="root"), "header"),
        (End(reason="x" * (MAX_TEXT + 1)), "header"),
    ],
)
def test_out_of_bounds_is_refused(message: Message, reason: str) -> None:
    payload = bytes(np.prod(SHAPE)) if isinstance(message, GroupHeader) else b""
    with pytest.raises(MalformedMessage) as refused:
        unpack(pack(message, payload))
    assert refused.value.reason == reason


def test_unknown_fields_and_other_bodies_are_refused() -> None:
    body = msgspec.msgpack.encode({"type": "credit", "num_groups": 1, "lease": 1, "x": 1})
    for bad in (body, msgspec.msgpack.encode([1, 2]), b"", body[:-1], b"\x91" * 5000):
        with pytest.raises(MalformedMessage, match="header"):
            decode_body(bad)


def test_another_protocol_version_is_named() -> None:
    (frame,) = pack(ByeAck())
    other = bytes(frame[:4]) + struct.pack("<H", 9) + bytes(frame[6:])
    with pytest.raises(MalformedMessage) as refused:
        unpack([other])
    assert (refused.value.reason, refused.value.detail) == ("protocol_version", "9")


def test_sizes_and_frame_counts() -> None:
    header, payload = packed_group()
    cases = {
        "frame_count": [[], [header], [header, payload, b""], [bytes(pack(ByeAck())[0]), b""]],
        "header_size": [[b""], [b"OSYN"], [bytes(PREFIX_BYTES + MAX_HEADER_BYTES + 1)]],
        "magic": [[b"HTTP" + header[4:], payload]],
    }
    for reason, wrong in cases.items():
        for frames in wrong:
            with pytest.raises(MalformedMessage) as refused:
                unpack(frames)
            assert refused.value.reason in (reason, "checksum")


def test_text_that_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        pack(End(reason="\ud800"))
    assert unpack(pack(End(reason=clip_text("\ud800" + "x" * 9000))))[0]
    with pytest.raises(ValueError, match="exceeds"):
        pack(End(reason="x" * (MAX_HEADER_BYTES + 1)))


def test_raw_payload_is_the_images_own_memory() -> None:
    images = images_of(1)
    payload = RawCodec().encode(images)
    assert np.shares_memory(np.frombuffer(payload, np.uint8), images)
    assert np.array_equal(decoded(RawCodec(), payload), images)


def test_raw_payload_of_another_size_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="payload_size"):
        decoded(RawCodec(), bytes(5))


def test_jpeg_keeps_order_and_colours() -> None:
    shape = (3, 3, 32, 48)
    images = np.zeros(shape, np.uint8)
    for index in range(3):
        images[index, index] = 200
    back = decoded(make_codec("jpeg"), make_codec("jpeg").encode(images), shape)
    assert np.abs(back.astype(int) - images).max() <= 3


def jpeg(size: tuple[int, int], mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (jpeg((4096, 4096)), "jpeg_shape"),
        (jpeg((8, 8), "L"), "jpeg_shape"),
        (jpeg((8, 8))[:-100], "jpeg"),
        (b"GIF89a", "jpeg"),
        (b"", "jpeg"),
    ],
)
def test_broken_jpegs_are_refused(blob: bytes, reason: str) -> None:
    payload = struct.pack("<I", len(blob)) + blob
    with pytest.raises(MalformedMessage) as refused:
        decoded(JpegCodec(), payload, (1, 3, 8, 8))
    assert refused.value.reason == reason


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_random_jpeg_payloads_never_crash(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decoded(JpegCodec(), payload)
