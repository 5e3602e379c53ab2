"""Head CT and CTA scans made from label maps, or from nothing at all, with their brain masks.

    python synthetic.py --preview files/preview.png [--labels DIR] [--necks DIR]
    python synthetic.py --sample results/demo/sample_cta.nii.gz
    python synthetic.py --download labelmaps
    python synthetic.py --tumours files/cases --count 12         # MRI with brain tumours
    python synthetic.py --tumours files/cases --layout 2023      # named as BraTS 2023 does

A label map says where each tissue lies in a head. Without one, a procedural phantom stands in.
How scans are made is told in synthesis/ct.py, and tumours in synthesis/tumour.py.
"""

import argparse
from pathlib import Path

import numpy as np

from common.download import fetch_label_maps
from common.errors import InputError, replacing, run
from common.report import draw_mask, make_sheet
from scan.picture import write_picture
from scan.views import VIEWS, WINDOW, normalise, stack
from synthesis.ct import make_scan, write_pair
from synthesis.head import find_label_maps
from synthesis.tumour import LAYOUTS, make_tumour, write_case, write_tumours

SAMPLE_SEED = 3  # of the sample that `make demo` masks, and of the page's


def write_preview(path: str | Path, label_maps=None, necks=None, count=12, seed: int = 0) -> None:
    """Draw a sheet of `count` scans with their masks: three views of each."""
    files, tiles = find_label_maps(label_maps), []
    for i in range(count):
        made = make_scan(seed + i, files[i % len(files)], necks)
        for view in VIEWS:
            pictures, masks = stack(made.hu, view), stack(made.mask, view)
            best = int(masks.sum((1, 2)).argmax())
            grey = (normalise(np.asarray(pictures[best]), WINDOW) * 255).astype(np.uint8)
            tiles.append(draw_mask(grey, np.asarray(masks[best])))
    with replacing(path) as temporary:
        write_picture(temporary, make_sheet(tiles, columns=6))


def write_sample(path: str | Path, seed: int = SAMPLE_SEED) -> Path:
    """Write a CTA of the phantom, and its mask as `<name>_mask`; return the mask's path.

    InputError when `path` does not end as a NIfTI file does.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path} is not a NIfTI file's name; let it end in .nii.gz")
    look = {"spacing": 0.9, "thickness": 0.9, "width": 230.0, "length": 240.0}
    return write_pair(make_scan(seed, plain=True, phase="arterial", **look), path)


def write_sample_case(folder: Path) -> None:
    """Write an MRI of the phantom with a tumour, its labels last: coarse, so as to be made soon."""
    write_case(make_tumour(SAMPLE_SEED, spacing=1.5), folder, LAYOUTS["plain"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preview", metavar="PNG", help="draw a sheet of samples with their masks")
    add("--sample", metavar="NIFTI", help="write one CTA of the phantom, and its mask beside it")
    add("--download", metavar="DIR", help="fetch SynthSeg's 20 head label maps into DIR")
    add("--tumours", metavar="DIR", help="write MRI cases with brain tumours, as BraTS has them")
    years = "names and label values of the cases: those of a year of BraTS (default: %(default)s)"
    add("--layout", default="plain", choices=list(LAYOUTS), help=years)
    add("--count", type=int, default=12, help="number of cases (default: %(default)s)")
    add("--labels", metavar="DIR", help="head label maps to make samples from; else phantoms")
    add("--necks", metavar="DIR", help="head-and-neck CTs to continue them below the skull")
    add("--seed", type=int, help=f"of the first sample (default: 0; of --sample {SAMPLE_SEED})")
    args = parser.parse_args(argv)
    if not (args.preview or args.sample or args.download or args.tumours):
        raise InputError("nothing to do; give --preview, --sample, --download or --tumours")
    if args.count < 1 or (args.seed or 0) < 0:
        raise InputError("--count is 1 or more, --seed 0 or more")
    seed = args.seed or 0
    if args.download:
        print(f"{args.download}: {len(fetch_label_maps(args.download))} label maps")
    if args.preview:
        write_preview(args.preview, args.labels, args.necks, seed=seed)
        print(args.preview)
    if args.sample:
        chosen = SAMPLE_SEED if args.seed is None else args.seed
        print(args.sample, write_sample(args.sample, chosen), sep="\n")
    if args.tumours:
        made = write_tumours(args.tumours, args.count, args.labels, seed, args.layout)
        print(*made, sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
