import io
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from c2am_dist.method import images
from c2am_dist.method.images import ImageError


def photo(height: int = 60, width: int = 90, seed: int = 0) -> np.ndarray:
    """Smooth colours without any symmetry, so that every rotation is told apart."""
    grid = np.random.default_rng(seed).uniform(0, 255, (4, 5, 3)).astype(np.float32)
    return np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(
        np.uint8
    )


def encode(image: Image.Image | np.ndarray, form: str, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def off_by(actual: np.ndarray, expected: np.ndarray) -> float:
    """The mean difference in levels; shapes must agree."""
    assert actual.shape == expected.shape
    return float(np.abs(actual.astype(float) - expected.astype(float)).mean())


EXACT = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]


@pytest.mark.parametrize(("form", "options"), EXACT)
def test_lossless_formats_come_back_exactly(form, options):
    data = encode(photo(), form, **options)
    assert images.header(data) == (60, 90)
    np.testing.assert_array_equal(images.decode(data), photo())


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}]
)
def test_jpegs_come_back_nearly(options):
    data = encode(photo(), "JPEG", quality=95, **options)
    assert images.header(data) == (60, 90)
    assert off_by(images.decode(data), photo()) < 1.5


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_size_and_pixels(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), form, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert images.header(data) == expected.shape[:2]
    assert off_by(images.decode(data), expected) < 0.5


def test_corrupt_exif_leaves_the_image_readable():
    exif = Image.Exif()
    exif[0x0112] = 6
    for damaged in (exif.tobytes()[:17], b"Exif\0\0MM" + b"\xff" * 30, b"Exif\0\0"):
        data = encode(photo(), "JPEG", exif=damaged)
        assert images.decode(data).shape == (60, 90, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_one_pixel_image_is_read(form):
    data = encode(Image.new("RGB", (1, 1), (250, 250, 250)), form)
    assert images.header(data) == (1, 1)
    np.testing.assert_allclose(images.decode(data, min_side_px=224), [[[250, 250, 250]]], atol=2)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_grayscale_becomes_rgb(form):
    gray = photo()[..., 0]
    decoded = images.decode(encode(gray, form))
    assert off_by(decoded, np.repeat(gray[..., None], 3, axis=2)) < 1
    assert (decoded[..., 0] == decoded[..., 2]).all()


def test_sixteen_bit_samples_are_scaled_not_clipped():
    samples = np.array([[0, 257, 32768, 65535]], np.uint16)
    expected = np.repeat(np.array([[0, 1, 128, 255]])[..., None], 3, axis=2)
    png = cv2.imencode(".png", samples)[1].tobytes()
    np.testing.assert_array_equal(images.decode(png), expected)
    tiff = encode(Image.fromarray(samples), "TIFF")
    np.testing.assert_array_equal(images.decode(tiff), expected)
    colour = cv2.imencode(".png", np.repeat(samples[..., None], 3, axis=2))[1].tobytes()
    np.testing.assert_allclose(images.decode(colour), expected, atol=1)


def test_palette_becomes_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    expected = [[[255, 0, 0], [0, 0, 255]]]
    np.testing.assert_array_equal(images.decode(encode(image, "PNG")), expected)
    np.testing.assert_array_equal(images.decode(encode(image, "GIF")), expected)


def test_transparent_pixels_lie_on_white():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 51)])
    expected = [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]
    np.testing.assert_array_equal(images.decode(encode(image, "PNG")), expected)
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    png = encode(palette, "PNG", transparency=1)
    np.testing.assert_array_equal(images.decode(png), [[[255, 0, 0], [255, 255, 255]]])


