"""How good the masks are, on scans that no training has seen.

    python benchmarks/accuracy.py synthetic --labels DIR   # 20 scans of held-out label maps
    python benchmarks/accuracy.py cut --labels DIR         # 16 that begin deep in the skull
    python benchmarks/accuracy.py slices --labels DIR      # their slices as PNG, turned, windowed
    python benchmarks/accuracy.py axes --labels DIR        # one scan in 6 axis orders and 8 flips
    python benchmarks/accuracy.py real --data DIR          # slices and scans with drawn masks
    python benchmarks/accuracy.py unmasked --data DIR      # real scans with what is known of them

The scans are made once, into --cache. DIR of --labels holds label maps kept out of training. Below
DIR of `real` lie folders images/ and masks/ of pictures of the same names (rows.csv beside them
names the first row of a slice that is not judged; inside/ in place of masks/ marks blood in the
skull), or X.nii.gz with X_mask.nii.gz and perhaps X_vessels.nii.gz. DIR of `unmasked` holds
ct/scct.nii.gz and ct/scct_mask.nii.gz (github neurolabusc/Clinical), ct/ge_dicom
(github neurolabusc/dcm_qa_ct), trunk/example_ct.nii.gz (github wasserth/TotalSegmentator, tests)
and headneck/X_ct.nii.gz with X_oar.nii.gz (github ababier/open-kbp; 1 is the brainstem).
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2  # noqa: E402

from common.errors import InputError, run  # noqa: E402
from metrics import surface_scores  # noqa: E402
from predict.brain import predict, read  # noqa: E402
from predict.network import MODEL, Network  # noqa: E402
from predict.picture import find_mask  # noqa: E402
from scan import cases  # noqa: E402
from scan.mask import dice  # noqa: E402
from scan.mask_picture import read_mask_picture  # noqa: E402
from scan.nifti import read_mask  # noqa: E402
from scan.picture import read_picture  # noqa: E402
from scan.read import read_volume  # noqa: E402
from scan.views import VIEWS, normalise, stack  # noqa: E402
from synthesis import ct  # noqa: E402
from synthesis.head import find_label_maps  # noqa: E402

# Five kinds of scan for each label map: what synthetic.py would otherwise draw.
KINDS = {
    "thin CTA": {"phase": "arterial", "thickness": 0.7, "tilt": 8.0, "plain": True},
    "thick plain": {"phase": "none", "thickness": 5.0, "tilt": 8.0, "plain": True},
    "turned CTA": {"phase": "arterial", "thickness": 1.5, "tilt": 180.0},
    "venous, disease": {"phase": "venous", "thickness": 1.0, "tilt": 25.0},
    "thick, disease": {"phase": "none", "thickness": 5.0, "tilt": 25.0},
}
# Scans of a neck, which begin so many mm below the vertex
CUT = {
    f"cut at {mm} mm": {
        "phase": phase,
        "thickness": thickness,
        "above": -mm,
        "tilt": 8.0,
        "plain": True,
    }
    for mm, phase, thickness in (
        (50, "arterial", 1.0),
        (70, "none", 3.0),
        (90, "arterial", 1.0),
        (110, "none", 3.0),
    )
}
FIELD = {
    "spacing": 0.6,
    "width": 225.0,
    "length": 190.0,
    "above": 8.0,
    "sharpness": 0.55,
    "pixel": 0.0,
}
BONE = 150.0  # HU: what is brighter and outside a drawn mask is bone
FLIPS = ("RAS", "LPS", "LPI", "RAI")  # head first and feet first, supine and prone
PNG_WINDOWS = {"brain": (0, 80), "CTA": (-100, 600), "bone": (-500, 1500), "whole": (-1024, 3071)}


def held_out(args) -> list[tuple[str, Path]]:
    """Kind and path of every held-out scan; makes those that the cache lacks."""
    kinds, folder = KINDS, str(args.seed)
    if args.test == "cut":
        kinds, folder = CUT, f"{args.seed}_cut"
    scans = []
    for number, path in enumerate(find_label_maps(args.labels)):
        for kind, (name, look) in enumerate(kinds.items()):
            target = Path(args.cache, folder, f"{cases.get_stem(path)}_{kind}.nii.gz")
            if not target.exists():
                make(path, args.seed + 10 * number + kind, look, FLIPS[(number + kind) % 4], target)
            scans.append((name, target))
    return scans[:: args.every]


def make(labels: Path, seed: int, look: dict, axes: str, target: Path) -> None:
    """Write a scan as its scanner stored it, with mask and vessels, in the axis order `axes`."""
    made = ct.make_scan(seed, labels, stored=True, **FIELD | {"plain": False} | look)
    target.parent.mkdir(parents=True, exist_ok=True)
    for array, suffix in ((made.mask, "_mask"), (made.vessels, "_vessels"), (made.hu, "")):
        kind = np.int16 if suffix == "" else np.uint8
        image = nib.Nifti1Image(np.rint(array).astype(kind), made.affine)
        image = image.as_reoriented(
            nib.orientations.ornt_transform(
                nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
            )
        )
        nib.save(image, str(target).replace(".nii.gz", f"{suffix}.nii.gz"))


def beside(path: Path, suffix: str, scan) -> np.ndarray:
    """The mask (bool, canonical) whose name is the scan's with `suffix`."""
    return read_mask(str(path).replace(".nii.gz", f"{suffix}.nii.gz"), scan)


