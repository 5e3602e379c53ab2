"""Picture files: grey of any kind, tints, what is refused."""

import os

import cv2
import numpy as np
import pytest
from make import image_at

from common.errors import InputError
from dataset.read import Pair, read_pair
from scan import picture
from scan.picture import (
    TINTED,
    caught_stderr,
    read_channels,
    read_noted,
    read_picture,
    to_grey,
    write_picture,
)
from scan.views import normalise, stack

RAMP = np.arange(256)[:, None] * np.ones(3)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)


TINTS = {  # what a grey level becomes, (256, 3) blue, green, red
    "a cast": RAMP * (0.8, 0.9, 1),
    "sepia": np.minimum(255, RAMP * (0.937, 1.203, 1.351)),
    "a blue film": 60 * np.float64([1, 0.4, 0.2]) + RAMP * (0.7, 0.6, 0.5),
    "blue alone": RAMP * (1, 0, 0),
}


MAPS = {
    name: cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], code)[:, 0].astype(float)
    for name, code in {
        "jet": cv2.COLORMAP_JET,
        "heat": cv2.COLORMAP_HOT,
        "viridis": cv2.COLORMAP_VIRIDIS,
    }.items()
}


@pytest.fixture
def grey_slice(cta):
    """An axial slice of the phantom in a brain window, (H, W) uint8."""
    picture = stack(cta.hu, "axial")[int(cta.mask.sum((0, 1)).argmax())]
    grey = np.rint(255 * normalise(picture, (-20, 120))).astype(np.uint8)
    return cv2.resize(grey, None, fx=3, fy=3)


def coloured(grey, levels, letter=False):
    """A grey picture whose levels become colours (256, 3); with a yellow letter, if wanted."""
    picture = np.rint(levels[grey]).astype(np.uint8)
    return cv2.putText(picture, "R", (9, 40), 0, 1, (0, 255, 255), 2) if letter else picture


def test_read_picture_takes_grey_of_any_kind(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
    for name, stored in {
        "grey.png": grey,
        "rgb.png": np.dstack([grey] * 3),
        "rgba.png": np.dstack([grey] * 4),
    }.items():
        cv2.imwrite(str(tmp_path / name), stored)
        read = read_picture(tmp_path / name)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, grey)


def test_read_picture_knows_hu_by_its_twelve_bits(tmp_path):
    hu = np.array([[-1024, 0], [40, 3071]])
    write_picture(tmp_path / "hu.png", (hu + 1024).astype(np.uint16))
    read = read_picture(tmp_path / "hu.png")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, hu)
    write_picture(tmp_path / "other.png", np.array([[0, 257, 65535]], np.uint16))
    assert read_picture(tmp_path / "other.png").tolist() == [[0, 1, 255]]


def head_slice(size=200):
    """HU (size, size), whole numbers: brain and skull in air, scalp, noise."""
    rng = np.random.default_rng(0)
    away = np.linalg.norm(np.indices((size, size)).T - size / 2, axis=-1) / size
    hu = np.select([away < 0.3, away < 0.34, away < 0.37], [35, 900, -90], -1000)
    return hu + rng.integers(-12, 13, hu.shape)


def save_16_bits(path, values):
    write_picture(path, np.clip(np.rint(values), 0, 65535).astype(np.uint16))
    return path


@pytest.mark.parametrize("offset", [1024, 32768, 10000, 2048, 33792])
@pytest.mark.parametrize("kind", ["plain", "metal", "padded", "cut at -1024"])
def test_16_bits_that_span_hu_are_hu_whatever_was_added(tmp_path, offset, kind):
    hu = head_slice()
    if kind == "metal":
        hu[100:104, 100:110] = 14000
    if kind == "cut at -1024":
        hu[hu < -900] = -1024
    stored = hu + offset
    if kind == "padded" and offset > 4096:
        stored[:9] = 0
    read, notes = read_noted(save_16_bits(tmp_path / "x.png", stored))
    assert read.dtype == np.float32 and read.min() >= -1024
    at_most = 0 if offset in (1024, 32768) else 5
    assert abs(np.median((read - hu)[9:])) <= at_most
    is_plain = offset == 1024 and kind != "metal"
    assert not notes if is_plain else notes[0].startswith("16 bits taken as HU + ")
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png"), read)


