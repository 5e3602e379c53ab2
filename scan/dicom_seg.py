"""The mask of a DICOM scan as a DICOM SEG: one binary segment, brain, a frame a source slice.

write_dicom_seg(mask, scan, "mask.dcm", checksum)
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import NAME, VERSION
from common.errors import InputError, replacing
from scan.dicom_files import Files, clean_text, list_raw, match_patient, mend_commas, parse_dicom
from scan.volume import Volume, to_source_order

if TYPE_CHECKING:
    import pydicom

# A SEG must repeat these, empty where de-identification removed them (type 2 of PS3.3 C.7.1, C.7.2)
REPEATED = """
    PatientName PatientID PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber
    ReferringPhysicianName
"""


def write_dicom_seg(
    mask: np.ndarray, volume: Volume, path: str | Path, version: str = "unknown"
) -> None:
    """Write a canonical mask (X, Y, Z) as a DICOM SEG, or not at all.

    Every source slice gets its frame, empty ones too, so that a reader finds the source's whole
    stack. The segment is SNOMED CT 12738006 (brain) of 123037004 (anatomical structure), as in
    DICOM PS3.16, made automatically; `version` is that of its maker, such as the model's checksum.
    Voxel for voxel it is what `write_mask` writes. As DICOM demands, the source's patient and
    study are copied into it: it is as confidential as the scan.
    Raises InputError for a scan that is no DICOM, that cannot be read again or that lacks what a
    SEG must repeat, and when `path` cannot be written.
    """
    import highdicom  # half a second, for this alone

    if volume.slices is None:
        raise InputError(f"{volume.path} is no DICOM scan, so no DICOM SEG can refer to it")
    headers = read_headers(volume)
    frames = to_frames(mask, volume, headers)
    segment = describe_segment(version)
    numbers = (highdicom.UID(), 300, highdicom.UID(), 1)  # of the series, and of the SEG in it
    maker = dict(manufacturer="Brain mask", manufacturer_model_name=f"{NAME} {VERSION}")
    maker |= dict(software_versions=version, device_serial_number="0")
    content = dict(content_label="BRAIN", content_description="Brain mask, made automatically")
    content["omit_empty_frames"] = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom would print the patient's name
            result = highdicom.seg.Segmentation(
                headers, frames, "BINARY", [segment], *numbers, **maker, **content
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = clean_text(error, match_patient(headers))
        raise InputError(
            f"{volume.path} lacks what a DICOM SEG must repeat ({reason}); take --format nii"
        ) from error
    with replacing(path) as temporary:
        result.save_as(temporary)


def read_headers(volume: Volume) -> list[pydicom.Dataset]:
    """The headers of a scan's files, read once more."""
    headers = []
    with Files(volume.path) as files:
        for name in dict.fromkeys(image.file for image in volume.slices):
            try:
                with files.open(name) as file:
                    header = parse_dicom(file, with_pixels=False)
                mend_commas(header, list_raw(header))
                for tag in REPEATED.split():
                    header.setdefault(tag, "")
            except Exception as error:  # pydicom may raise anything for a damaged file
                raise InputError(
                    f"{volume.path} has changed since it was read; run again"
                ) from error
            headers.append(header)
    return headers


def to_frames(mask: np.ndarray, volume: Volume, headers: list[pydicom.Dataset]) -> np.ndarray:
    """A canonical mask (X, Y, Z) as bool frames (frames, rows, columns) of the source's files."""
    pictures = to_source_order(mask, volume).astype(bool).T[:, ::-1]
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        return pictures
    if len(headers) > 1:
        raise InputError(f"{volume.path} is in {len(headers)} multi-frame files; take --format nii")
    frames = np.zeros((int(headers[0].NumberOfFrames), *pictures.shape[1:]), bool)
    frames[[image.frame for image in volume.slices]] = pictures
    return frames


def describe_segment(version: str):
    """highdicom's description of the one segment."""
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        "Brain mask", codes.DCM.ArtificialIntelligence, version
    )
    structure, brain = codes.SCT.AnatomicalStructure, codes.SCT.Brain
    return highdicom.seg.SegmentDescription(1, "Brain", structure, brain, "AUTOMATIC", algorithm)
