"""Corrections: masks that people have mended, beside the mask that was predicted.

    entry = save_correction(folder / "scan.json", mask_bytes, "AB")  # NIfTI, on the mask's grid
    entry = undo_correction(folder / "scan.json")                    # the newest counts no more

No mask is ever written over. A result's JSON lists its corrections, newest last, once their files
are whole. They are a person's work: a new prediction of the same scan keeps them.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib

from common.errors import InputError, explained, printable, replacing
from common.files import checksum, read_json, write_json
from predict.manifest import tell_time
from scan.nib import nib
from scan.volume import find_slice_axis

MOST_VOXELS = 1 << 29  # of a mask: as the largest scan that the page takes (server/uploads.py)
MOST_HEADER = 1 << 24  # bytes before a mask's voxels. A round number
MOST_WHO = 80  # characters of a name. A round number
CLOSE = 1e-3  # mm by which two grids may differ: a float32 holds less
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by the header's size in bytes
UNREADABLE = (AttributeError, ValueError, OSError, nib.spatialimages.HeaderDataError)
BRAIN_VALUE = 1  # of a brain mask, beside 0


class Outdated(InputError):
    """Somebody else has changed the result meanwhile; `status` is what HTTP calls that."""

    status = 409


def save_correction(json_path: Path, mask: bytes, who: str, seen: str | None = None) -> dict:
    """Write a corrected mask beside a result's mask, then into the result's JSON; return its entry.

    mask: a NIfTI file, packed or not, uint8, of the result's own grid and values. seen: checksum of
    the newest correction that `who` began with, "" for none; None asks for no check. The entry has

    file, sha256: of the new mask, which lies beside the predicted one.
    when, who: UTC, ISO 8601; a name, perhaps "".
    added_ml, removed_ml, relabelled_ml: mL that differ from the predicted mask; slices: how many
    slices of the file do. volume_ml, volumes_ml: of the whole, and of each label where it has any.
    predicted_sha256: checksum of the predicted mask; scan: the fingerprint of what was masked.

    Raises InputError where the mask does not fit or cannot be written, Outdated where somebody else
    was quicker.
    """
    json_path = Path(json_path)
    with opened(json_path, seen) as (about, original):
        before = read_mask_file(original.read_bytes(), "the result's mask")
        after = read_mask_file(mask, "the corrected mask", before)
        check_values(after[1], about)
        newest = original.with_name(name_newest(about))
        last = before[1]
        if newest != original and newest.exists():
            last = read_mask_file(newest.read_bytes(), newest.name)[1]
        if np.array_equal(last, after[1]):
            raise InputError("the corrected mask is the same as before; nothing is saved")
        path = choose_file(original, "corrected")
        content = before[0].start + after[1].tobytes(order="F")
        write_durably(path, igzip.compress(content, mtime=0))
        entry = {
            "file": path.name,
            "sha256": checksum(path),
            "when": tell_time(),
            "who": printable(who)[:MOST_WHO],
            **compare(before[0], before[1], after[1], about.get("label_values") or {}),
            "predicted_sha256": checksum(original),
            "scan": describe_source(about),
        }
        add_entry(json_path, about, path, original, entry)
    return entry


def add_entry(json_path: Path, about: dict, path: Path, original: Path, entry: dict) -> None:
    """Name a correction that lies at `path` in the result's JSON; if that fails, remove it."""
    try:
        if about.get("bids"):
            write_sidecar(path, original, entry)
        change_json(json_path, about, [*about.get("corrections", ()), entry])
    except BaseException:
        for file in (path, find_sidecar(path)):
            file.unlink(missing_ok=True)
        raise


def undo_correction(json_path: Path, seen: str | None = None) -> dict:
    """Take the newest correction out of a result's JSON; return its entry.

    The file is kept, renamed from `…_corrected_…` to `…_undone_…`. `seen` and errors as in
    `save_correction`.
    """
    json_path = Path(json_path)
    with opened(json_path, seen) as (about, original):
        *kept, last = about.get("corrections") or [None]
        if last is None:
            raise InputError(f"{json_path.name} has no correction to take back")
        change_json(json_path, about, kept)
        path, undone = original.with_name(Path(last["file"]).name), choose_file(original, "undone")
        with explained(path):
            for old, new in ((path, undone), (find_sidecar(path), find_sidecar(undone))):
                if old.exists():
                    os.replace(old, new)
    return last | {"file": undone.name}


# ---------------------------------------------------------------- the result


