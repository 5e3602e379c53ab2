"""The kind of input "picture": one slice, as PNG, JPEG or TIFF, or as DICOM with no place in space.

It is uint8 (H, W) as somebody exported it, or float32 HU; for an MRI's network uint8 (H, W, C), a
channel for each modality, as data.py writes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import fill_voids
import numpy as np

from common.card import Card, to_stored_values
from common.errors import InputError, replacing
from common.report import draw_heat, draw_labels, draw_mask
from predict.edge import decide
from predict.maps import MOST_SPREAD, Maps, make_blank, measure_spread, name_maps
from predict.network import Network
from predict.result import NOTHING_MORE, Result, Target, Wanted
from scan.cases import PICTURES
from scan.hu import BODY, doubt_hu, to_hu
from scan.picture import read_channels, read_noted, swap_colours, write_picture
from scan.views import air_of, fit_square, normalise, unfit_square

# A head or a brain is looked at closer where its box is smaller than SMALL of the picture. The box
# reaches so many times its longer side from its middle: REACH for the head, SKULL for the brain
SMALL, REACH, SKULL = 0.75, 0.6, 0.8
DARK = 0.12  # share of a picture's brightest pixel: what is darker is air. By eye
FINER = 1.2  # a slice is brought to so many times the pixels a side that the network was trained on
OVERLAY_WINDOW = (-100.0, 300.0)  # HU: the inner table is white, the brain grey
BRAIN_WINDOW = (0.0, 100.0)  # HU
# WHITE: at this share of a picture's maximum, a pixel is as bright as bone. CLOT: at this share of
# the brain's area, a white patch is a clot. Chosen, with FINER, on 25 real slices
# (benchmarks/README.md)
WHITE, CLOT = 0.95, 0.015
LEAST_AREA = 0.0008  # of a picture's area: a smaller mask is a false alarm, 20 pixels of 160 x 160
LEAST_PART = 0.02  # of the largest part: smaller ones are specks. A round number
THUMBNAIL = 640  # pixels wide: sharp in the report's list, on a screen of twice its pixels, too
EVERYTHING = slice(None), slice(None)


def read(path: Path, wanted: Wanted, card: Card) -> tuple[np.ndarray, tuple[str, ...]]:
    """A slice and notes on it; InputError for what cannot be read or has other channels."""
    if card.is_3d:
        raise InputError(f"{path} is a slice, and this model looks at volumes: give a scan")
    if card.is_mri:
        picture, notes = read_channels(path, len(card.channels)), ()
    elif path.name.lower().endswith(PICTURES):
        picture, notes = read_noted(path)
    else:
        from scan.read import read_slice  # pydicom, for which a picture need not wait

        picture, notes = read_slice(path)
        picture, mended = to_hu(picture)
        notes = (*notes, *mended, *doubt_hu(picture))
    return picture, (*notes, *wanted.notes_of_slice)


def predict(
    source: tuple[np.ndarray, tuple[str, ...]], network: Network, wanted: Wanted = NOTHING_MORE
) -> Result:
    """The brain mask of a slice, or the labels of an MRI's."""
    picture, notes = source
    network.tell("segmenting", 0)
    mask, boxes = search(picture, network)
    maps = map_boxes(picture, boxes, network, wanted) if wanted.maps else None
    missed = "nothing" if network.card.is_mri else "no brain"
    none = () if mask.any() else (f"{missed} was found in this slice",)
    return Result(mask, notes=(*notes, *none), maps=maps)


def write(target: Target, source, result: Result, wanted: Wanted, card: Card) -> dict:
    """Write the mask and the overlay of a slice; return what its JSON says."""
    mask = result.mask
    path = target.folder / f"{target.name}_predicted_mask.png"
    write_image(path, to_stored(mask, card))
    grey = as_grey(source[0], card.shown_channel)
    thumbnail = write_overlay(target, outline(grey, mask))
    kind = "brain" if mask.dtype == bool else "labelled"
    return {
        "mask": path.name,
        **thumbnail,
        f"{kind}_pixels": int(np.count_nonzero(mask)),
        "shape": list(mask.shape),
        **write_maps(target, source[0], result.maps, card),
        "notes": list(result.notes),
    }


