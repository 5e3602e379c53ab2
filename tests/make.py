"""Makers that several test files share: files, cases, networks that know their answer."""

import base64
import gzip
import json
import re

import cv2
import keras
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
from nibabel import orientations
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

import data
import test as scoring
from dataset.read import read_dataset
from model import save_model
from scan.views import normalise

# ---------------------------------------------------------------- scans


def save_nifti(path, array, affine=None, sform=1, qform=1):
    """Write an array as a NIfTI file, HU as int16; return the path."""
    array = np.asarray(array)
    if array.dtype == np.float32 and np.isfinite(array).all():
        array = np.rint(array).astype(np.int16)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    image.header.set_sform(image.affine, sform)
    image.header.set_qform(image.affine, qform)
    nib.save(image, path)
    return path


# ---------------------------------------------------------------- an MRI case

VALUES = {"1": 1, "2": 2, "3": 4}
CARD = {
    "channels": ["flair", "t1ce"],
    "normalise": "minmax",
    "labels": {"1": "necrotic core", "2": "oedema", "3": "enhancing tumour"},
    "label_values": VALUES,
    "regions": {"whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": [3]},
}
FLAIR = {"brain": 100, 1: 900, 2: 900, 4: 900}
T1CE = {"brain": 400, 1: 100, 2: 400, 4: 900}


def layers():
    """A tumour (40, 48, 36) in layers around its core, off the middle; values 0, 1, 2, 4."""
    away = np.linalg.norm(np.indices((40, 48, 36)).T - (24, 20, 16), axis=-1).T
    return np.select([away < 3, away < 5, away < 9], [1, 4, 2], 0).astype(np.uint8)


def egg():
    away = (np.indices((40, 48, 36)).T - (19.5, 23.5, 17.5)) / (17, 21, 15)
    return (np.linalg.norm(away, axis=-1) < 1).T


def contrast(values, labels, brain):
    image = np.where(brain, values["brain"], 0)
    for label in (1, 2, 4):
        image[labels == label] = values[label]
    return image.astype(np.int16)


def write_case(folder, labels, brain, affine=None, order=None):
    """The files of a case, voxels stored in the order of a nibabel orientation."""
    affine = np.diag([1.0, 1, 1, 1]) if affine is None else affine
    arrays = {
        "flair": contrast(FLAIR, labels, brain),
        "t1ce": contrast(T1CE, labels, brain),
        "seg": labels,
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        if order is not None:
            there = affine @ orientations.inv_ornt_aff(np.array(order), array.shape)
            array = nib.apply_orientation(array, order)
        image = nib.Nifti1Image(array, affine if order is None else there)
        nib.save(image, folder / f"{folder.name}_{name}.nii.gz")
    return folder


def make_network(path, shape, card, sure=200.0):
    """Oedema is bright on FLAIR alone, of what else is bright there T1ce tells rim from core.

    The smaller `sure` is, the farther the probabilities are from 0 and 1.
    """
    inputs = keras.Input((*shape, 2))
    conv = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[len(shape)]
    decide = conv(4, 1, activation="softmax")
    network = keras.Model(inputs, decide(inputs))
    flair, t1ce = np.array([-1, 1, 1, 1]), np.array([0, -1, 0, 1])
    bias = np.array([0.5, -0.5 + 0.15, -0.5, -0.5 - 0.65])
    weights = np.stack([flair, t1ce]).reshape(*[1] * len(shape), 2, 4)
    decide.set_weights([sure * weights, sure * bias])
    save_model(network, path, CARD | card)
    return path


# ---------------------------------------------------------------- a dataset


def make_discs(folder, counts=(("Train", 40), ("Val", 10)), size=40):
    """PNG pairs of noisy discs, every fifth without one; names as data.py gives them."""
    rng = np.random.default_rng(0)
    for split, count in counts:
        for number in range(count):
            mask = np.zeros((size, size), np.uint8)
            if number % 5:
                centre = [int(place) for place in rng.integers(14, 26, 2)]
                cv2.circle(mask, centre, int(rng.integers(7, 12)), 255, -1)
            picture = (mask * 0.6 + rng.normal(50, 20, mask.shape)).clip(0, 255)
            name = f"case{split}{number // 5}_axial_{number:03d}.png"
            for kind, array in (("images", picture), ("masks", mask)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / split / kind / name), array.astype(np.uint8))
    return folder


