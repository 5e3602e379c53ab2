"""Random training samples: one map moves, turns, flips and scales image and mask alike; the image
gets blood, other windows, blur, noise and writing.

    image, mask = augment_sample(*read_pair(pair), np.random.default_rng((seed, number)), size=160)

A picture of a CT may be turned by any angle, an MRI lies upright; nothing else decides what is done
to an image. Numbers without a source were chosen by eye, so that the pictures look like real ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

from scan.views import WINDOW, air_of, fit_labels, fit_square, normalise

# How often pictures of a CT change; round numbers, benchmarks/README.md tells what they are for
BLEEDING = 0.35  # those in HU get blood
LONG_PIXELS = 0.2  # any get long pixels
TRAINED_WINDOW = 0.4  # those in HU are seen about the network's window, the rest as exported
EIGHT_BITS = 0.3  # those in HU lose what an 8-bit picture cannot hold

FOREGROUND = 1 / 3  # of a volume's patches lie about a label, as in nnU-Net
TURNED = 0.5  # of them are turned and scaled

# The windows in which people export pictures: how often each, its centre from … to, its width from
# … to, in HU (about the presets of Radiopaedia, "Windowing (CT)"). Brain windows are the commonest,
# and the hardest: blood in them is as white as bone.
EXPORT_WINDOWS = (
    (0.5, (35, 50), (70, 110)),  # brain
    (0.08, (75, 75), (215, 215)),  # subdural
    (0.08, (35, 35), (35, 40)),  # stroke
    (0.08, (200, 300), (600, 800)),  # CTA
    (0.08, (50, 50), (350, 350)),  # soft tissue
    (0.08, (500, 700), (2000, 4000)),  # bone
    (0.05, (1024, 1024), (4095, 4095)),  # all of 12 bits
    (0.05, None, None),  # from the lowest to the highest value
)


def augment_sample(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    size: int | Sequence[int],
    window: tuple[float, float] = WINDOW,
    label_count: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """One random training sample of an image and its mask.

    The image is a picture (H, W), the slice (H, W, C) of an MRI or a volume (X, Y, Z, C), uint8 or
    float32 HU. It is returned as float32 in [0, 1], with `size` as its side, and the mask as
    float32 of 0 and 1, or as uint8 of several labels. Of a volume a patch of `size` (X, Y, Z) is
    returned. The same state of `rng` gives the same sample.
    """
    if image.ndim == 2 and image.dtype != np.uint8 and rng.random() < BLEEDING:
        image, mask = bleed(image, mask, rng, label_count)
    if image.ndim == 2 and rng.random() < LONG_PIXELS:
        image, mask = lengthen(image, mask, rng)
    if mask.ndim == 3:
        image, mask = draw_patch(image, mask, rng, tuple(size))
        mask = mask if label_count > 1 else (mask > 0).astype(np.float32)
    else:
        image, mask = warp(image, mask, rng, size, label_count)
    if image.ndim > mask.ndim:
        return change_channels(normalise(image, window), rng), mask
    if image.dtype == np.uint8:
        image = gain(normalise(image), rng)
    else:
        image = normalise(image, draw_window(image, rng, window))
        if rng.random() < EIGHT_BITS:
            image = np.rint(image * 255) / np.float32(255)
    return apply_effects(EFFECTS, image, rng), mask


def apply_effects(effects: Sequence[tuple], image: np.ndarray, rng: np.random.Generator):
    """An image in [0, 1] after some of the `effects`, pairs of (function, how often)."""
    for effect, chance in effects:
        if rng.random() < chance:
            image = np.clip(effect(image, rng), 0, 1)
    return image


# ---------------------------------------------------------------- where things lie


def bleed(
    hu: np.ndarray, mask: np.ndarray, rng: np.random.Generator, label_count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """A slice (H, W) in HU and its mask with blood that touches the skull: a lens, a crescent, or a
    clot in the brain. Where less than a twentieth of it is brain, the slice stays as it is."""
    brain = (mask > 0).astype(np.uint8)
    if brain.mean() < 0.05:
        return hu, mask
    rows, columns = np.indices(hu.shape, np.float32)
    size = np.sqrt(brain.sum() / np.pi)  # a brain's radius in pixels
    edge = np.argwhere(brain & (cv2.erode(brain, np.ones((3, 3), np.uint8)) == 0))
    at = edge[rng.integers(len(edge))]
    soft = cv2.GaussianBlur(brain.astype(np.float32), (0, 0), size / 10)
    inwards = np.array([slope[tuple(at)] for slope in np.gradient(soft)])
    inwards /= np.linalg.norm(inwards) + 1e-6
    depth, width = size * rng.uniform(0.08, 0.5), size * rng.uniform(0.3, 0.9)
    waves = rng.standard_normal((9, 9)).astype(np.float32)
    ripple = cv2.resize(waves, hu.shape[::-1], interpolation=cv2.INTER_CUBIC) * size * 0.03
    kind = rng.choice(["lens", "crescent", "clot"])
    if kind == "crescent":
        near = np.hypot(rows - at[0], columns - at[1]) < 2 * width
        blood = near & (cv2.distanceTransform(brain, cv2.DIST_L2, 3) < depth / 2 + ripple)
    else:  # a lens is the cap of a disc that lies mostly beyond the skull
        radius = depth if kind == "clot" else (width**2 + depth**2) / (2 * depth)
        away = radius * rng.uniform(-0.2, 0.8) if kind == "clot" else depth - radius
        centre = at + inwards * away
        blood = np.hypot(rows - centre[0], columns - centre[1]) < radius + ripple
    blood &= brain > 0
    value = rng.uniform(50, 105)  # HU of blood, fresh to clotted
    grain = hu - cv2.GaussianBlur(hu, (0, 0), 2)
    hu = np.where(blood, value + 2 * ripple / size + np.clip(grain, -20, 20), hu).astype(hu.dtype)
    return hu, np.where(blood & (value > 80), mask.dtype.type(2), mask) if label_count > 1 else mask


def lengthen(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W) and its mask as if their pixels were 2 to 5 times as long in one direction.

    Coronal and sagittal slices of a scan with thick slices look like that. A long pixel is in the
    mask where all of it is: one that shows bone is not.
    """
    axis, times = int(rng.integers(2)), int(rng.integers(2, 6))
    starts = np.arange(0, image.shape[axis], times)
    sizes = np.diff(starts, append=image.shape[axis])
    shape = (-1, 1) if axis == 0 else (1, -1)
    means = np.add.reduceat(image, starts, axis, dtype=np.float32) / sizes.reshape(shape)
    kept = np.maximum.reduceat(mask, starts, axis) * np.minimum.reduceat(mask > 0, starts, axis)
    return np.repeat(means.astype(image.dtype), sizes, axis), np.repeat(kept, sizes, axis)