@contextmanager
def opened(json_path: Path, seen: str | None) -> Iterator[tuple[dict, Path]]:
    """Yield what a result's JSON says, and its predicted mask, while nobody else may correct it.

    The lock is that of the mask: the JSON is replaced, and a folder cannot be locked on NFS.
    """
    original = find_mask(json_path.parent, read_json(json_path))
    try:
        file = os.open(original, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        raise InputError(f"{original}: {error.strerror}; its result cannot be corrected") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # of this opened file: threads wait for each other, too
        about = read_json(json_path)
        if find_mask(json_path.parent, about) != original:
            raise Outdated("the result has changed since you opened it; open it again")
        newest = (about.get("corrections") or [{"sha256": ""}])[-1]["sha256"]
        if seen is not None and seen != newest:
            raise Outdated("somebody has corrected this mask since you opened it; open it again")
        yield about, original
    finally:
        os.close(file)


def find_mask(folder: Path, about: dict) -> Path:
    """Where the mask lies that a result's JSON names: in its folder, or, of BIDS, beside that.

    Raises InputError where there is none in NIfTI, or it is said to lie elsewhere.
    """
    if not str(about.get("mask", "")).endswith(".nii.gz"):
        raise InputError(f"{folder.name} has no mask in NIfTI, and no other can be corrected")
    mask = folder / about["mask"]
    place, own = mask.parent.resolve(), folder.resolve()
    if place != own and not (about.get("bids") and place == own.parent):
        raise InputError(f"{folder.name} names a mask that lies elsewhere: {printable(mask)}")
    return place / mask.name


def name_newest(about: dict) -> str:
    """The file name of the newest correction, or of the predicted mask."""
    last = (about.get("corrections") or [{"file": about["mask"]}])[-1]
    return Path(last["file"]).name


def change_json(json_path: Path, about: dict, corrections: list[dict]) -> None:
    """Write a result's JSON with these corrections.

    Raises Outdated where it no longer says what `about` says: a new prediction has begun.
    """
    if read_json(json_path) != about:
        raise Outdated("the result was predicted again meanwhile; open it again")
    rest = {key: value for key, value in about.items() if key != "corrections"}
    write_json(json_path, rest | ({"corrections": corrections} if corrections else {}))


def describe_source(about: dict) -> list:
    """What a correction was drawn on: fingerprint of the input, number of series and volume."""
    wanted = about.get("wanted") or {}
    return [about.get("input_version"), wanted.get("series"), wanted.get("volume")]


def keep_corrections(folder: Path, before: dict, about: dict) -> dict:
    """What a new result's JSON says, with the corrections of the result `before` it.

    Those that were drawn on this scan still count, before the new mask. Of all others the files
    stay. Both are told in the notes.
    """
    earlier = before["corrections"]
    kept = [entry for entry in earlier if still_fits(folder, entry, about)]
    notes = list(about.get("notes", ()))
    if kept:
        notes.append(f"{kept[-1]['file']} is kept and counts, not the new mask: people drew it")
    if lost := [Path(entry["file"]).name for entry in earlier if entry not in kept]:
        notes.append(f"corrections of another scan no longer count; kept: {', '.join(lost)}")
    return about | {"notes": notes} | ({"corrections": kept} if kept else {})


def still_fits(folder: Path, entry: dict, about: dict) -> bool:
    """Whether a correction was drawn on the scan of a result, and has the grid of its mask."""
    if entry.get("scan") != describe_source(about):
        return False
    try:
        mask = find_mask(folder, about)
        drawn, new = (nib.load(mask.with_name(n)) for n in (Path(entry["file"]).name, mask.name))
    except (InputError, OSError, nib.filebasedimages.ImageFileError):
        return False
    return drawn.shape == new.shape and is_close(drawn.affine, new.affine)


# ---------------------------------------------------------------- masks


class MaskHeader:
    """The start of a mask's file, as bytes, and what it says of the grid."""

    def __init__(self, start: bytes, header: nib.Nifti1Header):
        self.start, self.shape = start, header.get_data_shape()
        self.affine = header.get_best_affine()

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_mask_file(
    content: bytes, name: str, like: tuple[MaskHeader, np.ndarray] | None = None
) -> tuple[MaskHeader, np.ndarray]:
    """The header of a NIfTI file of uint8, and its voxels in the file's order, (I, J, K).

    No more is unpacked than a mask can have. Raises InputError for another kind of file, and where
    the grid is not that of the mask `like`.
    """
    most = (like[1].size if like else MOST_VOXELS) + MOST_HEADER
    raw = unpack(content, most, name)
    header = read_header(raw, name)
    start, count = int(header["vox_offset"]), int(np.prod(header.get_data_shape(), dtype=object))
    if len(header.get_data_shape()) != 3 or header.get_data_dtype() != np.uint8:
        raise InputError(f"{name} is no volume of uint8")
    if not 0 < start <= MOST_HEADER or not 0 < count <= len(raw) - start:
        raise InputError(f"{name} is truncated or damaged")
    said = MaskHeader(raw[:start], header)
    if like and (said.shape != like[0].shape or not is_close(said.affine, like[0].affine)):
        raise InputError(f"{name} does not lie on the grid of the mask that was predicted")
    voxels = np.frombuffer(raw, np.uint8, count, start).reshape(said.shape, order="F")
    return said, voxels


def unpack(content: bytes, most: int, name: str) -> bytes:
    """A file's bytes, unpacked where they are packed; InputError for more than `most`."""
    try:
        if content[:2] == b"\x1f\x8b":
            content = igzip.IGzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    except (OSError, EOFError, isal_zlib.error) as error:
        raise InputError(f"{name} is truncated or damaged") from error
    if len(content) > most:
        raise InputError(f"{name} is larger than a mask on this grid can be")
    return content


def read_header(raw: bytes, name: str) -> nib.Nifti1Header:
    """The header at the start of a NIfTI file, whose values are stored as they are."""
    kind = HEADERS.get(int.from_bytes(raw[:4], "little")) or HEADERS.get(
        int.from_bytes(raw[:4], "big")
    )
    try:
        header = kind.from_fileobj(io.BytesIO(raw))
        slope, shift = header.get_slope_inter()
        header.get_best_affine()
    except UNREADABLE as error:
        raise InputError(f"{name} is no NIfTI file") from error
    if (slope, shift) not in ((1, 0), (None, None)):
        raise InputError(f"{name} has values that are scaled, which no mask has")
    return header


def is_close(affine: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(affine - other) <= CLOSE).all())  # False for what is no number