# ---------------------------------------------------------------- DICOM

STUDY, FRAME = generate_uid(), generate_uid()
GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")


def header_of(storage=CTImageStorage) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.FrameOfReferenceUID = STUDY, FRAME
    data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "MRN4711", "19700131"
    data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    return data


def set_pixels(data, hu, slope=1, intercept=0, signed=True, bits=16):
    data.Rows, data.Columns = hu.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = int(signed)
    stored = np.rint((hu - intercept) / slope).astype(np.int16 if signed else np.uint16)
    data.PixelData = (stored.view(np.uint16) & np.uint16((1 << bits) - 1)).tobytes()


def write_dicom(
    folder,
    hu,
    places,
    row=(1, 0, 0),
    column=(0, 1, 0),
    spacing=(1.0, 1.0),
    *,
    scales=None,
    signed=True,
    bits=16,
    prefix="im",
    storage=CTImageStorage,
    coding=None,
    **tags,
):
    """hu (slices, Rows, Columns), places (slices, 3) LPS mm; file names shuffled."""
    folder.mkdir(exist_ok=True, parents=True)
    tags.setdefault("SeriesInstanceUID", generate_uid())
    names = np.random.default_rng(len(hu)).permutation(len(hu))
    for n, (image, place) in enumerate(zip(hu, places, strict=True)):
        data = header_of(storage)
        data.ImageOrientationPatient = [*map(float, row), *map(float, column)]
        data.ImagePositionPatient = [float(value) for value in place]
        data.PixelSpacing, data.SliceThickness = list(spacing), 2.0
        slope, intercept = scales[n] if scales else (1, 0)
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        set_pixels(data, image, slope, intercept, signed, bits)
        for name, value in tags.items():
            setattr(data, name, value)
        if coding:
            data.compress(coding, generate_instance_uid=False)
        data.save_as(folder / f"{prefix}{names[n]}", enforce_file_format=True)
    return folder


def without(folder, *tags):
    """The folder, its files without these tags."""
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        for tag in tags:
            del data[tag]
        data.save_as(file)
    return folder


# ---------------------------------------------------------------- scans of a head, and a dataset

SHAPE = (20, 26, 16)


def head(seed=0, shape=SHAPE):
    """A lopsided ball of 40 HU in a shell of 900 HU in air, and the ball as mask; (X, Y, Z)."""
    x, y, z = np.indices(shape) - (np.array(shape) / 2)[:, None, None, None]
    radius = np.sqrt((x / shape[0]) ** 2 + (y / shape[1]) ** 2 + ((z - 2) / shape[2]) ** 2)
    hu = np.select([radius < 0.3, radius < 0.4], [40, 900], -1000).astype(np.int16)
    hu += np.random.default_rng(seed).integers(-9, 10, shape, np.int16)
    hu[12:14, 18:20, 9:12] = 300  # unlike its mirror images
    return hu, radius < 0.3