def on_synthetic(network: Network, args) -> pd.DataFrame:
    """Dice, HD95, NSD, vessels kept and view agreement of each held-out scan."""
    rows = []
    for kind, path in tqdm(held_out(args)):
        scan = read_volume(path)
        truth, vessels = beside(path, "_mask", scan), beside(path, "_vessels", scan)
        result = predict(scan, network)
        row = {"scan": path.name, "kind": kind, "Dice": dice(truth, result.mask)}
        row |= surface_scores(truth, result.mask, scan.spacing, tolerance=1.0)
        if (KINDS | CUT)[kind]["phase"] != "none":
            row["vessels kept"] = (vessels & result.mask).sum() / vessels.sum()
        row["least view agreement"] = min(result.agreement.values(), default=None)
        rows.append(row | {"bias %": 100 * (result.mask.sum() / truth.sum() - 1)})
    return pd.DataFrame(rows)


def on_slices(network: Network, args) -> pd.DataFrame:
    """Dice of slices as PNG pictures of 512 x 512, in four windows, turned and mirrored."""
    rows = []
    for kind, path in tqdm(held_out(args)):
        scan = read_volume(path)
        truth = beside(path, "_mask", scan)
        pictures, masks = stack(scan.hu, "axial"), stack(truth, "axial")
        for index in np.linspace(0, len(pictures) - 1, 8).astype(int):
            mask = cv2.resize(masks[index].astype(np.uint8), (512, 512)) > 0
            hu = cv2.resize(pictures[index].astype(np.float32), (512, 512))
            for window, limits in PNG_WINDOWS.items():
                grey = np.rint(255 * normalise(hu, limits)).astype(np.uint8)
                for turn, mirrored in itertools.product(range(4), (False, True)):
                    a, b = (np.rot90(x[:, ::-1] if mirrored else x, turn) for x in (grey, mask))
                    found = find_mask(np.ascontiguousarray(a), network)
                    rows.append(
                        {
                            "scan": path.name,
                            "kind": kind,
                            "window": window,
                            "slice": index,
                            "brain": int(b.sum()),
                            "Dice": dice(b, found),
                            "found": int(found.sum()),
                        }
                    )
    return pd.DataFrame(rows)


def on_axes(network: Network, args) -> pd.DataFrame:
    """Dice of one scan's masks in all axis orders and flips, each against the first."""
    _, path = held_out(args)[0]
    image = nib.load(path)
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        for order in tqdm(list(itertools.permutations(range(3)))):
            for flips in itertools.product((1, -1), repeat=3):
                turned = Path(folder) / "turned.nii"
                nib.save(image.as_reoriented(np.column_stack([order, flips])), turned)
                mask = predict(read_volume(turned), network).mask
                first = mask if first is None else first
                rows.append({"order": str(order), "flips": str(flips), "Dice": dice(first, mask)})
    return pd.DataFrame(rows)


