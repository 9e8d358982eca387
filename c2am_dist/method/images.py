"""Image files to pixels, and maps to PNG and back: without torch, which tasks would load in vain.

Everything here is upright: sizes, pixels and hence boxes are those of the image after its
EXIF orientation has been applied.
"""

import hashlib
import io
import struct
import warnings

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, Real, UInt8
from PIL import BmpImagePlugin, GifImagePlugin, ImageFile, PngImagePlugin, TiffImagePlugin
from PIL import Image as PilImage
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from c2am_dist.method.label_maps import ids_of_colours
from c2am_dist.method.views import View, draw_view

# Chosen by content, never by file name. The plugins are named one by one because
# PIL.Image.open would try dozens of formats, some of which run programs (EPS), and warns
# about large images by a global limit; ours is `max_pixels`.
_FORMATS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
)
_ORIENTATION_TAG = 0x0112
_PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_BIT_DEPTH = 24  # where a PNG says it
MAX_PIXELS = 100e6
"""Most pixels to decode where nothing else is said: what bounds memory."""
# A scan of a progressive JPEG may be a hundred bytes and takes as long as any other. Real files
# have about ten; libjpeg-turbo's own fuzzers stop at 500.
_MAX_SCANS = 500
_JPEG_FACTORS = (8, 4, 2, 1)  # the powers of two, for which libjpeg-turbo has SIMD code


class ImageError(ValueError):
    """The bytes are not an image that can be read; the message says why in a few words."""


def header(data: bytes) -> tuple[int, int]:
    """The size (height, width) of an image, upright, read from the file's header alone.

    Raises:
        ImageError: the bytes do not begin like an image, or hold no pixels.
    """
    image = _open(data)
    width, height = image.size
    return (width, height) if _orientation(image) >= 5 else (height, width)


def is_turned(data: bytes) -> bool:
    """Whether EXIF says that the image is to be turned or mirrored when shown (TIFF aside).

    Raises:
        ImageError: as `header`.
    """
    return _orientation(_open(data)) != 1


