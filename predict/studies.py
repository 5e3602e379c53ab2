"""The studies of a DICOMweb archive: the head CT of each is fetched, masked, and its mask stored.

The JSON of a result is all the memory there is, of studies that failed, too. A study is known by
its StudyInstanceUID, wherever the archive is; it has changed when the numbers of instances of its
CT series have. A SEG that is stored in it changes nothing, therefore.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import NoReturn

from common import SOFTWARE
from common.card import Card
from common.errors import InputError, tell
from common.files import read_json, write_json
from predict.dicomweb import (
    IN_SERIES,
    INSTANCE,
    MODALITY,
    NAME,
    PATIENT,
    SERIES,
    Archive,
    ArchiveError,
    check_uid,
    get,
    list_filters,
    save_header,
)
from predict.network import Network
from predict.result import (
    Target,
    Wanted,
    claimed,
    is_done,
    is_ours,
    keep_people,
    list_folders,
    remove,
    remove_stale,
    try_folder,
    written_files,
)
from predict.work import predict_files
from scan.dicom_files import MARKS, NAMING, READ, Files, find_tags, list_true
from scan.dicom_series import Series, choose_series, find_series

IN_FLIGHT = 4  # instances that are fetched at one time. A round number
STORED = ("dicom-seg", "dicom-sr")  # the formats that --store sends
REFUSED = 3  # exit code of --strict where a verdict is failed


def mask_studies(args: argparse.Namespace, card: Card, wanted: Wanted) -> int:
    """Mask the studies that a command line names; return the exit code, with --watch never.

    Raises InputError where the archive cannot be asked.
    """
    if card.is_mri:
        raise InputError("--dicomweb fetches head CT, and this network masks MRI: give its folders")
    if args.store:
        formats = dict.fromkeys((*wanted.formats, *STORED))
        wanted = replace(wanted, formats=tuple(formats))
    out = Path(args.out)
    try_folder(out)  # before anything is fetched in vain
    load = cache(lambda: Network(args.model, args.backend))
    masking = Masking(Archive(args.dicomweb), out, card, wanted, load, args.store)
    search = partial(find_studies, masking.archive, list_filters(args))
    if args.watch is not None:
        watch(masking, search, args.watch, args.overwrite)
    ends = [masking.finish(study, anew=args.overwrite, again=True) for study in search()]
    if not ends:
        raise InputError(f"{args.dicomweb} has no such study: check what is asked for")
    if None in ends:
        return 2
    return REFUSED * (args.strict and "failed" in ends)


def find_studies(archive: Archive, filters: list[dict]) -> dict[str, int]:
    """{StudyInstanceUID: number of instances} of all studies that one of several searches finds."""
    return {s: count for each in filters for s, count in archive.find_studies(each).items()}


# ---------------------------------------------------------------- going on


def watch(
    masking: Masking, search: Callable[[], dict], pause: float, anew: bool = False
) -> NoReturn:
    """Mask the studies that a search finds, and go on looking, `pause` seconds from look to look.

    A study is taken once its number of instances stands still between two looks. An archive that
    cannot be reached is waited for; one that refuses the first look is not. A study at which the
    archive gives up goes behind the others. `anew`: what was done before this call is done once
    more.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a container is stopped
    seen, finished, given_up, trouble, reached = {}, {}, Counter(), "", False
    while True:
        try:
            before, seen, reached = seen, search(), True
            for study, count in sorted(seen.items(), key=lambda item: given_up[item[0]]):
                known = count and finished.get(study) == count  # 0: the archive does not say
                if before.get(study) == count and not known:
                    given_up[study] += 1
                    masking.finish(study, anew=anew and study not in finished)
                    finished[study], given_up[study] = count, 0
            trouble = ""
        except ArchiveError as error:
            if not (reached or error.passing):
                raise
            if trouble != str(error):
                tell(stamp(f"{error}; trying again"))
            trouble = str(error)
        time.sleep(pause)


# ---------------------------------------------------------------- one study