def check_values(voxels: np.ndarray, about: dict) -> None:
    """Raise InputError for a value that is neither 0 nor one of the result's mask."""
    values = sorted((about.get("label_values") or {"brain": BRAIN_VALUE}).values())
    is_known = np.zeros(256, bool)
    is_known[[0, *values]] = True
    if not is_known[voxels].all():
        said = ", ".join(map(str, [0, *values]))
        raise InputError(f"the corrected mask has values other than {said}")


def compare(
    grid: MaskHeader, before: np.ndarray, after: np.ndarray, labels: dict[str, int]
) -> dict:
    """What an entry says of the difference of two masks on a grid."""
    differs = before != after
    across = tuple(axis for axis in range(3) if axis != find_slice_axis(grid.affine))
    added, removed = (before == 0) & differs, (after == 0) & differs
    counts = np.bincount(after.ravel(order="K"), minlength=256)

    def measure(count: int) -> float:
        return round(float(count) * grid.voxel_ml, 3)

    number = {"added": np.count_nonzero(added), "removed": np.count_nonzero(removed)}
    number["relabelled"] = np.count_nonzero(differs) - sum(number.values())
    said = {f"{name}_ml": measure(count) for name, count in number.items()}
    said |= {
        "slices": int(np.count_nonzero(differs.any(axis=across))),
        "volume_ml": measure(counts[1:].sum()),
    }
    if labels:
        said["volumes_ml"] = {name: measure(counts[value]) for name, value in labels.items()}
    return said


# ---------------------------------------------------------------- files


def choose_file(original: Path, state: str) -> Path:
    """A free name beside a predicted mask: `x_corrected_mask.nii.gz`, `x_corrected_2_mask.nii.gz`.

    Of BIDS `…_desc-corrected_mask.nii.gz`, `…_desc-corrected2_mask.nii.gz`. `state` is corrected,
    or undone.
    """
    paths = (original.with_name(name) for name in list_names(original.name, state))
    return next(path for path in paths if not os.path.lexists(path))


def list_names(original: str, state: str) -> Iterator[str]:
    """The names that `choose_file` tries, in order."""
    named = re.fullmatch(r"(.+)_desc-[a-zA-Z0-9]+_(mask|dseg)\.nii\.gz", original)
    start = original.removesuffix(".nii.gz").removesuffix("_mask").removesuffix("_predicted")
    for number in itertools.count(1):
        more = "" if number == 1 else str(number)
        if named:
            yield f"{named[1]}_desc-{state}{more}_{named[2]}.nii.gz"
        else:
            yield f"{start}_{state}{more and '_'}{more}_mask.nii.gz"


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that the disk has before anything names it."""
    with replacing(path) as unfinished, open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def find_sidecar(mask: Path) -> Path:
    """The JSON of a mask in BIDS derivatives."""
    return mask.with_name(f"{mask.name.removesuffix('.nii.gz')}.json")


def write_sidecar(path: Path, original: Path, entry: dict) -> None:
    """Write a corrected mask's sidecar: that of the predicted one, where it still holds."""
    said = read_json(find_sidecar(original))
    same = ("Type", "Sources", "SpatialReference", "LabelValues")
    kept = {key: said[key] for key in same if key in said}
    told = {
        "Description": f"{original.name}, corrected by a person",
        "VolumeInMilliliters": entry["volume_ml"],
        "VolumesInMilliliters": entry.get("volumes_ml"),
    }
    write_json(find_sidecar(path), kept | {k: v for k, v in told.items() if v is not None})