def test_padding_at_0_is_no_air_of_hu_in_12_bits(tmp_path):
    hu = head_slice()
    stored = hu + 2048
    stored[:20] = stored[:, -9:] = 0
    read, notes = read_noted(save_16_bits(tmp_path / "x.png", stored))
    assert notes == ("16 bits taken as HU + 2048",)
    np.testing.assert_array_equal(read[20:, :-9], hu[20:, :-9])
    assert (read[:20] == -1024).all()
    # air that was cut at 0 is air all the same
    cut = np.where(hu < -900, 0, hu + 1024)
    read, notes = read_noted(save_16_bits(tmp_path / "x.png", cut))
    assert notes == () and np.median(read[hu == 40]) == 40


def test_greys_stretched_to_16_bits_stay_greys(tmp_path):
    hu = head_slice()
    in_window = np.clip((hu + 100) / 400, 0, 1)
    for values in ((hu + 1024) * 16, (hu + 1024) * 65535 / 4095, in_window * 65535):
        read, notes = read_noted(save_16_bits(tmp_path / "x.png", values))
        assert read.dtype == np.uint8 and notes == ()
        np.testing.assert_array_equal(read, np.rint(np.clip(np.rint(values), 0, 65535) / 257))


def test_a_slice_of_air_in_hu_is_air_and_not_grey(tmp_path):
    read, _ = read_noted(save_16_bits(tmp_path / "x.png", np.full((50, 50), 31744)))
    assert read.dtype == np.float32 and (read == -1024).all()


def test_16_bits_that_may_be_hu_or_not_are_said(tmp_path):
    flat = 20000 + np.random.default_rng(0).integers(0, 900, (60, 60))
    read, notes = read_noted(save_16_bits(tmp_path / "x.png", flat))
    assert read.dtype == np.uint8 and "if they are HU, store HU + 1024" in notes[0]
    window = np.clip((head_slice() + 100) / 400, 0, 1) * 4095
    read, notes = read_noted(save_16_bits(tmp_path / "x.png", window))
    assert read.dtype == np.float32 and "taken as HU + 1024, but most of the body" in notes[0]


def test_read_picture_allows_coloured_letters_but_no_photo(tmp_path):
    slice_ = np.full((100, 100, 3), 90, np.uint8)
    slice_[2:10, 2:20] = (0, 255, 255)
    cv2.imwrite(str(tmp_path / "letters.png"), slice_)
    assert read_picture(tmp_path / "letters.png")[50, 50] == 90
    slice_[:, :50], slice_[50:] = (200, 60, 20), (30, 160, 200)
    cv2.imwrite(str(tmp_path / "photo.png"), slice_)
    with pytest.raises(InputError, match="photo.png is a colour picture"):
        read_picture(tmp_path / "photo.png")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("letter", [False, True], ids=["", "letter"])
@pytest.mark.parametrize("tint", TINTS)
def test_a_tinted_picture_is_read_as_grey_with_a_note(tmp_path, grey_slice, tint, letter, ending):
    path = tmp_path / f"tinted{ending}"
    picture = coloured(grey_slice, TINTS[tint], letter)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 50])
    read, notes = read_noted(path)
    assert notes == (TINTED,) and read.dtype == np.uint8
    seen = read[50:].ravel(), grey_slice[50:].ravel()  # below the letter
    assert np.corrcoef(*seen)[0, 1] > 0.98 and read.max() > 200


@pytest.mark.parametrize("colours", MAPS)
def test_a_slice_in_a_colour_map_is_refused(tmp_path, grey_slice, colours):
    cv2.imwrite(str(tmp_path / "map.png"), coloured(grey_slice, MAPS[colours]))
    with pytest.raises(InputError, match="map.png is a colour picture"):
        read_picture(tmp_path / "map.png")


@pytest.mark.parametrize("quality", [50, 95])
def test_a_photo_of_several_hues_is_refused(tmp_path, quality):
    """Patches of sky, leaves, brick and skin, each lit unevenly."""
    hues = np.float32([[200, 150, 90], [50, 120, 60], [60, 70, 170], [140, 170, 220]])
    light = np.linspace(0.4, 1, 100)[:, None, None]
    photo = np.hstack([np.tile(light * hue, (1, 40, 1)) for hue in hues]).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
    with pytest.raises(InputError, match="photo.jpg is a colour picture"):
        read_picture(tmp_path / "photo.jpg")


def test_grey_stored_in_colour_gets_no_note(tmp_path, grey_slice):
    for name in ("grey.png", "grey.jpg"):
        cv2.imwrite(str(tmp_path / name), np.dstack([grey_slice] * 3))
        assert read_noted(tmp_path / name)[1] == ()


