"""The mask of a DICOM scan as a DICOM SEG: a binary segment for each label, a frame a source slice.

write_dicom_seg(mask, scan, "mask.dcm", checksum)                       # one segment, brain
write_dicom_seg(labels, scan, "labels.dcm", checksum, names={1: "oedema"})
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import NAME, SOFTWARE
from common.card import BRAIN, CORE, ENHANCING, OEDEMA, SOLID, TUMOUR
from common.errors import InputError, replacing
from common.report import CYAN, label_colour
from scan.dicom_files import Files, clean_text, list_raw, match_patient, mend_commas, parse_dicom
from scan.volume import Volume, to_source_order

if TYPE_CHECKING:
    import pydicom

# A SEG must repeat these, empty where de-identification removed them (type 2 of PS3.3 C.7.1, C.7.2)
REPEATED = """
    PatientName PatientID PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber
    ReferringPhysicianName
"""


# What a label is, as keywords of pydicom's code dictionary (PS3.16): scheme, category, type. The
# types of a tumour's parts are those of CID 7168, Brain Lesion Segmentation Type With Necrosis.
# SNOMED CT (SCT) has no code for the two that are told by their enhancement: there CID 7168 takes
# the NCI Thesaurus. Anything else is some tissue: its name alone says which
ABNORMAL = "MorphologicallyAbnormalStructure"  # 49755003, of CID 7150
CODES = {
    BRAIN: ("SCT", "AnatomicalStructure", "Brain"),  # 12738006
    CORE: ("SCT", ABNORMAL, "Necrosis"),  # 6574001
    OEDEMA: ("SCT", ABNORMAL, "Edema"),  # 79654002
    SOLID: ("NCIt", ABNORMAL, "NonEnhancingLesion"),  # C81175
    ENHANCING: ("NCIt", ABNORMAL, "EnhancingLesion"),  # C113842
    TUMOUR: ("SCT", ABNORMAL, "Neoplasm"),  # 108369006, of CID 7151
}
OTHER = ("SCT", "Tissue", "Tissue")  # 85756007, of CID 7150


def write_dicom_seg(
    mask: np.ndarray,
    volume: Volume,
    path: str | Path,
    version: str = "unknown",
    options: str = "",
    names: dict[int, str] | None = None,
) -> None:
    """Write a canonical mask (X, Y, Z), bool, or labels from 1 with their `names`, as a DICOM SEG.

    Every source slice gets a frame in each segment, empty ones too, so that a reader finds the
    source's whole stack. `version` is that of the segments' maker, such as the model's checksum.
    Voxel for voxel it is what `write_mask` writes. As DICOM demands, the source's patient and
    study are copied into it: it is as confidential as the scan.
    Its UIDs follow from the source images, this software, `version` and `options`, in which all is
    named that changes the mask: the same prediction twice is one instance for an archive.
    Raises InputError, and writes nothing, for a scan that is no DICOM, that cannot be read again or
    that lacks what a SEG must repeat, and when `path` cannot be written.
    """
    import highdicom  # half a second, for this alone

    if volume.slices is None:
        raise InputError(f"{volume.path} is no DICOM scan, so no DICOM SEG can refer to it")
    headers = read_headers(volume)
    frames = to_frames(mask, volume, headers)
    words = list((names or {1: BRAIN}).values())
    uid = derive_uid("SEG", version, options, *words, *(image.uid for image in volume.slices))
    segments = [describe_segment(*pair, version, uid) for pair in enumerate(words, 1)]
    label, what = ("LABELS", "Tumour labels") if names else ("BRAIN", "Brain mask")
    content = {"content_label": label, "content_description": f"{what}, made automatically"}
    content |= {"series_description": what, "omit_empty_frames": False}
    with explained_lack(volume, headers):
        result = highdicom.seg.Segmentation(
            *(headers, frames, "BINARY", segments),
            *(derive_uid("series", uid), 300, uid, 1),
            **describe_maker(version),
            **content,
        )
    with replacing(path) as temporary:
        result.save_as(temporary)


def describe_maker(version: str) -> dict[str, str]:
    """What a DICOM object says of the software that has made it, and of the network's `version`."""
    about = {"manufacturer": NAME, "manufacturer_model_name": SOFTWARE}
    return about | {"software_versions": version, "device_serial_number": "0"}


def derive_uid(kind: str, *about: str) -> str:
    """A UID that follows from this software, a `kind` of thing and what is said `about` it."""
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=["\n".join((SOFTWARE, kind, *about))])


@contextmanager
def explained_lack(volume: Volume, headers: list[pydicom.Dataset]) -> Iterator[None]:
    """Turn what highdicom raises for want of an attribute into an InputError; hide its warnings,
    which name the patient."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = clean_text(error, match_patient(headers))
        raise InputError(
            f"{volume.path} lacks what a DICOM SEG must repeat ({reason}); take --format nii"
        ) from error


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
                if header.get("DeidentificationMethod") == "":  # a SEG must not repeat it empty
                    header.DeidentificationMethod = "not stated"
            except Exception as error:  # pydicom may raise anything for a damaged file
                raise InputError(
                    f"{volume.path} has changed since it was read; run again"
                ) from error
            headers.append(header)
    return headers


def to_frames(mask: np.ndarray, volume: Volume, headers: list[pydicom.Dataset]) -> np.ndarray:
    """A canonical mask (X, Y, Z) as uint8 frames (frames, rows, columns) of the source's files."""
    pictures = to_source_order(mask, volume).astype(np.uint8).T[:, ::-1]
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        return pictures
    if len(headers) > 1:
        raise InputError(f"{volume.path} is in {len(headers)} multi-frame files; take --format nii")
    frames = np.zeros((int(headers[0].NumberOfFrames), *pictures.shape[1:]), np.uint8)
    frames[[image.frame for image in volume.slices]] = pictures
    return frames


def describe_segment(number: int, name: str, version: str, uid: str):
    """highdicom's description of a segment of the SEG `uid`."""
    import highdicom
    from pydicom.sr.codedict import codes

    scheme, category, kind = CODES.get(name, OTHER)
    is_brain = name == BRAIN
    colour = highdicom.color.CIELabColor.from_rgb(*(CYAN if is_brain else label_colour(number)))
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "Brain mask" if is_brain else "Tumour labels", codes.DCM.ArtificialIntelligence, version
    )
    return highdicom.seg.SegmentDescription(
        number,
        name.capitalize(),
        getattr(codes.SCT, category),
        getattr(getattr(codes, scheme), kind),
        "AUTOMATIC",
        algorithm,
        tracking_uid=derive_uid("segment", uid, str(number)),
        tracking_id=name,
        anatomic_regions=None if is_brain else [codes.SCT.Brain],
        display_color=colour,
    )