def decode(
    data: bytes, *, min_side_px: int | None = None, max_pixels: float = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an encoded image: RGB, upright.

    JPEG (any colour space), PNG, GIF and WebP (first frame), BMP and TIFF are read, whatever
    the file is called. Grayscale and palettes become RGB; 16-bit samples are scaled to 8 bits;
    transparent pixels lie on white, as a browser shows them.

    Args:
        data: The file's bytes.
        min_side_px: Shorter side that the caller is going to shrink the image to. A large
            JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, but so that the shorter side
            keeps twice this: the shrunk image then differs from that of a full decode by
            42 to 52 dB (33 to 37 dB without that reserve, which is only given up to get
            below ``max_pixels``). The result's size is `header`'s only where this is None.
        max_pixels: Most pixels to decode: what bounds memory.

    Raises:
        ImageError: unreadable, truncated, larger than ``max_pixels``, or a JPEG that would be
            decoded without end.
    """
    image = _open(data)
    is_jpeg = isinstance(image, JpegImageFile)
    factor = _reduction(image, data, min_side_px, max_pixels) if is_jpeg else 1
    _refuse_large(image.width, image.height, max_pixels, factor)
    orientation = _orientation(image)  # before loading, which rotates TIFF
    pixels = _decode_jpeg(image, data, factor) if is_jpeg else _load(image)
    return _turn_upright(pixels, orientation)


def resize(
    image: Real[np.ndarray, "h w *c"], size: tuple[int, int]
) -> Real[np.ndarray, "height width *c"]:
    """The image, or a map of one channel, at another size (height, width).

    Each axis is averaged over the pixel's area when it shrinks, which is free of aliasing
    (plain linear sampling of a large photo is 29 dB off), and linear when it grows.
    """
    height, width = image.shape[:2]
    smaller = (min(height, size[0]), min(width, size[1]))
    if smaller != (height, width):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)  # type: ignore
    if smaller != size:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore
    return image


def resize_square(
    image: Real[np.ndarray, "h w *c"], size_px: int
) -> Real[np.ndarray, "size_px size_px *c"]:
    """The image squeezed into a square, as every network here sees it."""
    return resize(image, (size_px, size_px))


def resize_middle(
    image: UInt8[np.ndarray, "h w 3"], size_px: int
) -> UInt8[np.ndarray, "size_px size_px 3"]:
    """The square in the middle of the image, its side the image's shorter one, at another size.

    What torchvision's classifiers are evaluated on, before they crop: nothing is squeezed.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    large = resize(image, (height * size_px // short, width * size_px // short))
    top, left = (round((side - size_px) / 2) for side in large.shape[:2])
    return np.ascontiguousarray(large[top : top + size_px, left : left + size_px])


def augmentation_rng(seed: int, epoch: int, image_id: str) -> np.random.Generator:
    """The random numbers of one image in one epoch, the same wherever it is decoded."""
    key = hashlib.blake2b(f"{seed}/{epoch}/{image_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))


def augment(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    resize_px: int,
    crop_px: int,
    flip: bool,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "crop_px crop_px 3"]:
    """A training sample: squeezed into a square, randomly cropped, mirrored half the time.

    Raises:
        ValueError: the crop is larger than the square.
    """
    view = draw_view(rng, resize_px=resize_px, crop_px=crop_px, flip=flip)
    return cut_view(image, view)


def cut_view(
    image: Real[np.ndarray, "h w *c"], view: View
) -> Real[np.ndarray, "crop_px crop_px *c"]:
    """The pixels of a view of an image or of its map; boxes go there by `views.relative_boxes`."""
    square = resize_square(image, view.resize_px)
    crop = square[view.y0 : view.y0 + view.crop_px, view.x0 : view.x0 + view.crop_px]
    # Not crop[:, ::-1], which numpy takes 40 times longer to copy.
    return cv2.flip(crop, 1) if view.is_mirrored else np.ascontiguousarray(crop)  # type: ignore


def encode_png16(values: Float[np.ndarray, "h w"]) -> bytes:
    """A map in [0, 1] as 16-bit grayscale PNG, exact to 1/131070.

    Raises:
        ValueError: a value is NaN or outside [0, 1].
    """
    return _encode_png(values, np.uint16)


def encode_png8(values: Float[np.ndarray, "h w"]) -> bytes:
    """A map in [0, 1] as 8-bit grayscale PNG, exact to 1/510; raises as `encode_png16`."""
    return _encode_png(values, np.uint8)


def decode_png16(data: bytes) -> Float[np.ndarray, "h w"]:
    """The map of a 16-bit grayscale PNG: float32 in [0, 1].

    Raises:
        ImageError: anything but a 16-bit grayscale PNG of at most `MAX_PIXELS`.
    """
    return _decode_png(data, np.uint16)


def decode_png8(data: bytes) -> Float[np.ndarray, "h w"]:
    """The map of an 8-bit grayscale PNG: float32 in [0, 1]; raises as `decode_png16`."""
    return _decode_png(data, np.uint8)


def decode_mask(data: bytes, *, keeps_levels: bool = False) -> UInt8[np.ndarray, "h w"]:
    """The class ids of a mask file: the samples of a grayscale, the indices of a palette PNG.

    A PNG in colour (RGB) is read where all its colours are those that VOC's masks show ids 0 to
    20 and 255 in.

    Args:
        data: the file.
        keeps_levels: a grayscale of 2 or 4 bits is spread over 0 to 255, as it is shown: its
            samples are grey levels and no ids.

    Raises:
        ImageError: unreadable, larger than `MAX_PIXELS`, or another picture in colour.
    """
    image = _open(data)
    _refuse_large(image.width, image.height, MAX_PIXELS)
    is_colour = image.format == "PNG" and image.mode == "RGB"
    if image.mode not in ("1", "L", "P") and not is_colour:
        raise ImageError(f"a mask has one 8-bit channel, this is {image.format} {image.mode}")
    try:
        pixels = np.asarray(image, dtype=np.uint8)
    except Exception as error:
        raise ImageError(f"unreadable {image.format}: {error}") from error
    if not is_colour:
        depth = data[_BIT_DEPTH] if image.format == "PNG" and image.mode == "L" else 8
        # PIL spreads fewer bits over 0 to 255.
        return pixels if depth == 8 or keeps_levels else pixels // (255 // (2**depth - 1))
    try:
        return ids_of_colours(pixels)
    except ValueError as error:
        raise ImageError(f"a mask has one 8-bit channel, this is PNG RGB: {error}") from error


def is_png_of_ids(data: bytes) -> bool:
    """Whether a mask that `decode_mask` reads is a PNG whose samples are the ids themselves."""
    image = _open(data)
    return image.format == "PNG" and image.mode != "RGB"


def _open(data: bytes) -> ImageFile.ImageFile:
    """The image with its header read and its pixels not."""
    if not data:
        raise ImageError("empty file (0 bytes)")
    plugin = next((plugin for magic, plugin in _FORMATS if data.startswith(magic)), None)
    if plugin is None:
        raise ImageError(f"not an image of a known format: begins with {data[:8]!r}")
    try:
        with warnings.catch_warnings():  # PIL warns about odd metadata, which nobody needs
            warnings.simplefilter("ignore")
            image = plugin(io.BytesIO(data))
    except Exception as error:  # PIL's plugins raise whatever their parser stumbles over
        raise ImageError(f"unreadable {plugin.format} header: {error}") from error
    if image.width < 1 or image.height < 1:
        raise ImageError(f"no pixels: {image.width}x{image.height}")
    return image


def _refuse_large(width: int, height: int, max_pixels: float, factor: int = 1) -> None:
    if width * height > max_pixels * factor**2:
        raise ImageError(
            f"{width}x{height} is {width * height / 1e6:.0f} megapixels, more than the limit of "
            f"{max_pixels / 1e6:g}"
        )


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation still to be applied, 1 to 8; 1 is upright."""
    exif = image.info.get("exif")
    if exif is None or isinstance(image, TiffImagePlugin.TiffImageFile):  # PIL turns TIFF
        return 1
    tiff = bytes(exif).removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_tags,) = struct.unpack_from(f"{order}H", tiff, start)
        for index in range(num_tags):
            entry = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * index)
            if entry[0] == _ORIENTATION_TAG:
                return entry[3] if 1 <= entry[3] <= 8 else 1
    except struct.error:  # cut-off metadata; the pixels may well be fine
        pass
    return 1


def _turn_upright(
    pixels: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "height width 3"]:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _reduction(
    image: JpegImageFile, data: bytes, min_side_px: int | None, max_pixels: float
) -> int:
    """How many times smaller to decode a JPEG: 1, 2, 4 or 8."""
    num_pixels, side_px = image.width * image.height, min(image.size)
    if num_pixels > max_pixels and _keeps_coefficients(image, data):
        return 1  # and so is refused: decoding it small would need as much memory
    if min_side_px is None:
        return 1
    factor = next((f for f in _JPEG_FACTORS if side_px >= 2 * min_side_px * f), 1)
    while num_pixels / factor**2 > max_pixels and factor < 8:
        if side_px < min_side_px * factor * 2:
            break
        factor *= 2
    return factor


def _keeps_coefficients(image: JpegImageFile, data: bytes) -> bool:
    """Whether a decoder must hold all of a JPEG's coefficients, at any scale.

    So it is for progressive files and those with one scan for each colour.
    """
    scan = data.rfind(b"\xff\xda", 0, image.fp.tell())  # type: ignore
    return bool(image.info.get("progressive")) or data[scan + 4] < image.layers


def _decode_jpeg(image: JpegImageFile, data: bytes, factor: int) -> UInt8[np.ndarray, "h w 3"]:
    height, width = -(-image.height // factor), -(-image.width // factor)
    if image.info.get("progressive") and data.count(b"\xff\xda") > _MAX_SCANS:
        raise ImageError(f"JPEG with more than {_MAX_SCANS} scans")
    if image.layers != 4:  # PIL knows how Adobe stores CMYK and what it looks like
        try:
            return simplejpeg.decode_jpeg(
                data, min_height=height, min_width=width, min_factor=factor, strict=True
            )
        except ValueError as error:
            if "subsampling" not in str(error):  # it reads only the usual ones; PIL reads all
                raise ImageError(f"unreadable JPEG: {error}") from error
    image.draft(None, (width, height))
    return _load(image)


def _load(image: ImageFile.ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # as in _open
        raise ImageError(f"unreadable {image.format}: {error}") from error
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint32)
        image = PilImage.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8))  # type: ignore
    if image.mode in ("I", "F"):
        raise ImageError(f"{image.format} with 32-bit samples, whose range is unknown")
    if image.has_transparency_data:
        white = PilImage.new("RGBA", image.size, "white")
        return np.array(PilImage.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.array(image.convert("RGB"))


def _encode_png(values: Float[np.ndarray, "h w"], dtype: type[np.unsignedinteger]) -> bytes:
    if not (values.min() >= 0 and values.max() <= 1):  # so worded, NaN fails too
        raise ValueError(f"values must be in [0, 1], got {values.min()} to {values.max()}")
    samples = np.rint(values * np.iinfo(dtype).max).astype(dtype)
    return cv2.imencode(".png", samples)[1].tobytes()


def _decode_png(data: bytes, dtype: type[np.unsignedinteger]) -> Float[np.ndarray, "h w"]:
    bits = np.iinfo(dtype).bits
    if not data.startswith(_PNG_HEADER) or data[24:26] != bytes((bits, 0)):
        raise ImageError(f"not a {bits}-bit grayscale PNG: begins with {data[:8]!r}")
    _refuse_large(*struct.unpack_from(">II", data, len(_PNG_HEADER)), MAX_PIXELS)
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ImageError(f"unreadable {bits}-bit grayscale PNG")
    return samples.astype(np.float32) / np.iinfo(dtype).max
