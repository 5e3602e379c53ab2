"""Random training samples: turned, flipped, scaled and moved, brightened, blurred and written on.

    image, mask = augment(*data.read_pair(pair), np.random.default_rng((seed, number)), size=160)
"""

import cv2
import numpy as np

from data import WINDOW, fit, normalise, outside

# centre and width in HU, each from … to: the windows that people export pictures in
EXPORT_WINDOWS = (
    (40, 40, 80, 80),  # brain
    (75, 75, 215, 215),  # subdural
    (35, 35, 35, 35),  # stroke
    (200, 300, 600, 800),  # CTA
    (50, 50, 350, 350),  # soft tissue
    (500, 700, 2000, 4000),  # bone
    (1024, 1024, 4095, 4095),  # all of 12 bits
)


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    size: int,
    window: tuple[float, float] = WINDOW,
) -> tuple[np.ndarray, np.ndarray]:
    """One random training sample of a picture (H, W; uint8 or float32 HU) and its mask.

    Returns float32 (size, size) in [0, 1] and a float32 mask (size, size) of 0 and 1. The same
    `rng` state gives the same sample.
    """
    image, mask = warp(image, mask, rng, size)
    if image.dtype == np.uint8:
        image = gain(normalise(image), rng)
    else:
        image = normalise(image, draw_window(image, rng, window))
        if rng.random() < 0.3:
            image = np.rint(image * 255) / np.float32(255)
    for effect, chance in EFFECTS:
        if rng.random() < chance:
            image = np.clip(effect(image, rng), 0, 1)
    return image, mask


def warp(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, size: int):
    """The picture and its mask (float32, 0 and 1) under one random affine map."""
    mask = mask.astype(np.float32) / max(1, mask.max())
    if max(image.shape) > 1.5 * size:  # warpAffine takes single points: average them first
        image, mask = fit(image, size, outside=outside(image))[0], fit(mask, size)[0]
    matrix, frame = draw_affine(image.shape, rng, size), (size, size)
    image = cv2.warpAffine(image, matrix, frame, borderValue=outside(image))
    return image, (cv2.warpAffine(mask, matrix, frame) >= 0.5).astype(np.float32)


def draw_affine(shape: tuple[int, int], rng: np.random.Generator, size: int) -> np.ndarray:
    """A (2, 3) map of an (H, W) picture into the square: turned, flipped, scaled, moved."""
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
    move = centre - linear @ ((np.array(shape[::-1]) - 1) / 2)
    return np.column_stack([linear, move])


def draw_window(hu: np.ndarray, rng: np.random.Generator, window: tuple) -> tuple[float, float]:
    """(lo, hi) in HU: half of the time about `window`, else about one that people export in."""
    if rng.random() < 0.5:
        centre, width = sum(window) / 2 + rng.uniform(-30, 30), window[1] - window[0]
    elif (index := rng.integers(len(EXPORT_WINDOWS) + 1)) < len(EXPORT_WINDOWS):
        a, b, c, d = EXPORT_WINDOWS[index]
        centre, width = rng.uniform(a, b), rng.uniform(c, d)
        centre += rng.uniform(-0.1, 0.1) * width
    else:
        low, high, *_ = cv2.minMaxLoc(hu)
        centre, width = (low + high) / 2, max(high - low, 1)
    width *= rng.uniform(0.85, 1.15)
    return centre - width / 2, centre + width / 2


def gain(image, rng):
    return np.clip(image * np.float32(rng.uniform(0.75, 1.3)) + np.float32(rng.uniform(-0.1, 0.1)),
                   0, 1)  # fmt: skip


def gamma(image, rng):
    return cv2.pow(image, float(np.exp(rng.uniform(-0.4, 0.4))))


def noise(image, rng):
    strength = np.float32(0.08 * rng.random() ** 2)
    return image + strength * rng.standard_normal(image.shape, np.float32)


def blur(image, rng):
    """Up to that of an averaged template: thin bones fade, and only their shape tells."""
    return cv2.GaussianBlur(image, (0, 0), np.exp(rng.uniform(np.log(0.4), np.log(2.5))))


def sharpen(image, rng):
    amount = rng.uniform(0.3, 1.5)
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.0), -amount, 0)


def cutout(image, rng):
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
    grey = np.rint(image * 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
    return normalise(cv2.imdecode(cv2.imencode(".jpg", grey, quality)[1], cv2.IMREAD_GRAYSCALE))


EFFECTS = (
    (gamma, 0.3), (blur, 0.2), (sharpen, 0.15), (noise, 0.5), (cutout, 0.1), (write_on, 0.1),
    (jpeg, 0.15),
)  # fmt: skip
