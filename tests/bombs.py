"""Small files that ask for much: of memory, or of time."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import pyarrow as pa


def png(width: int, height: int, *, bits: int) -> bytes:
    """A black grayscale PNG."""
    row = bytes(1 + -(-width * bits // 8))
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def progressive_jpeg(size_px: int, *, num_scans: int) -> bytes:
    """A grey JPEG whose scans say, in a few bytes each, that there is nothing more to say."""
    num_blocks = (-(-size_px // 8)) ** 2
    frame = struct.pack(">BHHB", 8, size_px, size_px, 1) + b"\x01\x11\x00"
    one_code = bytes([1, *[0] * 15])
    segments = (
        (0xDB, b"\x00" + bytes([16] * 64)),
        (0xC2, frame),
        (0xC4, b"\x00" + one_code + b"\x00"),  # the difference of DC: none
        (0xC4, b"\x10" + one_code + b"\xe0"),  # the next 2^14 blocks and more: end here
    )
    out = b"\xff\xd8"
    for marker, content in segments:
        out += struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    out += b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + bytes(-(-num_blocks // 8))
    bits = "011111111111111" * -(-num_blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    blocks = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return out + (b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + blocks) * num_scans + b"\xff\xd9"


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def pickled_column(values: int, file: Path) -> pa.Array:
    """A column of the type that Ray Data unpickles where values become Python objects."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    stored = pa.array([pickle.dumps(Code(file))] * values, pa.large_binary())
    return ArrowPythonObjectType().wrap_array(stored)


def sparse_file(path: Path, size_bytes: int) -> Path:
    """A file that has a size and takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path
