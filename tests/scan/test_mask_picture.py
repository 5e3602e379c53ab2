"""Masks in picture files: what is labelled, whatever its colour; what cannot be known is asked."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from common.errors import InputError
from scan.mask_picture import (
    OPAQUE,
    SOFTENED,
    read_asked_labels,
    read_label_picture,
    read_mask_picture,
    read_noted_mask_picture,
)
from scan.picture import write_picture


def brain(size=96, shrink=1.0):
    """An upright ellipse, (size, size) bool."""
    axes = int(0.3 * size * shrink), int(0.4 * size * shrink)
    return (
        cv2.ellipse(np.zeros((size, size), np.uint8), (size // 2,) * 2, axes, 0, 0, 360, 1, -1) > 0
    )


def save_palette(path, numbers, colours):
    """Numbers (H, W) as a palette PNG whose numbers have these colours, red first."""

    def chunk(kind, content):
        said = struct.pack(">I", len(content)) + kind + content
        return said + struct.pack(">I", zlib.crc32(kind + content))

    height, width = numbers.shape
    rows = np.pad(numbers.astype(np.uint8), ((0, 0), (1, 0))).tobytes()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))]
    parts += [(b"PLTE", bytes(np.ravel(colours).tolist())), (b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*p) for p in [*parts, (b"IEND", b"")]))


# as labelme and VOC number their colours
VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
PICTURE = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 60), (0, 0)])
def test_mask_pictures_of_any_white_are_read(tmp_path, values):
    stored = np.full((6, 6), values[0], np.uint8)
    stored[2:4, 2:4] = values[1]
    write_picture(tmp_path / "mask.png", stored)
    mask, notes = read_noted_mask_picture(tmp_path / "mask.png")
    assert mask.sum() == (4 if values[1] else 0) and notes == ()


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (0, 255, 0), (1, 0, 0), (9, 9, 8)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_mask_has_any_colour(tmp_path, colour, kind):
    write_picture(tmp_path / "mask.png", brain()[..., None] * np.array(colour, kind))
    np.testing.assert_array_equal(read_mask_picture(tmp_path / "mask.png"), brain())


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_palettes_colours_are_labels_by_their_numbers(tmp_path, number):
    save_palette(tmp_path / "mask.png", number * brain(), VOC)
    np.testing.assert_array_equal(read_mask_picture(tmp_path / "mask.png"), brain())
    labels = read_label_picture(tmp_path / "mask.png")
    np.testing.assert_array_equal(labels, number * brain())


def test_black_is_the_background_of_a_palette_else_number_0(tmp_path):
    save_palette(tmp_path / "mask.png", ~brain(), [(255, 0, 0), (0, 0, 0)])
    np.testing.assert_array_equal(read_mask_picture(tmp_path / "mask.png"), brain())
    save_palette(tmp_path / "mask.png", brain(), [(255, 0, 0), (0, 9, 250)])
    np.testing.assert_array_equal(read_mask_picture(tmp_path / "mask.png"), brain())


@pytest.mark.parametrize(
    "colours",
    [0 * PICTURE, np.full_like(PICTURE, 255), PICTURE, np.full_like(PICTURE, 40)],
    ids=["black", "white", "the picture", "grey"],
)
def test_a_mask_in_the_alpha_channel_is_read_whatever_the_colours(tmp_path, colours):
    for opacity in (255, 128):
        write_picture(tmp_path / "m.png", np.dstack([colours, np.uint8(opacity) * brain()]))
        mask, notes = read_noted_mask_picture(tmp_path / "m.png")
        np.testing.assert_array_equal(mask, brain())
        assert notes == (OPAQUE,)


def test_an_alpha_channel_that_says_nothing_is_left_out(tmp_path):
    for alpha in (0, 255):
        colours = brain()[..., None] * np.uint8([0, 0, 200])
        write_picture(tmp_path / "m.png", np.dstack([colours, np.full((96, 96), alpha, np.uint8)]))
        mask, notes = read_noted_mask_picture(tmp_path / "m.png")
        np.testing.assert_array_equal(mask, brain())
        assert notes == ()


def test_labels_on_a_transparent_ground_are_asked_about(tmp_path):
    colours = brain()[..., None] * np.uint8([200, 0, 0])
    colours[brain(shrink=0.4)] = (0, 200, 0)
    write_picture(tmp_path / "m.png", np.dstack([colours, np.uint8(255) * brain()]))
    with pytest.raises(InputError, match=r"the colours #000000 .*#00c800 .*#c80000"):
        read_mask_picture(tmp_path / "m.png")


SOFT = {
    "jpeg 95": lambda mask: jpeg(mask, 95),
    "jpeg 30": lambda mask: jpeg(mask, 30),
    "blurred": lambda mask: cv2.GaussianBlur(mask, (0, 0), 1.5),
    "enlarged": lambda mask: cv2.resize(cv2.resize(mask, (24, 24)), (96, 96)),
}


def jpeg(array, quality):
    content = cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("how", SOFT)
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 255)])
def test_softened_masks_end_at_half(tmp_path, how, colour):
    soft = SOFT[how](brain()[..., None] * np.uint8(colour))
    cv2.imwrite(str(tmp_path / "m.png"), soft)
    mask, notes = read_noted_mask_picture(tmp_path / "m.png")
    assert notes == (SOFTENED,)
    overlap = 2 * (mask & brain()).sum() / (mask.sum() + brain().sum())
    assert overlap > (0.96 if how == "enlarged" else 0.985)


def several():
    """Pictures of several labels, and what is said of each."""
    codes = np.zeros((96, 96), np.uint8)
    codes[:20, :32], codes[:20, 64:], codes[60:80, 32:64] = 60, 120, 180
    nested = np.uint8(255) * brain()
    nested[brain(shrink=0.5)] = 128
    rim = np.where(brain(shrink=0.8), 255, np.where(brain(), 128, 0)).astype(np.uint8)
    void = brain().astype(np.uint8)
    void[cv2.morphologyEx(void, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = 255
    lesion = np.uint8(255) * brain()
    lesion[46:50, 46:50] = 128
    voc = np.zeros((96, 96, 3), np.uint8)
    voc[:40, :40], voc[50:, 50:] = (128, 0, 0), (0, 128, 0)
    return {
        "codes": (codes, r"the values 0 \(7.*%\), 60 \(6.9%\), 120 \(6.9%\), 180 \(6.9%\)"),
        "nested": (nested, "128"),
        "rim": (rim, "128"),
        "ignored border": (void, "255"),
        "lesion": (lesion, r"128 \(0.2%\)"),
        "no background": (np.where(brain(), 200, 100).astype(np.uint8), "100 .* 200"),
        "two colours": (voc, "#000000 .*, #008000 .*, #800000"),
        "softened codes": (jpeg(codes, 90), "values 0"),
        "softened colours": (jpeg(voc, 60), "colours"),
        "a scan": (PICTURE[..., 0], "and 247 more"),
        "16 bits": (codes.astype(np.uint16) * 100, "18000"),
    }


@pytest.mark.parametrize("kind", several())
def test_several_labels_are_listed_with_their_shares(tmp_path, kind):
    picture, said = several()[kind]
    write_picture(tmp_path / "mask.png", picture)
    with pytest.raises(InputError, match=said) as caught:
        read_mask_picture(tmp_path / "mask.png")
    assert "mask.png" in str(caught.value) and "one label is asked" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_inverted_mask_is_named(tmp_path):
    for stored in (np.uint8(255) * ~brain(), np.dstack([PICTURE, np.uint8(255) * ~brain()])):
        write_picture(tmp_path / "mask.png", stored)
        with pytest.raises(InputError, match="mask.png .* is it inverted?"):
            read_mask_picture(tmp_path / "mask.png")


def test_labels_are_greys_or_numbers_and_no_colours(tmp_path):
    stored = brain().astype(np.uint8) * 4
    for picture in (stored, np.dstack([stored] * 3), stored.astype(np.uint16)):
        write_picture(tmp_path / "m.png", picture)
        np.testing.assert_array_equal(read_label_picture(tmp_path / "m.png"), stored)
    for picture, said in (
        (stored[..., None] * np.uint8([1, 0, 2]), "#040008 .*numbers in place of colours"),
        (stored.astype(np.uint16) * 100, "400 .*from 0 to 255"),
    ):
        write_picture(tmp_path / "m.png", picture)
        with pytest.raises(InputError, match=said):
            read_label_picture(tmp_path / "m.png")


def test_one_label_that_is_asked_may_be_softened_several_may_not(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), jpeg(np.uint8(255) * brain(), 50))
    labels, notes = read_asked_labels(tmp_path / "m.png", (255,))
    assert set(np.unique(labels)) == {0, 255} and notes == (SOFTENED,)
    assert abs(np.count_nonzero(labels) - brain().sum()) < 20
    with pytest.raises(InputError, match="these are no labels"):
        read_asked_labels(tmp_path / "m.png", (1, 2, 4))
    write_picture(tmp_path / "m.png", np.uint8([[0, 1, 2, 4]]))
    labels, notes = read_asked_labels(tmp_path / "m.png", (4,))
    assert labels.tolist() == [[0, 1, 2, 4]] and notes == ()
