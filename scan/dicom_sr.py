"""What was measured of a DICOM scan's mask, as a DICOM structured report (TID 1500 of PS3.16).

write_dicom_sr(scan, "mask.dcm", "report.dcm", {"brain": 1350.2}, "check", ["the brain is cut: …"])
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from common import NAME, SOFTWARE
from common.errors import replacing
from scan.dicom_seg import derive_uid, describe_maker, explained_lack, read_headers
from scan.volume import Volume

if TYPE_CHECKING:
    import pydicom

# The standard has no code for a verdict on a mask: its "Quality Assessment" is one on images. A
# scheme of one's own begins with 99 (PS3.3 8.2)
SCHEME = "99BRAINREGION"
VERDICTS = {
    "ok": "OK: nothing speaks against the mask",
    "check": "Check: look at the mask before it is used",
    "failed": "Failed: the mask is not to be used",
}


def write_dicom_sr(
    volume: Volume,
    seg: str | Path,
    path: str | Path,
    volumes_ml: dict[str, float],
    verdict: str = "",
    comments: Iterable[str] = (),
) -> None:
    """Write the report on a mask of a DICOM scan that lies in the DICOM SEG `seg`.

    Each segment's volume is the one of its name in `volumes_ml`; volumes of other names are of
    several segments together. `verdict` (a key of VERDICTS, or "" for none) and `comments`, such as
    its reasons, are said of each segment. The device that has observed is this software, its serial
    number the version of the SEG's maker. The UIDs follow from the SEG's.

    It is a Comprehensive SR. Comprehensive 3D SR would add coordinates, which lie in the SEG, and
    fewer archives and viewers take it.
    Raises InputError as `write_dicom_seg` does.
    """
    import highdicom
    from pydicom import dcmread

    headers = read_headers(volume)
    mask = dcmread(seg, stop_before_pixels=True)
    uid = mask.SOPInstanceUID
    groups = [
        describe_segment(mask, segment, volumes_ml, verdict, comments)
        for segment in mask.SegmentSequence
    ]
    names = [segment.TrackingID for segment in mask.SegmentSequence]
    groups += [
        describe_region(name, ml, uid) for name, ml in volumes_ml.items() if name not in names
    ]
    with explained_lack(volume, headers):
        report = highdicom.sr.ComprehensiveSR(
            [*headers, mask],
            to_content(groups, mask.SoftwareVersions),
            *(derive_uid("SR series", uid), 301, derive_uid("SR", uid), 1),
            is_complete=True,
            series_description=f"{mask.SeriesDescription}: report",
            specific_character_set="ISO_IR 192",  # UTF-8: comments say mm²
            **describe_maker(mask.SoftwareVersions),
        )
    with replacing(path) as temporary:
        report.save_as(temporary)


def to_content(groups: list, version: str):
    """The whole content of a report (TID 1500) around its measurement groups."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derive_uid("device", version),
        name=NAME,
        manufacturer_name=NAME,
        model_name=SOFTWARE,
        serial_number=version,
    )
    context = sr.ObservationContext(sr.ObserverContext(codes.DCM.Device, device))
    return sr.MeasurementReport(context, codes.SCT.ImagingProcedure, groups)


def describe_segment(
    mask: pydicom.Dataset,
    segment: pydicom.Dataset,
    volumes_ml: dict[str, float],
    verdict: str,
    comments: Iterable[str],
):
    """The measurement group (TID 1411) of a segment of the SEG `mask`."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    series = mask.ReferencedSeriesSequence[0].SeriesInstanceUID
    source = sr.SourceSeriesForSegmentation(series)
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    kind, category = (
        sr.CodedConcept.from_dataset(found[0])
        for found in (
            segment.SegmentedPropertyTypeCodeSequence,
            segment.SegmentedPropertyCategoryCodeSequence,
        )
    )
    words = [("verdict", "Verdict on the mask"), (verdict, VERDICTS.get(verdict, ""))]
    codes_of_verdict = [sr.CodedConcept(code, SCHEME, meaning) for code, meaning in words if code]
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
        referenced_segment=sr.ReferencedSegment(
            mask.SOPClassUID, mask.SOPInstanceUID, segment.SegmentNumber, source_series=source
        ),
        finding_type=kind,
        finding_category=category,
        algorithm_id=sr.AlgorithmIdentification(
            algorithm.AlgorithmName, algorithm.AlgorithmVersion
        ),
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        measurements=[measure(volumes_ml[segment.TrackingID])],
        qualitative_evaluations=[sr.QualitativeEvaluation(*codes_of_verdict)] if verdict else None,
    )
    for comment in comments:
        text = sr.TextContentItem(codes.DCM.Comment, comment, sr.RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(text)
    return group


def describe_region(name: str, ml: float, uid: str):
    """The measurement group (TID 1501) of several segments together; `uid` is that of their SEG."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(derive_uid("region", uid, name), name),
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        measurements=[measure(ml)],
    )


def measure(ml: float):
    """A volume as a measurement (TID 300)."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    millilitre = sr.CodedConcept("mL", "UCUM", "milliliter")
    return sr.Measurement(codes.SCT.Volume, ml, millilitre)
