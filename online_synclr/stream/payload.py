"""A group's images as bytes on the wire, and back into the memory that the trainer has for them.

One codec an encoding, all behind `PayloadCodec`. Groups that lie in shared memory have no payload:
`rings.py` reads them.
"""

import io
import struct
from typing import Protocol

import numpy as np

from online_synclr.stream.errors import MalformedMessage
from online_synclr.stream.frames import Buffer
from online_synclr.stream.messages import Encoding


class PayloadCodec(Protocol):
    """Images <-> payload frame. Images are uint8, (images, channels, height, width)."""

    encoding: Encoding

    def encode(self, images_mchw: np.ndarray) -> Buffer:
        """Bytes to send; may be a view of the images, which must not change afterwards."""
        ...

    def decode(self, payload: Buffer, out_mchw: np.ndarray) -> None:
        """Write the images to `out_mchw`, contiguous.

        Raises:
            MalformedMessage: the payload is not images of that shape; `out_mchw` has then any
                content.
        """
        ...


class RawCodec:
    """The pixels as they are; the sender's own memory is sent, without a copy."""

    encoding: Encoding = "raw"

    def encode(self, images_mchw: np.ndarray) -> Buffer:
        """The images' own memory."""
        return np.ascontiguousarray(images_mchw).data.cast("B")

    def decode(self, payload: Buffer, out_mchw: np.ndarray) -> None:
        """One copy."""
        if len(payload) != out_mchw.nbytes:
            raise MalformedMessage("payload_size", f"{len(payload)} bytes for {out_mchw.shape}")
        np.copyto(out_mchw.reshape(-1), np.frombuffer(payload, dtype=np.uint8))


class JpegCodec:
    """One JPEG an image, behind a table of their lengths (uint32, little endian).

    Lossy: what is trained on is the decoded picture. `quality` is 50 to 100.
    """

    encoding: Encoding = "jpeg"

    def __init__(self, quality: int = 95) -> None:
        self._quality = quality

    def encode(self, images_mchw: np.ndarray) -> Buffer:
        """The table of lengths and one JPEG an image."""
        blobs = [self._encode_one(image) for image in images_mchw.transpose(0, 2, 3, 1)]
        table = struct.pack(f"<{len(blobs)}I", *(len(blob) for blob in blobs))
        return table + b"".join(blobs)

    def decode(self, payload: Buffer, out_mchw: np.ndarray) -> None:
        """Each picture's size is checked before its pixels are decoded."""
        num_images, channels, height, width = out_mchw.shape
        if channels != 3:
            raise MalformedMessage("jpeg_channels", str(channels))
        for image_chw, blob in zip(out_mchw, _split_blobs(payload, num_images), strict=True):
            image_chw[:] = _decode_jpeg(blob, height, width).transpose(2, 0, 1)

    def _encode_one(self, image_hwc: np.ndarray) -> bytes:
        from PIL import Image

        out = io.BytesIO()
        picture = Image.fromarray(np.ascontiguousarray(image_hwc))
        picture.save(out, "JPEG", quality=self._quality, subsampling=0)
        return out.getvalue()


def make_codec(encoding: Encoding, jpeg_quality: int = 95) -> PayloadCodec:
    """The codec of one encoding."""
    return RawCodec() if encoding == "raw" else JpegCodec(jpeg_quality)


def _split_blobs(payload: Buffer, num_images: int) -> list[memoryview]:
    table_bytes = 4 * num_images
    if len(payload) < table_bytes:
        raise MalformedMessage("jpeg_table")
    lengths = struct.unpack_from(f"<{num_images}I", payload)
    if table_bytes + sum(lengths) != len(payload):
        raise MalformedMessage("jpeg_table")
    view, offset, blobs = memoryview(payload), table_bytes, []
    for length in lengths:
        blobs.append(view[offset : offset + length])
        offset += length
    return blobs


def _decode_jpeg(blob: memoryview, height: int, width: int) -> np.ndarray:
    # Opening reads the header only: size and mode are compared before a pixel is decoded, which is
    # a tighter bound than Pillow's own MAX_IMAGE_PIXELS (left in force).
    from PIL import Image

    try:
        with Image.open(io.BytesIO(blob), formats=("JPEG",)) as picture:
            if picture.size != (width, height) or picture.mode != "RGB":
                raise MalformedMessage("jpeg_shape", f"{picture.size} {picture.mode}")
            return np.asarray(picture)
    except MalformedMessage:
        raise
    except Exception as error:  # Pillow raises many types on broken data
        raise MalformedMessage("jpeg", str(error)[:200]) from error