def on_real(network: Network, args) -> pd.DataFrame:
    """Scores of every slice and scan below --data that lies there with a drawn mask."""
    rows = []
    for folder in sorted(p.parent for p in Path(args.data).rglob("images") if p.is_dir()):
        rows += drawn_slices(network, folder)
    for path in sorted(Path(args.data).rglob("*_mask.nii*")):
        scan = path.with_name(path.name.replace("_mask.nii", ".nii"))
        rows += [drawn_scan(network, scan, path)] if scan.exists() else []
    if not rows:
        raise InputError(f"{args.data} holds no images/ and masks/, no X.nii.gz and X_mask.nii.gz")
    return pd.DataFrame(rows)


def drawn_slices(network: Network, folder: Path) -> list[dict]:
    """A row for each picture of `folder`/images with one of that name in masks/ or inside/.

    Pictures of inside/ mark what surely lies in the skull, and nothing else. rows.csv may name the
    first row of a slice that is not judged.
    """
    rows = []
    until = {}
    if (folder / "rows.csv").exists():
        until = pd.read_csv(folder / "rows.csv", index_col=0).iloc[:, 0].to_dict()
    for path in sorted((folder / "images").iterdir()):
        found = find_mask(read_picture(path), network)
        judged = np.s_[: until.get(path.stem)]
        for kind in ("masks", "inside"):
            if not (drawn := folder / kind / path.name).exists():
                continue
            truth, mask = read_mask_picture(drawn)[judged], found[judged]
            kept = np.count_nonzero(truth & mask) / max(1, np.count_nonzero(truth))
            if kind == "inside":
                rows.append({"name": path.stem, "kind": "blood", "blood kept": kept})
            else:
                rows.append({"name": path.stem, "kind": view_of(path.stem)} | overlap(truth, mask))
    return rows


def view_of(name: str) -> str:
    """The view that a picture's name ends in, as `_ax`, `_coronal` or `_sagittal_0012`."""
    words = name.lower().split("_")
    return next(
        (view for view in VIEWS for word in words if len(word) > 1 and view.startswith(word)),
        "slice",
    )