def save_scan(array, path, affine=None, coded=True):
    """Write a scan or mask as int16 NIfTI; if not `coded`, it does not say how it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_nifti(path, array.astype(np.int16), affine, int(coded), int(coded))


def save_scans(folder, count=4, affine=None):
    """Heads case0.nii.gz … with case0_mask.nii.gz …"""
    for i in range(count):
        hu, mask = head(i)
        save_scan(hu, folder / f"case{i}.nii.gz", affine)
        save_scan(mask, folder / f"case{i}_mask.nii.gz", affine)
    return folder


def make_ct_set(scans, out, *more):
    """Run data.py on scans, small and in one process."""
    size = [] if "--dimensions" in more else ["--size", "32"]
    return data.main([str(scans), "--out", str(out), *size, "--workers", "1", *map(str, more)])


# ---------------------------------------------------------------- a dataset of MRI

BRAIN_SHAPE = (26, 30, 24)  # voxels of 1 mm


def mri(seed=0, outside=(0, 0), where=(0, 0, 0), values=(1, 2, 4)):
    """Two modalities (X, Y, Z, 2) of a ball of brain with a tumour of three parts, and its labels.

    `outside` is what the channels hold beyond the brain; `where` the tumour lies from its middle.
    """
    rng = np.random.default_rng(seed)
    at = np.indices(BRAIN_SHAPE) - (np.array(BRAIN_SHAPE) / 2)[:, None, None, None]
    brain = np.sqrt((at**2 / (np.array(BRAIN_SHAPE) ** 2)[:, None, None, None]).sum(0)) < 0.42
    away = np.sqrt(((at - np.array(where)[:, None, None, None]) ** 2).sum(0))
    core, enhancing, oedema = values[0], values[-1], values[1]
    labels = np.select([away < 2, away < 3.5, away < 6], [core, enhancing, oedema], 0)
    labels = (labels * brain).astype(np.uint8)
    flair = 300 + 200 * (labels > 0) + rng.normal(0, 9, BRAIN_SHAPE)
    t1ce = 900 + 500 * (labels == enhancing) + rng.normal(0, 30, BRAIN_SHAPE)
    image = np.where(brain[..., None], np.stack([flair, t1ce], -1), outside)
    return image.astype(np.float32), labels


def save_mri(folder, count=4, **how):
    """Cases case0/case0_flair.nii.gz …, stored left to right and front to back."""
    for index in range(count):
        image, labels = mri(index, **how)
        for name, array in (("flair", image[..., 0]), ("t1ce", image[..., 1]), ("seg", labels)):
            path = folder / f"case{index}" / f"case{index}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1, -1, 1, 1])), path)
    return folder


def save_mri_pictures(folder, cases=3, count=8):
    """Slices P0/P0_1.tif … of three channels, with P0/P0_1_mask.tif …"""
    for case in range(cases):
        image, labels = mri(case)
        seen = np.uint8(255 * normalise(image, "minmax"))
        for index in range(count):
            place = BRAIN_SHAPE[2] // 2 - count // 2 + index
            name = folder / f"P{case}" / f"P{case}_{index + 1}"
            name.parent.mkdir(parents=True, exist_ok=True)
            picture = np.dstack([seen[:, :, place], seen[:, :, place, :1]])  # three channels
            cv2.imwrite(f"{name}.tif", picture[..., ::-1])
            cv2.imwrite(f"{name}_mask.tif", np.uint8(255) * (labels[:, :, place] > 0))
    return folder


def make_mri_set(folder, out, *more):
    """Run data.py on MRI cases, small and in one process."""
    words = [str(folder), "--channels", "flair", "t1ce", "--workers", "1", "--out", str(out)]
    words += [] if "--dimensions" in more else ["--size", "30", "--spacing", "1"]
    return data.main([*words, *map(str, more)])


# ---------------------------------------------------------------- what is in a dataset


def all_pairs(folder):
    return [pair for pairs in read_dataset(folder).values() for pair in pairs]


def contents(folder):
    """Every file of a folder and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def image_at(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# ---------------------------------------------------------------- test.py


def run_test(folder, model, tmp_path, *more):
    """Run test.py on a folder; return its exit code and score.csv."""
    code = scoring.main(
        [
            str(folder),
            *map(str, more),
            "--model",
            str(model),
            "--out",
            str(tmp_path / "results"),
            "--scores",
            str(tmp_path / "score.csv"),
        ]
    )
    return code, pd.read_csv(tmp_path / "score.csv", dtype={"Image": str})


def make_result(out, name, picture=None, **about):
    """A result of an input /in/`name` below a folder, as pred.py leaves it; return its folder.

    about: what its JSON says beside the usual; picture (H, W, 3): its overlay.
    """
    stem = name.removesuffix(".nii.gz")
    folder = out / f"{stem}_prediction"
    folder.mkdir(parents=True)
    if picture is not None:
        cv2.imwrite(str(folder / f"{stem}_overlay.png"), picture)
    usual = {
        "input": f"/in/{name}",
        "mask": f"{stem}_predicted_mask.nii.gz",
        "volume_ml": 1000.0,
        "verdict": "ok",
        "seconds": 2.0,
    }
    (folder / f"{stem}.json").write_text(json.dumps(usual | about))
    return folder


def read_report(out):
    """What the script of a report reads: its measures and rows."""
    text = (out / "report.html").read_text(encoding="utf-8")
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', text)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))