def test_colours_of_16_bits_and_of_any_size_are_read(tmp_path):
    for size in ((1, 1), (1, 3000), (2000, 2)):
        grey = np.linspace(0, 65535, size[0] * size[1]).reshape(*size, 1)
        write_picture(tmp_path / "x.png", np.rint(grey * (1, 0.9, 0.8) / 257).astype(np.uint8))
        assert read_picture(tmp_path / "x.png").shape == size
        tinted = np.rint(grey * (0.8, 0.9, 1)).astype(np.uint16)
        read, _ = to_grey(tinted, tmp_path / "x.png")
        assert read.dtype == np.uint16 and read.shape == size


def test_many_tinted_pictures_print_nothing(tmp_path, grey_slice, capfd):
    for name, values in {
        "image": coloured(grey_slice, TINTS["sepia"]),
        "mask": grey_slice // 255,
    }.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
    pair = Pair(tmp_path / "image.png", tmp_path / "mask.png")
    assert read_pair(pair)[0].shape == grey_slice.shape
    assert capfd.readouterr() == ("", "")


def bad_pictures():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    png = cv2.imencode(".png", noise)[1].tobytes()
    jpg = cv2.imencode(".jpg", noise)[1].tobytes()
    return {
        "empty.png": (b"", "is empty"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "half.jpg": (jpg[: len(jpg) // 2], "truncated"),
        "text.png": (b"not a picture at all", "no picture"),
    }


@pytest.mark.parametrize("name", bad_pictures())
def test_bad_pictures_are_named_in_one_line(tmp_path, name):
    content, said = bad_pictures()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_picture(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_opencv_adds_no_lines_of_its_own(tmp_path, capfd):
    tiff = cv2.imencode(".tif", np.zeros((64, 64), np.uint8))[1].tobytes()
    (tmp_path / "half.tif").write_bytes(tiff[: len(tiff) // 2])
    with pytest.raises(InputError, match="no picture"):
        read_picture(tmp_path / "half.tif")
    assert capfd.readouterr().err == ""


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.png"):
        read_picture(tmp_path / "nowhere.png")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_go_through_a_png(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (9, 8, channels), np.uint8)
    write_picture(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_channels(tmp_path / "a.png", channels), image)
    stored = image_at(tmp_path / "a.png")
    assert stored.ndim == (2 if channels == 1 else 3)
    if channels == 2:
        assert stored.shape == (9, 8, 3) and not stored[..., 0].any(), "blue, the third, is empty"
    with pytest.raises(InputError, match="a.png needs 4 channels"):
        write_picture(tmp_path / "a.png", image[..., :1])
        read_channels(tmp_path / "a.png", 4)


# ---------------------------------------------------------------- damaged, and too large


def test_a_jpeg_that_lost_pixels_is_refused_and_libjpeg_says_nothing(tmp_path, capfd):
    content = bytearray(cv2.imencode(".jpg", NOISE)[1].tobytes())
    middle = len(content) // 2
    content[middle : middle + 8] = b"\xff\xff\0\0\xff\xd3\0\0"
    (tmp_path / "lost.jpg").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_picture(tmp_path / "lost.jpg")
    assert capfd.readouterr().err == ""


def test_what_others_say_meanwhile_is_not_lost(capfd):
    with caught_stderr() as said:
        os.write(2, b"another thread's line\n")
        os.write(2, b"libpng warning: iCCP\n")
    assert said == [b"another thread's line\n", b"libpng warning: iCCP\n"]
    assert capfd.readouterr().err == "another thread's line\n"


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
def test_a_picture_that_claims_too_many_pixels_is_not_unpacked(tmp_path, monkeypatch, ending):
    (tmp_path / f"large{ending}").write_bytes(cv2.imencode(ending, NOISE)[1].tobytes())
    monkeypatch.setattr(picture, "MOST_PIXELS", NOISE.size - 1)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(InputError, match=f"claims {NOISE.shape[1]} x {NOISE.shape[0]} pixels"):
        read_picture(tmp_path / f"large{ending}")


def test_a_chunk_that_claims_to_go_beyond_the_file_is_not_given_memory(tmp_path, monkeypatch):
    content = cv2.imencode(".png", NOISE)[1].tobytes()
    at = content.index(b"IDAT") - 4
    claimed = content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :]
    (tmp_path / "claims.png").write_bytes(claimed)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(InputError, match="truncated"):
        read_picture(tmp_path / "claims.png")
