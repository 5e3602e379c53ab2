"""DICOM pixels and geometry: the head CT of a study as a Volume; one image alone as a slice.

volume = read_dicom(Path("study.zip"))                # or its series of a given number
hu, notes = read_slice("slice.dcm")                   # of an image without a place in space
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableSequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import THREADS
from common.errors import InputError
from scan.bounded import MOST_BYTES
from scan.dicom_files import (
    Files,
    Slice,
    choose_decoder,
    clean_text,
    count_words,
    join_names,
    list_true,
    parse_dicom,
)
from scan.dicom_series import Series, choose_series, explain_choice, find_series, find_slice
from scan.hu import LARGEST, PADDING, clean_values
from scan.nib import nib
from scan.volume import LPS_TO_RAS, POSITIONS, Volume, check_affine, to_volume

if TYPE_CHECKING:
    import pydicom

# Round numbers
DARK = -500  # HU: a brighter padding value is a header's error, and would erase tissue
TILTED = 0.1  # degrees: a smaller gantry tilt is rounding
EVEN = 0.02  # mm: slices that lie no farther off the mean step are evenly spaced
PLANNED = 0.25  # of the gaps: where more are multiples of the usual one, it was so planned
FEW = 12  # slices: in fewer, it is chance which are alike
UNLIKE = 1.25  # times: neighbours differ so much more than slices two apart where scans are mixed


def read_dicom(path: Path, number: int | None = None, is_hu: bool = True) -> Volume:
    """Read the series that is plainly the head CT, or the one of that number.

    If it need not be in HU (not `is_hu`), the series with the most slices is taken, as of an MRI.

    Without a number, it takes the next one as good when the best cannot be read.
    Raises InputError when no series can be read, or none has that number.
    """
    with Files(path) as files:
        found, notes = find_series(files)
        errors = []
        for series in choose_series(found, number, path, is_hu):
            try:
                volume = read_series(series, files, is_hu)
            except InputError as error:
                errors.append(error)
                notes.append(f"series {series} cannot be read and was passed over")
                continue
            if len(found) > 1:
                notes.append(explain_choice(series, found, number))
            return replace(volume, notes=(*notes, *volume.notes))
    raise errors[0]


def read_series(series: Series, files: Files, is_hu: bool = True) -> Volume:
    """Read a series as a Volume, with the NIfTI header that dcm2niix would give it.

    Raises InputError where half of its slices or more have no readable pixels.
    """
    array, slices, damaged = read_pixels(series, files, is_hu)
    notes = [*series.notes, *(note_kind(series) if is_hu else ()), *note_position(series)]
    if damaged:
        names = join_names([image.title for image in damaged], series.private)
        notes.append(f"{count_words(damaged, 'slice')} without readable pixels left out: {names}")
    notes += note_scale(series, slices)
    if are_two_scans(array):
        raise InputError(
            f"{files.path}: in series {series}, every second slice is more alike than neighbours: "
            "two scans are mixed that no tag tells apart; give the slices of one"
        )
    affine, shifts, found = find_geometry(slices, series.private)
    check_affine(affine, array.shape, files.path)
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_xyzt_units("mm")
    header.set_sform(affine, 1)
    # A qform knows no tilt; it serves readers that refuse one (ITK). The pictures' axes are kept
    upright = affine.copy()
    upright[:3, 2] = LPS_TO_RAS[:3, :3] @ slices[0].normal * np.linalg.norm(affine[:3, 2])
    header.set_qform(upright, 1)
    single = len({image.file for image in slices}) == 1
    whole = files.archive or (files.given and single)
    name = files.path.stem if whole else files.root.resolve().name
    about = (header, name, files.path, notes + found)
    return to_volume(array, affine, *about, shifts, slices=tuple(slices), is_hu=is_hu)


def has_no_place(path: str | Path) -> bool:
    """Whether a file is a single CT image that has no place in space, by its header alone.

    Such are the slices that de-identification or a conversion left without orientation, position
    or spacing.
    """
    with Files(Path(path)) as files:
        return find_slice(files) is not None


def read_slice(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The HU (H, W), float32, of a CT image that has no place in space, and notes on it.

    Raises InputError for any other file, and for an image without readable pixels.
    """
    with Files(Path(path)) as files:
        series = find_slice(files)
        if series is None:
            raise InputError(f"{path} is not a single CT image without a place in space")
        array, slices, _ = read_pixels(series, files)
    lacks = f"the header has no {slices[0].missing}: taken as a slice"
    hu, cleaned = clean_values(np.ascontiguousarray(array[:, ::-1, 0].T))
    notes = (lacks, *note_kind(series), *note_scale(series, slices), *cleaned)
    return hu.astype(np.float32), notes