@dataclass(frozen=True)
class Masking:
    """What is the same for all studies: the archive, where results go, what is wanted of them.

    load: gives the network; store: whether masks are sent to the archive.
    """

    archive: Archive
    out: Path
    card: Card
    wanted: Wanted
    load: Callable[[], Network]
    store: bool = False

    def finish(self, study: str, anew: bool = False, again: bool = False) -> str | None:
        """Mask a study, and store the mask, unless that is done; tell what was done in a line.

        Returns the verdict, None for a study that failed. `anew`: it is masked even if that is
        done; `again`: it is tried even if it has failed and has not changed. Raises ArchiveError
        where the archive cannot be asked.
        """
        try:
            series = self.archive.find_series(check_uid(study))
            target = self.plan(study, series)
            about = read_json(target.json)
            fresh = anew or not is_done(target, self.card, self.wanted)
            if fresh and not (anew or again) and self.has_failed(target, about):
                return None
            if fresh:
                target, about = self.mask(target, series)
            sent = self.store and self.send(study, target, about)
        except ArchiveError:
            raise
        except InputError as error:
            told = str(error) if study in str(error) else f"study {study}: {error}"
            tell(stamp(f"error: {told}"))
            return None
        if fresh or again or sent:
            tell(stamp(f"study {study}: {self.describe(about, fresh)}, in {target.folder}"))
        return about["verdict"]

    # ------------------------------------------------------------ its result

    def plan(self, study: str, series: list[dict]) -> Target:
        """The target of a study with these series: see the top for what makes it another one."""
        counts = sorted((get(s, SERIES), get(s, IN_SERIES)) for s in series if is_ct(s))
        checksum = hashlib.sha256(json.dumps(counts).encode()).hexdigest()[:16]
        version = f"{len(counts)} CT series, {checksum}"
        folders = list_folders(study, self.out)
        # an OID's URI: RFC 3061
        uri = f"urn:oid:{study}"
        targets = (Target(Path(study), study, f, uri=uri, version=version) for f in folders)
        return next(filter(is_ours, targets))

    def has_failed(self, target: Target, about: dict) -> bool:
        """Whether a JSON says that the study, as it is now, has failed already."""
        return "error" in about and about == keep_people(about) | self.describe_failure(
            target, about["error"]
        )

    def describe_failure(self, target: Target, error: str) -> dict:
        """What the JSON says of a study that failed."""
        about = {
            "input": target.input,
            "input_version": target.version,
            "error": error,
            "model": self.card.sha256,
            "software": SOFTWARE,
            "wanted": asdict(self.wanted),
        }
        return json.loads(json.dumps(about))

    def write_failure(self, target: Target, error: str) -> None:
        """Put a failure in the place of the result of the study as it was before."""
        before = read_json(target.json)
        about = self.describe_failure(target, error) | keep_people(before)
        with claimed(target) as target:
            write_json(target.json, about)
        remove_stale(target.folder, before, about)
        remove(target.folder / f"{target.name}_overlay.png")

    # ------------------------------------------------------------ its mask

    def mask(self, target: Target, series: list[dict]) -> tuple[Target, dict]:
        """Fetch the head CT of a study and mask it; return where the result is, and its JSON.

        Raises InputError for a study that cannot be masked, once its JSON says so.
        """
        with tempfile.TemporaryDirectory(prefix="study_") as place:
            folder = Path(place) / target.name
            folder.mkdir()
            try:
                self.fetch(folder, target.name, series)
                targets = [replace(target, path=folder)]
                (work,) = predict_files(targets, self.load, self.wanted, self.card)
                if work.error:
                    raise work.error
            except ArchiveError:
                raise
            except InputError as error:
                told = str(error).replace(str(folder), f"study {target.name}")
                if getattr(error.__cause__, "errno", None):  # a full disk is none of the study's
                    raise ArchiveError(told, passing=True) from error
                self.write_failure(target, told)
                raise InputError(told) from error
        return work.target, work.about

    def fetch(self, folder: Path, study: str, series: list[dict]) -> None:
        """Write a study's CT series into a folder: the head CT, and of the others the headers."""
        check_patient(study, series)
        uids = [check_uid(get(item, SERIES)) for item in series if is_ct(item)]
        if not uids:
            there = ", ".join(sorted({str(get(item, MODALITY)) for item in series})) or "nothing"
            raise InputError(f"study {study} holds no CT, but {there}")
        headers = [h for uid in uids for h in self.archive.read_headers(study, uid)]
        check_patient(study, headers)
        tags = list(find_tags(*NAMING, *READ.split(), *MARKS).values())
        places = {f"{check_uid(get(h, INSTANCE))}.dcm": get(h, SERIES) for h in headers}
        for header in headers:
            save_header(header, tags, folder / f"{get(header, INSTANCE)}.dcm")
        head = choose_head(folder, self.wanted.series)
        chosen = {places[image.file] for image in head.slices}
        names = [name for name, uid in places.items() if uid in chosen]

        def fetch_one(name: str) -> None:
            instance = name.removesuffix(".dcm")
            self.archive.fetch(study, places[name], instance, folder / name)

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(fetch_one, names))

    # ------------------------------------------------------------ sending it

    def send(self, study: str, target: Target, about: dict) -> bool:
        """Send a study's DICOM files to the archive that it came from, and note that in the JSON.

        Returns whether that was left to do. A mask whose verdict is failed is not sent: beside the
        scan it would look like a good one.
        """
        if about["verdict"] == "failed" or about.get("stored") == self.archive.url:
            return False
        names = sorted(name for name in written_files(about) if name.endswith(".dcm"))
        for path in (target.folder / name for name in names):
            if not self.archive.has(study, read_uid(path)):
                self.archive.store(study, path)
        write_json(target.json, about | {"stored": self.archive.url})
        return True

    def describe(self, about: dict, fresh: bool) -> str:
        """A result in a few words."""
        reasons = f" ({about['reasons'][0]})" if about["reasons"] else ""
        took = f"{about['seconds']} s" if fresh else "done before"
        stored = "not stored" if about["verdict"] == "failed" else "stored"
        words = [f"{about['volume_ml']:.0f} mL", f"{about['verdict']}{reasons}", took]
        return ", ".join([*words, *[stored] * self.store])