def overlap(truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Dice of a mask, and what it has too much and too little, in shares of the truth."""
    size = max(1, np.count_nonzero(truth))
    return {
        "Dice": dice(truth, mask),
        "over": np.count_nonzero(mask & ~truth) / size,
        "under": np.count_nonzero(truth & ~mask) / size,
    }


def drawn_scan(network: Network, path: Path, drawn: Path) -> dict:
    """The row of a scan with its drawn mask, and with X_vessels where there are."""
    scan = read(path)
    truth, mask = read_mask(drawn, scan), predict(scan, network).mask
    row = {"name": path.name.split(".")[0], "kind": "scan"} | overlap(truth, mask)
    row |= surface_scores(truth, mask, scan.spacing, tolerance=1.0)
    # contrast is as bright: it counts as bone only outside the drawn mask
    row["bone"] = np.count_nonzero(mask & ~truth & (scan.hu > BONE)) / max(1, mask.sum())
    vessels = drawn.with_name(drawn.name.replace("_mask", "_vessels"))
    if vessels.exists():
        vessels = read_mask(vessels, scan) & truth
        row["vessels kept"] = np.count_nonzero(vessels & mask) / max(1, vessels.sum())
    return row


def on_unmasked(network: Network, args) -> pd.DataFrame:
    """What can be said of real scans without a mask: agreement, nothing below the brainstem."""
    folder, rows = Path(args.data), []
    scan = read_volume(folder / "ct/scct.nii.gz")
    truth, result = read_mask(folder / "ct/scct_mask.nii.gz", scan), predict(scan, network)
    rows.append(
        {
            "scan": "scct",
            "Dice": dice(truth, result.mask),
            **result.agreement,
            **surface_scores(truth, result.mask, scan.spacing, tolerance=2.0),
        }
    )
    head = predict(read_volume(folder / "ct/ge_dicom"), network)
    rows.append({"scan": "ge_dicom"} | head.agreement)
    trunk = predict(read_volume(folder / "trunk/example_ct.nii.gz"), network)
    rows.append({"scan": "trunk", "mL": float(trunk.mask.sum())})
    for path in tqdm(sorted((folder / "headneck").glob("*_ct.nii.gz"))):
        rows.append({"scan": path.name} | below_brainstem(network, path))
    return pd.DataFrame(rows)


def below_brainstem(network: Network, path: Path) -> dict:
    """Volume, lowest voxel against the brainstem's (mm, negative is below), mL of the mask that lie
    more than 10 mm below that, share outside the skull."""
    scan = read_volume(path)
    organs = nib.as_closest_canonical(nib.load(str(path).replace("_ct.", "_oar.")))
    stem = np.argwhere(np.asarray(organs.dataobj) == 1)
    result = predict(scan, network)
    found = np.argwhere(result.mask)
    row = {"mL": result.mask.sum() * np.prod(scan.spacing) / 1000, **result.agreement}
    if len(found) and len(stem):
        heights = (found[:, 2] - stem[:, 2].min()) * scan.spacing[2]
        row["below stem mm"] = heights.min()
        row["mL deeper"] = np.count_nonzero(heights < -10) * np.prod(scan.spacing) / 1000
    inside = inside_skull(scan)
    return row | {"outside skull": (result.mask & ~inside).sum() / max(1, result.mask.sum())}


def inside_skull(scan) -> np.ndarray:
    """The convex hull of bone in each axial slice: scans of 4 mm voxels have no closed skull."""
    inside = np.zeros(scan.hu.shape, np.uint8)
    for index in range(inside.shape[2]):
        bone = np.argwhere(scan.hu[..., index] > 150)[:, ::-1]
        if len(bone) > 2:
            slice_inside = np.zeros(inside.shape[:2], np.uint8)
            inside[..., index] = cv2.fillConvexPoly(slice_inside, cv2.convexHull(bone), 1)
    return inside > 0


TESTS = {
    "synthetic": on_synthetic,
    "cut": on_synthetic,
    "slices": on_slices,
    "axes": on_axes,
    "real": on_real,
    "unmasked": on_unmasked,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("test", choices=list(TESTS))
    add("--labels", metavar="DIR", help="label maps that the training did not see")
    add("--data", metavar="DIR", help="real scans")
    add("--every", type=int, default=1, metavar="N", help="every N-th scan alone (%(default)s)")
    add("--cache", default="files/held_out", help="where made scans are kept")
    add("--seed", type=int, default=5000, help="of the made scans (%(default)s)")
    add("--model", default=None, help="default: the shipped one")
    add("--csv", help="write every row there")
    args = parser.parse_args(argv)
    on_data = args.test in ("real", "unmasked")
    if on_data and not args.data:
        raise InputError("name the folder of real scans with --data DIR")
    if not on_data and not args.labels:
        raise InputError("name a folder of held-out label maps with --labels DIR")
    table = TESTS[args.test](Network(args.model or MODEL), args)
    if args.csv:
        table.to_csv(args.csv, index=False)
    show(args.test, table)
    return 0


def show(test: str, table: pd.DataFrame) -> None:
    """Print the table, or for the slices its means."""
    if test == "slices":
        large, bare = table[table.brain > 1000], table[table.brain == 0]
        print(large.groupby("window").Dice.describe()[["count", "mean", "min"]].round(4))
        print(f"mean Dice over slices with more than 1000 brain pixels: {large.Dice.mean():.4f}")
        print(
            f"slices without brain with more than 50 pixels found: {(bare.found > 50).mean():.2%}"
            f" of {len(bare)}"
        )
        return
    print(table.round(4).to_string(index=False, na_rep=""))
    if test == "real":
        print(in_one_line(table))
        return
    numbers = table.select_dtypes("number")
    print(numbers.agg(["mean", "min", "max"]).round(4).to_string())


def in_one_line(table: pd.DataFrame) -> str:
    """Mean and worst of each kind of real slice and scan."""
    parts = []
    for kind, rows in table.groupby("kind"):
        for score, worst in (
            ("Dice", "min"),
            ("bone", "max"),
            ("vessels kept", "min"),
            ("blood kept", "min"),
        ):
            if score in rows and rows[score].notna().any():
                mean, last = rows[score].agg(["mean", worst])
                parts.append(f"{kind} ({len(rows)}) {score} {mean:.4f} (worst {last:.4f})")
    return "; ".join(parts)


if __name__ == "__main__":
    run(main)