def warp(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, size, label_count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The image and its mask under one affine map; the mask is float32 of 0 and 1, or labels."""
    frame = (size,) * mask.ndim if isinstance(size, int) else tuple(size)
    several = label_count > 1
    if not several:
        mask = mask.astype(np.float32) / max(1, mask.max())
    if mask.ndim == 2 and max(mask.shape) > 1.5 * frame[0]:  # `move` takes points: average first
        image = fit_square(image, frame[0], outside=air_of(image))[0]
        mask = (fit_labels if several else fit_square)(mask, frame[0])[0]
    draw = draw_upright if image.ndim > mask.ndim else draw_affine
    matrix = draw(mask.shape, rng, frame)
    moved = move(mask, matrix, frame, 0, nearest=several)
    mask = moved if several else (moved >= 0.5).astype(np.float32)
    return move(image, matrix, frame, air_of(image)), mask


def draw_patch(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, frame: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """A patch of a volume (X, Y, Z, C) and its mask; black where it reaches beyond the volume.

    A share of FOREGROUND lies about a voxel of some label, each label as often as another, so that
    small ones are seen; the rest lie anywhere. A share of TURNED is turned and scaled, which takes
    long. All may be flipped from left to right.
    """
    half, shape = np.array(frame) / 2, np.array(mask.shape)
    low, high = np.minimum(half, shape / 2), np.maximum(shape - half, shape / 2)
    centre, labels = rng.uniform(low, high), np.flatnonzero(np.bincount(mask.ravel())[1:]) + 1
    if rng.random() < FOREGROUND and len(labels):
        points = np.flatnonzero(mask.ravel() == rng.choice(labels))
        point = np.unravel_index(points[rng.integers(len(points))], mask.shape)
        centre = np.clip(np.array(point) + 0.5, low, high)
    if rng.random() < TURNED:
        matrix = draw_upright(mask.shape, rng, frame, centre - 0.5, 1.0)
        return move(image, matrix, frame, 0), move(mask, matrix, frame, 0, nearest=True)
    start = np.rint(centre - half).astype(int)
    flip = slice(None, None, rng.choice([-1, 1]))
    return cut_patch(image, start, frame)[flip], cut_patch(mask, start, frame)[flip]


def cut_patch(array: np.ndarray, start: Sequence[int], frame: Sequence[int]) -> np.ndarray:
    """The part (X, Y, Z[, C]) of `frame` voxels from `start` on; 0 beyond the array."""
    patch = np.zeros((*frame, *array.shape[3:]), array.dtype)
    inside, place = [], []
    for first, side, size in zip(start, frame, array.shape, strict=False):
        a, b = max(0, first), min(size, first + side)
        inside.append(slice(a, b))
        place.append(slice(a - first, b - first))
    patch[tuple(place)] = array[tuple(inside)]
    return patch


def move(
    array: np.ndarray, matrix: np.ndarray, frame: tuple, outside: float, nearest: bool = False
) -> np.ndarray:
    """An array, with or without a last axis of channels, under an (n, n + 1) map of its n axes."""
    if len(frame) == 2:
        flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        upright = matrix[::-1, [1, 0, 2]]  # OpenCV has x before y
        moved = cv2.warpAffine(array, upright, frame[::-1], flags=flags, borderValue=outside)
        return moved.reshape(*frame, *array.shape[2:])
    if array.ndim > 3:
        parts = np.moveaxis(array, -1, 0)
        return np.stack([move(part, matrix, frame, outside, nearest) for part in parts], -1)
    back, order = np.linalg.inv(matrix[:, :3]), 0 if nearest else 1
    shift = -back @ matrix[:, 3]
    return ndimage.affine_transform(array, back, shift, frame, order=order, cval=outside)


def draw_upright(
    shape: tuple, rng: np.random.Generator, frame: tuple, centre=None, scale: float | None = None
) -> np.ndarray:
    """A map of an upright image or volume into `frame`: turned a little, flipped, scaled, moved.

    `centre` comes near the middle of the frame, and `scale` is about kept: by default those of the
    whole. A flip swaps left and right, in a sagittal slice front and back.
    """
    axes = len(shape)
    linear = np.eye(axes)
    flip = np.ones(axes)
    flip[0 if axes == 3 else 1] = rng.choice([-1, 1])
    for first, second in itertools.combinations(range(axes), 2):
        angle = np.radians(np.clip(rng.normal(0, 10), -30, 30))
        turn = np.eye(axes)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[[first, second], [second, first]] = np.sin(angle) * np.array([-1, 1])
        linear = turn @ linear
    scale = scale or np.divide(frame, shape).min()
    scale *= np.exp(np.clip(rng.normal(0, 0.1), -0.25, 0.25))
    linear = scale * linear * flip
    middle = (np.array(frame) - 1) / 2 + rng.uniform(-0.05, 0.05, axes) * frame
    centre = (np.array(shape) - 1) / 2 if centre is None else centre
    return np.column_stack([linear, middle - linear @ centre])


def draw_affine(shape: tuple, rng: np.random.Generator, frame: tuple) -> np.ndarray:
    """A map of an (H, W) picture into the square: turned by any angle, flipped, scaled, moved."""
    size = frame[0]
    spread = 0.12 if rng.random() < 0.7 else 0.4
    scale = size / max(shape) * np.exp(np.clip(rng.normal(0, spread), np.log(0.6), np.log(1.5)))
    aspect = np.exp(rng.uniform(np.log(0.8), np.log(1.25)) / 2) if rng.random() < 0.5 else 1.0
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    squash = np.diag([aspect * rng.choice([-1, 1]), 1 / aspect])
    linear = scale * turn @ squash
    # squashed along the picture's own axes half of the time, else along those of the square
    linear = linear if rng.random() < 0.5 else scale * squash @ turn
    centre = (size - 1) / 2 + rng.uniform(-0.1, 0.1, 2) * size
    shift = centre - linear @ ((np.array(shape[::-1]) - 1) / 2)
    return np.column_stack([linear, shift])[::-1, [1, 0, 2]]  # rows before columns


# ---------------------------------------------------------------- how bright they are


def change_channels(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An MRI (…, C) with the brightness of each channel changed by itself; the outside stays 0."""
    outside = ~image.any(axis=-1)
    channels = np.moveaxis(image, -1, 0)
    image = np.stack([apply_effects(MRI_EFFECTS, gain(c, rng), rng) for c in channels], -1)
    image[outside] = 0
    return image


def shade(image, rng):
    """Brighter on one side, by up to a fifth, as a receiving coil leaves it."""
    ramps = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in image.shape)]
    steepness = rng.uniform(-0.1, 0.1, image.ndim)
    ramp = sum(a * along for a, along in zip(steepness, ramps, strict=True))
    return image * (1 + ramp).astype(np.float32)


