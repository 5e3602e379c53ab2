"""The other ways to a mask that run.py times; each imports only what it needs.

    python benchmarks/ways.py WAY SCAN MASK

floor            reads the scan and writes a mask of zeros: nothing can be faster
classic          the U-Net of 31 million weights at 512 x 512, slice by slice; it predicts TIMED
                 slices and prints how long the others would take
deepbet, brainextractor, antspyx
                 packages of PyPI; brainextractor (BET) with the recipe for CT (0 to 100 HU,
                 smoothed, f = 0.01) at 1 mm; antspyx registers a template (SyN at 2 mm), which
                 must stand beside the scan
"""

import os
import sys
import time
from pathlib import Path

TIMED = 4  # slices


def floor(source: str, target: str) -> None:
    if os.path.isdir(source):
        for path in sorted(Path(source).iterdir()):
            floor(str(path), f"{target}_{path.name}")
        return
    if source.endswith(".png"):
        import cv2

        cv2.imwrite(target, 0 * cv2.imread(source, cv2.IMREAD_UNCHANGED))
        return
    import nibabel as nib
    import numpy as np

    scan = nib.load(source)
    hu = np.asarray(scan.dataobj)
    nib.save(nib.Nifti1Image(np.zeros(hu.shape, np.uint8), scan.affine), target)


def classic(source: str, target: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cv2
    import nibabel as nib
    import numpy as np

    from model import build_unet

    if source.endswith(".png"):
        slices = cv2.imread(source, cv2.IMREAD_UNCHANGED)[..., None] / np.float32(255)
    else:
        slices = np.asarray(nib.load(source).dataobj)
    network = build_unet((512, 512, 1), width=64, depth=4)
    mask = np.zeros(slices.shape, np.uint8)
    took = []
    for index in np.unique(np.linspace(0, slices.shape[2] - 1, TIMED).astype(int)):
        start = time.perf_counter()
        picture = np.clip((slices[..., index].astype(np.float32) + 200) / 1000, 0, 1)
        mask[..., index] = network.predict_on_batch(picture[None, ..., None])[0, ..., 0] > 0.5
        took.append(time.perf_counter() - start)
    if source.endswith(".png"):
        cv2.imwrite(target, mask[..., 0])
    else:
        nib.save(nib.Nifti1Image(mask, nib.load(source).affine), target)
    # the first is slower than the rest: TensorFlow prepares itself
    left = slices.shape[2] - len(took)
    print(f"weights {network.count_params()}; add {left * np.median(took):.3f} s")


def deepbet(source: str, target: str) -> None:
    from deepbet import run_bet

    run_bet([source], mask_paths=[target], no_gpu=True)


def brainextractor(source: str, target: str) -> None:
    import nibabel as nib
    import numpy as np
    from brainextractor import BrainExtractor
    from nibabel.processing import resample_from_to, resample_to_output
    from scipy.ndimage import gaussian_filter

    scan = nib.load(source)
    small = resample_to_output(scan, (1, 1, 1), order=1)  # it takes nothing but cubes
    soft = gaussian_filter(np.clip(small.get_fdata(dtype=np.float32), 0, 100), 1)
    bet = BrainExtractor(img=nib.Nifti1Image(soft, small.affine), bt=0.01)
    bet.run()
    mask = nib.Nifti1Image(bet.compute_mask().astype(np.uint8), small.affine)
    nib.save(resample_from_to(mask, scan, order=0), target)


def antspyx(source: str, target: str) -> None:
    import ants

    folder = Path(source).parent
    scan = ants.image_read(source)
    template, mask = (ants.image_read(str(folder / f"template{part}.nii.gz"))
                      for part in ("", "_mask"))  # fmt: skip
    small = ants.resample_image(scan, (2, 2, 2))
    found = ants.registration(small, template, "SyN")
    moved = ants.apply_transforms(scan, mask, found["fwdtransforms"], "nearestNeighbor")
    ants.image_write(moved.astype("uint8"), target)


WAYS = {way.__name__: way for way in (floor, classic, deepbet, brainextractor, antspyx)}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in WAYS:
        sys.exit(__doc__)
    WAYS[sys.argv[1]](*sys.argv[2:])