def write_maps(target: Target, picture: np.ndarray, maps: Maps | None, card: Card) -> dict:
    """Write the maps of a slice as PNG of 16 bits (65535 is 1), and the uncertainty in colour.

    Returns what the JSON says; {} where no map was wanted.
    """
    about, start = {}, target.folder / target.name
    if maps and maps.probability is not None:
        labels = name_maps(card)
        numbers = [f"_{value}" for value in labels] if len(labels) > 1 else [""]
        files = [Path(f"{start}_probability{number}.png") for number in numbers]
        for path, part in zip(files, maps.probability, strict=True):
            write_image(path, to_16_bits(part))
        about["probability"] = [path.name for path in files]
        about["probability_of"] = list(labels.values())
    if maps and maps.uncertainty is not None:
        pixels = round(float(maps.uncertainty.sum()), 2)
        names = f"{target.name}_uncertainty_values.png", f"{target.name}_uncertainty.png"
        write_image(target.folder / names[0], to_16_bits(maps.uncertainty))
        heat = draw_heat(as_grey(picture, card.shown_channel), maps.uncertainty, MOST_SPREAD)
        write_image(target.folder / names[1], heat)
        about |= {"uncertainty": names[0], "uncertainty_picture": names[1]}
        about["uncertainty_pixels"] = pixels
    return about