def soften(image, rng):
    """Blurred a little, in any number of dimensions."""
    return ndimage.gaussian_filter(image, rng.uniform(0.4, 1.0))


def draw_window(hu: np.ndarray, rng: np.random.Generator, window: tuple) -> tuple[float, float]:
    """A window (lo, hi) in HU: some lie about `window`, the rest about EXPORT_WINDOWS."""
    chances = [chance for chance, *_ in EXPORT_WINDOWS]
    _, centres, widths = EXPORT_WINDOWS[rng.choice(len(chances), p=chances)]
    if rng.random() < TRAINED_WINDOW:
        centre, width = sum(window) / 2 + rng.uniform(-30, 30), window[1] - window[0]
    elif centres is None:
        low, high, *_ = cv2.minMaxLoc(hu)
        centre, width = (low + high) / 2, max(high - low, 1)
    else:
        centre, width = rng.uniform(*centres), rng.uniform(*widths)
        centre += rng.uniform(-0.1, 0.1) * width
    width *= rng.uniform(0.85, 1.15)
    return centre - width / 2, centre + width / 2


def gain(image, rng):
    """Another contrast and brightness."""
    factor, shift = np.float32(rng.uniform(0.75, 1.3)), np.float32(rng.uniform(-0.1, 0.1))
    return np.clip(image * factor + shift, 0, 1)