# ---------------------------------------------------------------- pixels


def read_pixels(
    series: Series, files: Files, is_hu: bool = True
) -> tuple[np.ndarray, list[Slice], list[Slice]]:
    """The HU (I, J, K) of a series (values if not `is_hu`), its slices, and the unreadable ones.

    I runs along a picture's rows, J up its columns (as dcm2niix stores it), K along the normal.
    Padding is min(PADDING). Fewer than half of the slices are unreadable.
    """
    slices = series.slices
    rows, columns = slices[0].size
    if 2 * len(slices) * rows * columns > MOST_BYTES:
        raise InputError(f"{files.path}: series {series} is larger than memory; give a part of it")
    scales = [image.scale or (1.0, 0.0) for image in slices]
    stored_as, kind, number, limits = choose_types(scales, is_hu)
    stack = np.empty((len(slices), rows, columns), stored_as)
    frames = {}
    for n, image in enumerate(slices):
        frames.setdefault(image.file, []).append(n)
    bad, errors = set(), {}

    def fill(name: str) -> None:
        left = list(frames[name])
        try:
            wanted = [slices[n].frame for n in left]
            for stored, padded in read_frames(files, name, wanted):
                slope, intercept = map(number, scales[left[0]])
                hu = stored.astype(kind) * slope + intercept
                padded &= hu < DARK
                hu[padded] = np.minimum(hu[padded], min(PADDING))
                stack[left[0]] = np.clip(hu, *limits)[::-1]
                left.pop(0)
            if left:
                raise ValueError("it holds fewer frames than its header says")
        except Exception as error:
            errors[name] = error
        bad.update(left)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, frames))
    if 2 * len(bad) >= len(slices):
        name, reason = (clean_text(text, series.private) for text in min(errors.items()))
        raise InputError(f"{files.path}: {name} has no readable pixels ({reason}); export it again")
    good = [n for n in range(len(slices)) if n not in bad]
    stack = stack[good] if bad else stack
    return stack.T, [slices[n] for n in good], [slices[n] for n in sorted(bad)]


def choose_types(
    scales: list[tuple[float, float]], is_hu: bool = True
) -> tuple[type, type, type, tuple]:
    """Types of a stack, of its reckoning and of slope and intercept; the limits of its values.

    int16, unless slopes are no whole numbers or what is no HU or a large intercept may lead beyond.
    """
    whole = all(value.is_integer() for scale in scales for value in scale)
    kind, number = (np.int32, int) if whole else (np.float32, np.float32)
    if not is_hu or any(abs(intercept) > 1 << 14 for _, intercept in scales):
        return kind, kind, number, (-LARGEST, LARGEST)
    return np.int16 if whole else kind, kind, number, (-32768, 32767)


