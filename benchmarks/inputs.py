"""The scans and the picture that run.py times, made from a phantom; the same on every machine.

    python benchmarks/inputs.py files/benchmarks

png.png         a slice of 512 x 512, windowed
head.nii.gz     a head CT of 512 x 512 x 35, 5 mm
cta.nii.gz      a head CTA of 512 x 512 x 300, 0.6 mm
neck.nii.gz     a CTA of head and neck, 512 x 512 x 600, 0.6 mm
heads/          twenty head CTs, which differ in their noise
template*.nii.gz  another phantom with its mask, for registration
"""

import sys
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
from scipy.ndimage import uniform_filter1d

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import replacing, run  # noqa: E402
from scan.picture import write_picture  # noqa: E402
from scan.views import normalise, stack  # noqa: E402
from synthesis import ct  # noqa: E402
from synthesis.ct import at_heights  # noqa: E402

SIZE, FIELD, LENGTH, STEP = 512, 230.0, 360.0, 1.2  # pixels, mm, mm, mm of the phantom
SCANS = {"head": (35, 5.0), "cta": (300, 0.6), "neck": (600, 0.6)}  # slices, mm
HEADS = 20
LOOK = {"plain": True, "spacing": STEP, "width": FIELD, "thickness": STEP, "above": 8.0}


def make(folder: Path) -> None:
    """Make what the folder lacks."""
    if (folder / "png.png").exists():  # made last
        return
    phantom = ct.make_scan(3, phase="arterial", length=LENGTH, noise=0.01, **LOOK)
    for name, (count, thickness) in SCANS.items():
        write(folder / f"{name}.nii.gz", enlarge(phantom.hu, count, thickness, 0), thickness)
    for number in range(HEADS):
        head = enlarge(phantom.hu, *SCANS["head"], number)
        write(folder / "heads" / f"head_{number:02d}.nii.gz", head, SCANS["head"][1])
    template = ct.make_scan(4, phase="arterial", length=200.0, noise=5.0, **LOOK)
    write(folder / "template.nii.gz", np.rint(template.hu).astype(np.int16), STEP, STEP)
    write(folder / "template_mask.nii.gz", template.mask.astype(np.uint8), STEP, STEP)
    middle = stack(enlarge(phantom.hu, *SCANS["head"], 0), "axial")[22]
    with replacing(folder / "png.png") as path:
        write_picture(path, np.uint8(255 * normalise(middle, (-100, 600))))


def enlarge(hu: np.ndarray, count: int, thickness: float, seed: int) -> np.ndarray:
    """`count` slices of 512 x 512, int16 HU, from the top of the phantom downwards, with noise."""
    rng = np.random.default_rng(seed)
    thick = uniform_filter1d(hu, max(1, round(thickness / STEP)), axis=2)
    heights = hu.shape[2] - 0.5 - (np.arange(count)[::-1] + 0.5) * thickness / STEP
    slices = at_heights(thick, heights)
    x = np.arange(SIZE) - (SIZE - 1) / 2
    outside = x**2 + x[:, None] ** 2 > (SIZE / 2) ** 2  # of the round field of view
    scan = np.empty((SIZE, SIZE, count), np.int16, order="F")
    for k in range(count):
        picture = cv2.resize(slices[..., k], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        grain = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE), np.float32), (0, 0), 0.8)
        picture += 10 / grain.std() * grain
        scan[..., k] = np.where(outside, -1024, np.clip(np.rint(picture), -1024, 3071))
    return scan


def write(path: Path, array: np.ndarray, thickness: float, pixel: float = FIELD / SIZE) -> None:
    image = nib.Nifti1Image(array, np.diag([pixel, pixel, thickness, 1.0]))
    with replacing(path) as temporary:
        nib.save(image, temporary)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 0
    folder = Path(sys.argv[1])
    make(folder)
    return 0


if __name__ == "__main__":
    run(main)