def test_cmyk_jpeg_whose_ink_is_stored_inverted_has_the_right_colours():
    image = Image.new("CMYK", (32, 16), (0, 255, 255, 0))  # red
    image.paste((25, 0, 0, 51), (16, 0, 32, 16))  # a pale cyan
    data = encode(image, "JPEG", quality=100)
    assert b"Adobe" in data and images.header(data) == (16, 32)
    decoded = images.decode(data)
    np.testing.assert_allclose(decoded[:, :14].mean(axis=(0, 1)), [255, 0, 0], atol=4)
    np.testing.assert_allclose(decoded[:, 18:].mean(axis=(0, 1)), [184, 204, 204], atol=4)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_animations_give_their_first_frame(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(images.decode(data)[4, 4], [255, 0, 0], atol=4)


def test_jpeg_with_unusual_sampling_is_read():
    # Sampling factors 2x1, 2x1, 1x1, which libjpeg reads and TurboJPEG's interface refuses:
    # five blocks of uniform grey, in the default Huffman codes of "difference 0" and "end".
    data = encode(Image.new("RGB", (16, 8), (128, 128, 128)), "JPEG", subsampling=0)
    frame = data.index(b"\xff\xc0")
    scan = data.index(b"\xff\xda") + 14
    sampled = bytearray(data[:scan] + bytes([0b00101000, 0b10100000, 0b00000000]) + b"\xff\xd9")
    sampled[frame + 11] = sampled[frame + 14] = 0x21
    np.testing.assert_array_equal(images.decode(bytes(sampled)), np.full((8, 16, 3), 128))


BAD = {
    "zero bytes": (b"", "empty file"),
    "text": (b"Access denied\n", "known format.*Access"),
    "two bytes": (b"\xff\xd8", "known format"),
    "JPEG cut in its header": (encode(photo(), "JPEG")[:100], "JPEG"),
    "PNG cut in its header": (encode(photo(), "PNG")[:20], "PNG"),
    "RIFF that is no WebP": (b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 40, "WEBP"),
    "BM that is no BMP": (b"BM is how this text begins", "BMP"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused_with_a_short_reason(name):
    data, reason = BAD[name]
    for read in (images.header, images.decode):
        with pytest.raises(ImageError, match=reason) as caught:
            read(data)
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_image_is_refused_though_its_header_is_fine(form):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    data = encode(noise, form)
    data = data[: len(data) * 2 // 3]
    with pytest.raises(ImageError, match=form):
        images.decode(data)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_of_unknown_range_are_refused(mode):
    with pytest.raises(ImageError, match="32-bit"):
        images.decode(encode(Image.new(mode, (4, 4)), "TIFF"))


def test_large_jpeg_is_decoded_at_the_size_needed():
    data = simplejpeg.encode_jpeg(photo(1000, 1700), quality=95)
    for min_side_px, height in (
        (None, 1000),
        (300, 1000),
        (250, 500),
        (125, 250),
        (60, 125),
        (9, 125),
    ):
        assert len(images.decode(data, min_side_px=min_side_px)) == height


def test_reduced_decoding_hardly_changes_the_shrunk_image():
    noisy = photo(1024, 1024) // 2 + np.random.default_rng(0).integers(
        0, 128, (1024, 1024, 3), np.uint8
    )
    data = simplejpeg.encode_jpeg(noisy, quality=90)
    whole, reduced = images.decode(data), images.decode(data, min_side_px=128)
    assert len(reduced) == 256
    difference = off_by(images.resize_square(reduced, 128), images.resize_square(whole, 128))
    assert difference < 1.5


def test_200_megapixel_jpeg_takes_little_memory_or_is_refused():
    huge = simplejpeg.encode_jpeg(np.zeros((10_000, 20_000, 1), np.uint8), colorspace="GRAY")
    assert images.header(huge) == (10_000, 20_000)
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        pytest.skip("peak memory is read from Linux's /proc")

    def peak_mib() -> float:
        return int(re.findall(r"VmHWM:\s*(\d+)", status.read_text())[0]) / 1024

    reset.write_text("5")
    before = peak_mib()
    assert images.decode(huge, min_side_px=256).shape == (1250, 2500, 3)
    for min_side_px in (None, 8000):
        with pytest.raises(ImageError, match=r"20000x10000 .*200 megapixels.*limit of 100"):
            images.decode(huge, min_side_px=min_side_px)
    assert peak_mib() - before < 100


def test_limit_wins_over_the_reserve_of_resolution():
    data = simplejpeg.encode_jpeg(photo(400, 400))
    assert len(images.decode(data, min_side_px=150)) == 400
    assert len(images.decode(data, min_side_px=150, max_pixels=1e5)) == 200
    with pytest.raises(ImageError, match="400x400"):
        images.decode(data, min_side_px=150, max_pixels=2e4)


def test_jpegs_that_need_all_coefficients_are_refused_above_the_limit():
    progressive = encode(photo(400, 400), "JPEG", progressive=True)
    interleaved = encode(photo(400, 400), "JPEG")
    # One colour a scan: what the first scan's header says is all the decoder looks at.
    separate = bytearray(interleaved)
    separate[separate.index(b"\xff\xda") + 4] = 1
    for data in (progressive, bytes(separate)):
        with pytest.raises(ImageError, match="limit"):
            images.decode(data, min_side_px=100, max_pixels=1e5)
    assert len(images.decode(interleaved, min_side_px=100, max_pixels=1e5)) == 200


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_above_the_limit_are_refused_before_decoding(form):
    with pytest.raises(ImageError, match=r"90x60 .*limit of 0\.005"):
        images.decode(encode(photo(), form), min_side_px=10, max_pixels=5e3)


def test_png_bomb_is_refused_without_a_warning():
    png = bytearray(encode(Image.new("L", (1, 1)), "PNG"))
    png[16:24] = (30_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    assert images.header(bytes(png)) == (30_000, 30_000)
    with pytest.raises(ImageError, match="900 megapixels"):
        images.decode(bytes(png))


def test_shrinking_averages_and_enlarging_interpolates():
    checks = np.indices((8, 8)).sum(axis=0) % 2 * np.uint8(200)
    checks = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(images.resize(checks, (4, 4)), np.full((4, 4, 3), 100))
    ramp = np.repeat(np.array([[[0], [100]]], np.uint8), 3, axis=2)
    np.testing.assert_array_equal(images.resize(ramp, (1, 4))[0, :, 0], [0, 25, 75, 100])
    assert images.resize(checks, (8, 8)) is checks


def test_axes_are_resized_each_in_its_own_way():
    stripes = np.repeat((np.arange(64) % 2 * 200).astype(np.uint8)[:, None], 4, axis=1)
    stripes = np.repeat(stripes[..., None], 3, axis=2)
    np.testing.assert_array_equal(images.resize(stripes, (16, 12)), np.full((16, 12, 3), 100))


def test_augmentation_depends_on_seed_epoch_and_image_alone():
    def draw(seed: int, epoch: int, image_id: str) -> np.ndarray:
        rng = images.augmentation_rng(seed, epoch, image_id)
        return images.augment(photo(), resize_px=40, crop_px=32, flip=True, rng=rng)

    sample = draw(1, 2, "a/3")
    assert sample.shape == (32, 32, 3) and sample.flags.c_contiguous
    np.testing.assert_array_equal(sample, draw(1, 2, "a/3"))
    for other in ((2, 2, "a/3"), (1, 3, "a/3"), (1, 2, "a/4")):
        assert (draw(*other) != sample).any()


def test_augmentation_is_the_same_in_every_release():
    # Resuming a run continues its random numbers: a change here is a change of format.
    rng = images.augmentation_rng(0, 1, "n01440764/1.JPEG")
    assert rng.integers(1000, size=4).tolist() == [156, 678, 503, 671]


def test_crops_cover_all_offsets_and_half_are_mirrored():
    ramp = np.zeros((6, 6, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(6)[:, None], np.arange(6)[None, :]
    seen, num_mirrored = set(), 0
    for index in range(400):
        rng = images.augmentation_rng(0, 0, str(index))
        crop = images.augment(ramp, resize_px=6, crop_px=4, flip=True, rng=rng).astype(int)
        num_mirrored += crop[0, 0, 1] > crop[0, 1, 1]
        seen.add((crop[..., 0].min(), crop[..., 1].min()))
    assert seen == {(y, x) for y in range(3) for x in range(3)}
    assert 160 < num_mirrored < 240


def test_without_flip_nothing_is_mirrored():
    ramp = np.repeat(np.arange(6, dtype=np.uint8)[None, :, None], 6, axis=0).repeat(3, axis=2)
    for index in range(20):
        rng = images.augmentation_rng(0, 0, str(index))
        crop = images.augment(ramp, resize_px=6, crop_px=6, flip=False, rng=rng)
        np.testing.assert_array_equal(crop, ramp)


def test_crop_larger_than_the_square_is_refused():
    rng = images.augmentation_rng(0, 0, "a")
    with pytest.raises(ValueError, match=r"crop_px must be <= resize_px \(32\), got 33"):
        images.augment(photo(), resize_px=32, crop_px=33, flip=False, rng=rng)


@pytest.mark.parametrize("bits", [8, 16])
def test_maps_survive_png(bits):
    values = np.random.default_rng(0).uniform(0, 1, (5, 7)).astype(np.float32)
    values[0, :2] = 0, 1
    encoded = (images.encode_png8 if bits == 8 else images.encode_png16)(values)
    decoded = (images.decode_png8 if bits == 8 else images.decode_png16)(encoded)
    assert decoded.dtype == np.float32 and decoded.shape == (5, 7)
    np.testing.assert_allclose(decoded, values, atol=0.501 / (2**bits - 1))
    assert decoded[0, 0] == 0 and decoded[0, 1] == 1


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_map_outside_its_range_is_not_stored(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        images.encode_png16(np.array([[0.5, bad]], np.float32))


@pytest.mark.parametrize(
    "data", [b"", b"text", encode(photo(), "PNG"), images.encode_png8(np.zeros((2, 2)))]
)
def test_map_of_another_kind_is_refused(data):
    with pytest.raises(ImageError, match="16-bit grayscale"):
        images.decode_png16(data)


@pytest.mark.parametrize(
    ("bits", "samples", "levels"),
    [
        (1, [0, 1, 1, 0, 1, 0, 0, 0], None),
        (2, [0, 1, 2, 3], [0, 85, 170, 255]),
        (4, [0, 1, 2, 5, 15, 0], [0, 17, 34, 85, 255, 0]),
        (8, [0, 1, 20, 255], [0, 1, 20, 255]),
    ],
)
def test_grey_mask_of_few_bits_holds_its_samples(bits: int, samples: list, levels: list | None):
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    packed = int("".join(f"{each:0{bits}b}" for each in samples), 2)
    line = b"\0" + packed.to_bytes(len(samples) * bits // 8, "big")
    header = struct.pack(">IIBBBBB", len(samples), 1, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")
    assert images.decode_mask(data).tolist() == [samples]
    if levels is not None:
        assert images.decode_mask(data, keeps_levels=True).tolist() == [levels]


def test_mask_gives_ids_not_colours():
    ids = np.array([[0, 1, 15, 255]], np.uint8)
    palette = Image.fromarray(ids).convert("L")
    colours = Image.fromarray(ids)
    colours.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    for image in (palette, colours):
        np.testing.assert_array_equal(images.decode_mask(encode(image, "PNG")), ids)
    with pytest.raises(ImageError, match="RGB"):
        images.decode_mask(encode(photo(), "PNG"))


def test_real_photos_agree_with_pillow(shared):
    paths = sorted((shared / "data/imagenet-samples").glob("*"))[::8]
    assert paths
    for path in paths:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        assert images.header(data) == expected.shape[:2]
        assert off_by(images.decode(data), expected) < 0.1, path.name