def gamma(image, rng):
    flat = image.reshape(len(image), -1)  # OpenCV takes a third axis for colours
    return cv2.pow(flat, float(np.exp(rng.uniform(-0.4, 0.4)))).reshape(image.shape)


def add_noise(image, rng):
    strength = np.float32(0.08 * rng.random() ** 2)
    return image + strength * rng.standard_normal(image.shape, np.float32)


def blur(image, rng):
    """Blurred, at most as by pixels of 4 mm: thin bones fade, and only their shape tells."""
    return cv2.GaussianBlur(image, (0, 0), np.exp(rng.uniform(np.log(0.4), np.log(2.5))))


def sharpen(image, rng):
    amount = rng.uniform(0.3, 1.5)
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.0), -amount, 0)


def cutout(image, rng):
    """Up to three rectangles of one grey on it."""
    size = len(image)
    for _ in range(rng.integers(1, 4)):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        width, height = (int(v) for v in rng.integers(2, size // 5, 2))
        cv2.rectangle(image, (x, y), (x + width, y + height), rng.random(), -1)
    return image


def write_on(image, rng):
    """Letters and a ruler near the frame, as viewers burn them in."""
    size, grey = len(image), rng.uniform(128, 255)
    layer = np.zeros(image.shape, np.uint8)  # OpenCV writes letters on bytes only
    for _ in range(rng.integers(1, 4)):
        text = "".join(chr(c) for c in rng.integers(48, 91, rng.integers(1, 8)))
        where = (int(rng.choice([2, 0.75 * size])), int(rng.choice([0.08, 0.15, 0.9, 0.97]) * size))
        cv2.putText(layer, text, where, cv2.FONT_HERSHEY_SIMPLEX, size / 500, grey, 1, cv2.LINE_AA)
    if rng.random() < 0.5:
        x, top = int(rng.choice([3, size - 4])), int(size * rng.uniform(0.1, 0.5))
        cv2.line(layer, (x, top), (x, top + size // 3), grey, 1)
    return np.maximum(image, normalise(layer))


def jpeg(image, rng):
    """Stored as JPEG, and read again."""
    grey = np.rint(image * 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
    return normalise(cv2.imdecode(cv2.imencode(".jpg", grey, quality)[1], cv2.IMREAD_GRAYSCALE))


# Effects on a grey picture and on a channel of an MRI, in this order, and how often each
EFFECTS = (
    (gamma, 0.3),
    (blur, 0.2),
    (sharpen, 0.15),
    (add_noise, 0.5),
    (cutout, 0.1),
    (write_on, 0.1),
    (jpeg, 0.15),
)
MRI_EFFECTS = ((shade, 0.3), (gamma, 0.3), (soften, 0.2), (add_noise, 0.3))