# ---------------------------------------------------------------- what is in it


def is_ct(series: dict) -> bool:
    """Whether a series, as DICOM JSON, is of CT, or does not say what it is of."""
    return get(series, MODALITY) in ("CT", "")


def check_patient(study: str, items: list[dict]) -> None:
    """Raise InputError where series or images of a study, as DICOM JSON, are of several patients.

    Letter case and punctuation of a name tell nothing.
    """
    names = {" ".join(re.findall(r"\w+", read_name(item).upper())) for item in items}
    numbers = {str(get(item, PATIENT)).strip() for item in items}
    for tag, found in (("PatientName", names), ("PatientID", numbers)):
        if (count := len(found - {""})) > 1:
            raise InputError(f"study {study} is of {count} patients by {tag}: mend it there")


def read_name(item: dict) -> str:
    """PatientName, as DICOM JSON has it, in the alphabet; "" for none."""
    name = get(item, NAME)
    return str(name.get("Alphabetic") or "") if isinstance(name, dict) else str(name)


def choose_head(folder: Path, number: int | None) -> Series:
    """The head CT of a study by its headers, or the series of that number.

    Raises InputError where there is none. A folder's scan would be masked then and noted as what
    it is; nobody has chosen the studies of an archive one by one.
    """
    with Files(folder) as files:
        found, _ = find_series(files)
    series = choose_series(found, number, folder)[0]
    if number is None and (signs := list_true(series.unlike)):
        said = f"{folder} holds no head CT: the best of its CT series, {series}"
        raise InputError(f"{said}, is none ({', '.join(signs)}); --series N takes one all the same")
    return series


def read_uid(path: Path) -> str:
    """The SOPInstanceUID of a DICOM file."""
    import pydicom

    return str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


# ---------------------------------------------------------------- the log


def stamp(line: str) -> str:
    """A line of the log, with the time."""
    return f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}"