def to_16_bits(part: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as uint16: 65535 is 1."""
    return np.rint(65535 * part).astype(np.uint16)


def show(source, folder: Path, card: Card) -> None:
    """Write what a viewer shows below the mask: the slice in grey."""
    write_image(folder / "picture.png", as_grey(source[0], card.shown_channel))


# ---------------------------------------------------------------- pictures of a result


def to_stored(mask: np.ndarray, card: Card) -> np.ndarray:
    """A mask as a file holds it: 0 and 255 for bool, the card's own values for labels."""
    if mask.dtype == bool:
        return np.uint8(255) * mask
    return to_stored_values(mask, card.label_values.values())


def outline(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A grey picture with the outline of its mask, or with its labels in colours."""
    return (draw_mask if mask.dtype == bool else draw_labels)(picture, mask)


def as_grey(picture: np.ndarray, channel: int = 0) -> np.ndarray:
    """A picture as uint8 (H, W): one channel of an MRI, HU in the window of a CTA."""
    if picture.dtype == np.uint8:
        return picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., channel])
    return np.rint(255 * normalise(picture, OVERLAY_WINDOW)).astype(np.uint8)


def write_overlay(target: Target, picture: np.ndarray) -> dict:
    """Write an overlay (H, W, 3); beside one that is wide a small JPEG, for the report's list.

    Returns what the JSON says of the JPEG; {} without one.
    """
    write_image(target.folder / f"{target.name}_overlay.png", picture)
    height, width = picture.shape[:2]
    if width <= THUMBNAIL:
        return {}
    size = THUMBNAIL, max(1, round(height * THUMBNAIL / width))
    path = target.folder / f"{target.name}_thumbnail.jpg"
    small = swap_colours(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    with replacing(path) as temporary:
        temporary.write_bytes(jpeg.tobytes())
    return {"thumbnail": path.name}


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a grey (H, W) picture, uint8 or uint16, or an RGB one (H, W, 3), uint8, whole or not
    at all."""
    with replacing(path) as temporary:
        write_picture(temporary, image)


# ---------------------------------------------------------------- from slice to mask


def find_mask(picture: np.ndarray, network: Network) -> np.ndarray:
    """The brain mask (H, W), bool, of a slice, or the labels, uint8, of an MRI's."""
    return search(picture, network)[0]


def search(picture: np.ndarray, network: Network) -> tuple[np.ndarray, list[tuple]]:
    """The mask as in `find_mask`, and the boxes (rows, columns) that it comes from.

    A head that is small in its picture is looked at alone, if the network would see it coarsely.
    A brain that is small in it is looked at once more, closer; the surer of both looks counts.
    """
    if network.card.is_mri:  # several parts of a tumour and small ones are kept
        return choose_labels(ask_classes(picture, network)), [EVERYTHING]
    head = box_of_head(picture) if max(picture.shape) > network.size else EVERYTHING
    part = np.ascontiguousarray(picture[head])
    found, sure = mask_once(part, network)
    mask = np.zeros(picture.shape, bool)
    boxes = [head]
    if sure < network.card.sure:
        return mask, boxes
    if (box := box_around(found, SKULL)) is not None:
        near, surer = mask_once(np.ascontiguousarray(part[box]), network)
        if surer > sure:
            found = np.zeros_like(found)
            found[box] = near
            boxes.append(place_box(box, head))
    mask[head] = found
    return mask, boxes


def mask_once(picture: np.ndarray, network: Network) -> tuple[np.ndarray, float]:
    """The brain mask (H, W), bool, that the network sees in a picture, and its mean probability.

    What shows bone is left out: of HU as in a scan, of grey values what `find_spurs` finds.
    """
    share, bright = ask_network(picture, network)
    brain = share > 0.5
    if picture.dtype == np.uint8:
        brain &= ~find_spurs(brain, picture)
    elif brain.any():
        brain = decide(picture, share, bright, np.median(picture[brain]))
    mask = clean_slice(brain)
    return mask, float(share[mask].mean()) if mask.any() else 0.0


def place_box(box: tuple[slice, slice], within: tuple[slice, slice]) -> tuple[slice, slice]:
    """A box of a part of a picture as a box of the picture, `within` which the part lies."""
    starts = [side.start or 0 for side in within]
    sides = zip(starts, box, strict=True)
    return tuple(slice(start + side.start, start + side.stop) for start, side in sides)


def map_boxes(picture: np.ndarray, boxes: list, network: Network, wanted: Wanted) -> Maps:
    """The maps that are wanted of a picture: of each box that was looked at, the surest last."""
    maps = make_blank(picture.shape[:2], wanted, len(name_maps(network.card)))
    for box in boxes:
        part = np.ascontiguousarray(picture[box])
        if wanted.probabilities:
            maps.probability[:, *box] = ask_labels(part, network)
        if wanted.uncertainty:
            maps.uncertainty[box] = measure_spread(ask_each(part, network))
    return maps


def ask_labels(picture: np.ndarray, network: Network) -> np.ndarray:
    """The probability (labels, H, W) of each label of `name_maps`."""
    if network.card.is_mri:
        return ask_classes(picture, network)[-len(network.card.labels) :]
    return ask_network(picture, network)[0][None]


def ask_each(picture: np.ndarray, network: Network) -> Iterator[np.ndarray]:
    """The probabilities (H, W) of being inside, or in any label, one by one: by every network, of
    the picture as it is and mirrored left to right."""
    for member in network.members:
        for mirrored in (False, True):
            turn = partial(ask_turn, mirrored=mirrored)
            if network.card.is_mri:
                yield member.to_inside(turn(picture, member, member.size, member.window))
            else:
                yield ask_network(picture, member, turn)[0]


def ask_classes(picture: np.ndarray, network: Network) -> np.ndarray:
    """The probability (classes, H, W) of all classes in an MRI's slice, or (1, H, W) of its only
    label."""
    seen = average_turns(picture, network, network.size, network.window)
    return seen[None] if seen.ndim == 2 else np.moveaxis(seen, -1, 0)


def ask_network(
    picture: np.ndarray, network: Network, ask: Callable | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (H, W) of being inside the skull, and of being bright there.

    The network sees HU in a brain window, too, which shows the base of the brain better. Pixels
    that are white there keep the first answer. `ask` is `average_turns`, if not given.
    """
    ask = ask or average_turns
    size, multiple = network.size, network.card.multiple
    if max(picture.shape) > size:
        size = round(FINER * size / multiple) * multiple
    seen = ask(picture, network, size, network.window)
    share, bright = network.to_inside(seen), network.to_hyperdense(seen)
    if picture.dtype != np.uint8:
        too = network.to_inside(ask(picture, network, size, BRAIN_WINDOW))
        share = np.where(picture < BRAIN_WINDOW[1], (share + too) / 2, share)
    return share, bright


def choose_labels(parts) -> np.ndarray:
    """The likeliest labels, uint8, from the probabilities of all classes, or of the only label."""
    return (parts[0] > 0.5 if len(parts) == 1 else np.argmax(parts, axis=0)).astype(np.uint8)


def average_turns(picture: np.ndarray, network: Network, size: int, window: tuple) -> np.ndarray:
    """Probability (H, W[, classes]), float32, of a slice brought to `size` pixels a side.

    It is the mean over the slice's four quarter turns and their mirror images, so that a turned
    slice gets the same mask; an MRI lies upright, and is seen as it is and mirrored. HU are seen in
    `window`.
    """
    turns = 1 if network.card.is_mri else 4
    square, place = fit_square(picture, size, outside=air_of(picture))
    square = normalise(square, None if picture.dtype == np.uint8 else window)
    seen = [np.rot90(x, turn) for x in (square, square[:, ::-1]) for turn in range(turns)]
    seen = network.probabilities(np.stack(seen))
    plain, turned = (
        np.mean([np.rot90(x, -turn) for turn, x in enumerate(part)], axis=0)
        for part in (seen[:turns], seen[turns:])
    )
    return unfit_square((plain + turned[:, ::-1]) / 2, place)


def ask_turn(
    picture: np.ndarray, network: Network, size: int, window: tuple, mirrored: bool
) -> np.ndarray:
    """As `average_turns`, but of one turn alone: the slice as it is, or mirrored left to right."""
    square, place = fit_square(picture, size, outside=air_of(picture))
    square = normalise(square, None if picture.dtype == np.uint8 else window)
    step = -1 if mirrored else 1
    return unfit_square(network.probabilities(square[None, :, ::step])[0][:, ::step], place)


def find_spurs(brain: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Small patches (H, W), bool, of the brain (bool) that are as white as bone in a uint8 picture.

    In a brain window blood is as white, but clots that touch the skull are larger than its spurs.
    What is enclosed, such as lime, is filled again as a hole of the mask.
    """
    white = brain & (picture >= WHITE * picture.max())
    _, parts, about, _ = cv2.connectedComponentsWithStats(white.astype(np.uint8), connectivity=4)
    small = about[:, cv2.CC_STAT_AREA] < CLOT * np.count_nonzero(brain)
    small[0] = False  # what is not white
    return small[parts]


def box_of_head(picture: np.ndarray) -> tuple[slice, slice]:
    """The box (rows, columns) of the largest thing in a picture, or all of it if not much larger.

    A thing is joined and not black: over DARK of the brightest, or denser than air.
    """
    lit = picture > (DARK * picture.max() if picture.dtype == np.uint8 else BODY)
    return box_around(lit, REACH) or EVERYTHING


def box_around(mask: np.ndarray, reach: float) -> tuple[slice, slice] | None:
    """The box (rows, columns) around the largest part of a mask (H, W), bool.

    It extends `reach` times the part's longer side from its middle. None where nothing is in the
    mask, or where the box is not smaller than SMALL of the picture.
    """
    _, _, about, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if len(about) == 1:
        return None
    left, top, width, height = about[1 + about[1:, cv2.CC_STAT_AREA].argmax(), :4]
    reach = reach * max(width, height)
    centres, sizes = (top + height / 2, left + width / 2), mask.shape
    box = [
        (max(0, int(c - reach)), min(n, math.ceil(c + reach)))
        for c, n in zip(centres, sizes, strict=True)
    ]
    if max(high - low for low, high in box) > SMALL * max(sizes):
        return None
    return tuple(slice(low, high) for low, high in box)


def clean_slice(mask: np.ndarray) -> np.ndarray:
    """The mask (H, W), bool, of a slice without holes and specks."""
    mask = fill_voids.fill(mask)
    if not mask.any():
        return mask
    _, parts, about, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    sizes = about[:, cv2.CC_STAT_AREA]
    sizes[0] = 0  # what is not the mask
    kept = sizes >= max(LEAST_AREA * mask.size, LEAST_PART * sizes.max())
    return kept[parts]