def read_frames(
    files: Files, name: str, frames: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stored values (rows, columns) of a file's frames, decompressed, and where padding lies."""
    from pydicom.pixels import iter_pixels

    with files.open(name) as file:
        data = parse_dicom(file)
    how = {"decoding_plugin": choose_decoder(data)}
    data.pixel_array_options(**how)
    single = data.get("NumberOfFrames", 1) in (None, 1)
    for stored in [data.pixel_array] if single else iter_pixels(data, indices=frames, **how):
        yield stored, find_padding(data, stored)


def find_padding(header: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """Where the header says that there is no image (PS3.3 C.7.5.1.1.2)."""
    value = header.get("PixelPaddingValue")
    if value is None or isinstance(value, MutableSequence):
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit", value)
    # Some writers give a signed value in the unsigned type
    low, high = sorted(np.array([value, limit], np.int64).astype(stored.dtype).tolist())
    return (stored >= low) & (stored <= high)


def are_two_scans(array: np.ndarray) -> bool:
    """Whether slices (I, J, K) are more like those after the next than like the next."""
    if array.shape[2] < FEW:
        return False
    sample = array[:: max(1, array.shape[0] // 32), :: max(1, array.shape[1] // 32)]
    sample = sample.astype(np.float32)
    apart = [np.abs(sample[..., n:] - sample[..., :-n]).mean() for n in (1, 2)]
    return bool(apart[0] > UNLIKE * apart[1])


# ---------------------------------------------------------------- geometry


def find_geometry(
    slices: list[Slice], private: re.Pattern
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Affine (mean slice step) of the stored array, shifts of slices off it, and notes."""
    first, count = slices[0], len(slices)
    along, across = first.spacing
    row, column = np.reshape(first.cosines, (2, 3))
    origins = np.array([image.origin for image in slices])
    normal = first.normal
    step = (origins[-1] - origins[0]) / (count - 1) if count > 1 else normal * first.thickness
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * across, -column * along, step], axis=1)
    affine[:3, 3] = origins[0] + column * along * (first.size[0] - 1)
    shifts = origins - origins[0] - np.arange(count)[:, None] * step
    notes = []
    with np.errstate(all="ignore"):
        tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > TILTED:
        notes.append(f"gantry tilt of {tilt:.1f} degrees")
    if np.abs(shifts).max() < EVEN:
        return LPS_TO_RAS @ affine, None, notes
    gaps = np.diff(origins @ normal)
    notes += note_missing(gaps, slices, private)
    notes.append(
        f"slice gaps are uneven ({gaps.min():.1f} to {gaps.max():.1f} mm); "
        f"files written have the mean, {gaps.mean():.2f} mm"
    )
    return LPS_TO_RAS @ affine, shifts @ LPS_TO_RAS[:3, :3], notes


# ---------------------------------------------------------------- notes


def note_kind(series: Series) -> list[str]:
    """What makes the series no head CT."""
    signs = list_true(series.unlike)
    return [s if s.startswith("the") else f"the series is {s}" for s in signs]


def note_scale(series: Series, slices: list[Slice]) -> list[str]:
    """A warning when it is not certain that the values are HU."""
    if all(image.scale for image in slices) or series.header.get("Modality") != "CT":
        return []
    return ["the header has no rescale slope and intercept: values taken as HU"]


def note_position(series: Series) -> list[str]:
    """A warning when PatientPosition is not that of the images' rows and columns."""
    said, first = series.header.get("PatientPosition"), series.slices[0]
    if said not in POSITIONS or not first.axial:
        return []
    cosines = np.reshape(first.cosines, (2, 3))
    main = np.abs(cosines).argmax(axis=1)
    towards = "".join(("LPS" if cosines[n, a] > 0 else "RAI")[a] for n, a in enumerate(main))
    seen = next((p for p, codes in POSITIONS.items() if codes[:2] == towards), None)
    if seen in (said, None):
        return []
    return [f"PatientPosition is {said} but the images lie as {seen}: the images are followed"]


def note_missing(gaps: np.ndarray, slices: list[Slice], private: re.Pattern) -> list[str]:
    """Gaps that are a multiple of the usual one, unless they are many: then it was so planned."""
    usual = np.median(gaps)
    times = np.rint(gaps / usual)
    lacking = np.flatnonzero((times > 1) & (np.abs(gaps / usual - times) < 0.1))
    if not 0 < len(lacking) <= max(1, PLANNED * len(gaps)):
        return []
    where = [f"between {slices[n].title} and {slices[n + 1].title}" for n in lacking]
    total = range(int(times[lacking].sum()) - len(lacking))
    return [
        f"{count_words(total, 'slice')} missing (a gap of {gaps[lacking].max():.1f} mm, "
        f"usual {usual:.1f}): {join_names(where, private)}"
    ]
