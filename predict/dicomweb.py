"""A DICOMweb archive (DICOM PS3.18), asked through dicomweb-client.

    archive = Archive("http://localhost:8042/dicom-web")
    for study, count in archive.find_studies({"PatientID": "4711"}).items():
        for series in archive.find_series(study): ...
        headers = archive.read_headers(study, series)     # DICOM JSON, no pixels
        archive.fetch(study, series, instance, path)
        archive.store(study, files)

Who asks is told by environment variables alone, so that no list of processes shows a password:
DICOMWEB_TOKEN, or DICOMWEB_USER and DICOMWEB_PASSWORD; NAME_FILE names a file that holds NAME, and
is read anew for each request. Proxies and the file of a CA are those of `requests` (HTTPS_PROXY,
NO_PROXY, REQUESTS_CA_BUNDLE).
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from common.errors import InputError, explained, warn
from scan.dicom_files import choose_decoder

if TYPE_CHECKING:
    import pydicom
    import requests

# A request is repeated so often, after 0, 1, 2, 4 s (PAUSE times powers of two). Round numbers
TRIES, PAUSE = 4, 0.5
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP: what may pass by itself
DOWN = (408, 429, 502, 503, 504)  # of these, what is said of the archive, not of one study
WAIT = (10, 120)  # s: to connect, and for the next bytes. Round numbers
AT_ONCE = 1 << 30  # bytes: what is sent is in memory, and is repeated only if sent in one piece
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"  # tags of the UIDs, as DICOM JSON
MODALITY, NAME, PATIENT = "00080060", "00100010", "00100020"
IN_STUDY, IN_SERIES = "00201208", "00201209"  # the numbers of instances
INSTALL = "pip install -r requirements-dicomweb.txt"


class ArchiveError(InputError):
    """The archive cannot be asked at all; `passing` where that may pass by itself."""

    def __init__(self, message: str, passing: bool = False):
        super().__init__(message)
        self.passing = passing


# ---------------------------------------------------------------- options


def add_dicomweb_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that make the studies of an archive the inputs."""
    add = parser.add_argument_group(
        "studies of a DICOMweb archive (predict/DICOMWEB.md)"
    ).add_argument
    add("--dicomweb", metavar="URL", help="such as http://HOST:8042/dicom-web")
    add("--study", nargs="+", default=[], metavar="UID", help="these studies")
    add("--patient", metavar="ID", help="the studies of this PatientID")
    add("--since", metavar="DATE", help="the studies from YYYY-MM-DD on")
    said = "the studies with a series of this modality (default: CT, unless --study is given)"
    add("--modality", help=said)
    said = "what else QIDO shall look for, such as AccessionNumber=77"
    add("--query", nargs="+", default=[], metavar="KEY=VALUE", help=said)
    add("--store", action="store_true", help="send each mask to the archive, as a DICOM SEG")
    said = "go on looking for studies, with pauses of so long"
    add("--watch", type=float, metavar="SECONDS", help=said)


def check_dicomweb_options(args: argparse.Namespace) -> None:
    """Raise InputError where the options do not say which studies are meant, or contradict."""
    asked = [args.study, args.patient, args.since, args.modality, args.query]
    if not args.dicomweb:
        if any([*asked, args.store, args.watch is not None]):
            raise InputError("--study, --query, --store, … are of an archive: add --dicomweb URL")
        return
    if args.paths:
        raise InputError(f"{args.paths[0]}: give paths or --dicomweb, not both")
    if args.watch is not None and not 0 < args.watch < float("inf"):
        raise InputError(f"--watch {args.watch:g}: give the seconds from one look to the next")
    if not any(asked) and args.watch is None:
        raise InputError("which studies? Add --study, --patient, --since, --query or --modality CT")
    list_filters(args)


def list_filters(args: argparse.Namespace) -> list[dict[str, str]]:
    """The searches that the options ask for, by keyword or tag: one, or one for each study.

    Raises InputError for a date, key or UID that is none.
    """
    filters = {}
    if args.patient:
        filters["PatientID"] = args.patient
    if args.since:
        filters["StudyDate"] = f"{to_day(args.since):%Y%m%d}-"
    if args.modality or not args.study:
        filters["ModalitiesInStudy"] = args.modality or "CT"
    for word in args.query:
        key, _, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z]\w+|[0-9A-Fa-f]{8}", key) or not value:
            raise InputError(f"--query {word}: write KEY=VALUE, such as AccessionNumber=77")
        filters[key] = value
    for study in args.study:
        check_uid(study)
    return [filters | {"StudyInstanceUID": study} for study in args.study] or [filters]


def to_day(text: str) -> date:
    """A day that is written as 2026-01-31 or 20260131."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--since {text}: write the day as YYYY-MM-DD") from error


def check_uid(uid: object) -> str:
    """A UID that may be part of a file's name; InputError for any other text."""
    if not re.fullmatch(r"[0-9][0-9.]{0,127}", str(uid)):
        raise InputError(f"{str(uid)[:80]!r} is no DICOM UID")
    return str(uid)


# ---------------------------------------------------------------- the archive


class Archive:
    """An archive at a URL. All methods raise ArchiveError where it cannot be asked, and InputError
    where it refuses, or does not have, what was asked of one study."""

    def __init__(self, url: str):
        try:
            from dicomweb_client import DICOMwebClient
        except ImportError as error:
            raise InputError(f"--dicomweb needs dicomweb-client: {INSTALL}") from error

        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise InputError("no sign-in in a URL, please: set DICOMWEB_USER and DICOMWEB_PASSWORD")
        self.client = None
        with self.asking():
            session = open_session(parts.scheme == "http" and not is_loopback(parts.hostname))
            how = {"chunk_size": AT_ONCE, "permissive_uid": True, "timeout": WAIT}
            self.client = DICOMwebClient(self.url, session, **how)
        self.client.set_http_retry_params(retry=False)  # the session does that

    def find_studies(self, filters: dict[str, str]) -> dict[str, int]:
        """{StudyInstanceUID: number of instances} of the studies that QIDO finds."""
        found = {}
        with self.asking():
            fields = ["NumberOfStudyRelatedInstances"]
            search = self.client.search_for_studies
            for item in read_pages(search, STUDY, fields=fields, search_filters=filters):
                study = str(get(item, STUDY))
                found[study] = found.get(study, 0) + int(get(item, IN_STUDY) or 0)
        return found

    def find_series(self, study: str) -> list[dict]:
        """What QIDO says of each series of a study, as DICOM JSON."""
        with self.asking(study):
            how = {"fields": ["NumberOfSeriesRelatedInstances"], "study_instance_uid": study}
            return list(read_pages(self.client.search_for_series, SERIES, **how))

    def read_headers(self, study: str, series: str) -> list[dict]:
        """The headers of a series' instances, as DICOM JSON; what is large is left out of them."""
        with self.asking(study):
            return self.client.retrieve_series_metadata(study, series)

    def fetch(self, study: str, series: str, instance: str, path: Path) -> None:
        """Write an instance to a file, as it is stored; InputError for one that cannot be read.

        It is decoded once, so that a broken one is noticed before anything is masked.
        """
        with self.asking(study, f"instance {instance} cannot be read"):
            data = self.client.retrieve_instance(study, series, instance)
            if str(data.SOPInstanceUID) != instance or not has_pixels(data):
                raise ValueError("another instance, or an empty one")
            with explained(path):
                data.save_as(path, enforce_file_format=True)

    def has(self, study: str, instance: str) -> bool:
        """Whether an instance is in a study."""
        with self.asking(study):
            how = {"search_filters": {"SOPInstanceUID": instance}}
            found = self.client.search_for_instances(study, **how)
        return any(get(item, INSTANCE) == instance for item in found)

    def store(self, study: str, path: Path) -> None:
        """Send a file to a study. Sent twice, it is there once: its UID says which it is."""
        import pydicom

        with self.asking(study):
            answer = self.client.store_instances([pydicom.dcmread(path)], study)
        if failed := answer.get("FailedSOPSequence"):
            code = failed[0].get("FailureReason", "no reason")
            raise InputError(f"study {study}: the archive refuses {path.name} ({code})")

    @contextmanager
    def asking(self, study: str = "", broken: str = "") -> Iterator[None]:
        """Turn what may go wrong with a request into an InputError of one line.

        study: the one that is asked for; broken: what is said of an answer that cannot be read.
        Texts of errors and answers are not repeated: they may hold a token, or a patient's name.
        """
        import requests

        told = f"study {study}: " * bool(study)
        try:
            yield
        except InputError:
            raise
        except requests.HTTPError as error:
            raise explain_status(self.url, error.response.status_code, study) from error
        except requests.exceptions.SSLError as error:
            said = "its certificate is not trusted: name its CA's file in REQUESTS_CA_BUNDLE"
            raise ArchiveError(f"{self.url}: {said}") from error
        except requests.exceptions.InvalidJSONError as error:
            if study:
                raise InputError(f"{told}the answer is no DICOM JSON") from error
            raise ArchiveError(f"{self.url} is no DICOMweb service: check the address") from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            said = "cannot be reached: check the address, and whether it runs"
            raise ArchiveError(f"{self.url} {said}", passing=True) from error
        except Exception as error:  # pydicom may raise anything for a damaged file
            if study:
                said = broken or "an answer cannot be read"
                raise InputError(f"{told}{said}") from error
            said = f"{self.url} cannot be asked ({type(error).__name__})"
            more = "check the address, REQUESTS_CA_BUNDLE and the sign-in"
            raise ArchiveError(f"{said}: {more}") from error


def explain_status(url: str, status: int, study: str) -> InputError:
    """The error for an HTTP status that is none of success."""
    if status == 401 or (status == 403 and not study):
        said = "refuses the sign-in: set DICOMWEB_TOKEN, or DICOMWEB_USER and DICOMWEB_PASSWORD"
        return ArchiveError(f"{url} {said} (HTTP {status})")
    if status in DOWN:
        return ArchiveError(f"{url} is not ready (HTTP {status}): try again later", passing=True)
    if study:
        return InputError(f"study {study}: the archive refuses a request (HTTP {status})")
    if status == 400:
        return ArchiveError(f"{url} does not take this search (HTTP 400): check --query")
    said = "check the address, which often ends in /dicom-web"
    return ArchiveError(f"{url} does not answer as DICOMweb (HTTP {status}): {said}", status >= 500)


# ---------------------------------------------------------------- requests


def open_session(in_clear: bool) -> requests.Session:
    """A session that signs in and repeats requests; `in_clear` where others may listen."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    for name in ("urllib3", "dicomweb_client"):  # each repetition would be a line
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="dicomweb_client")
    session = requests.Session()
    how = {"status_forcelist": BUSY, "allowed_methods": None, "raise_on_status": False}
    again = Retry(TRIES, backoff_factor=PAUSE, **how)  # what is stored twice is there once
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    if read_secret("DICOMWEB_TOKEN") or read_secret("DICOMWEB_USER"):
        session.auth = sign_in
        if in_clear:
            warn("the sign-in goes over the network unencrypted: take https, if there is")
    return session


def sign_in(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """A request with the token, or else the user's name and password."""
    from requests.auth import HTTPBasicAuth

    if token := read_secret("DICOMWEB_TOKEN"):
        request.headers["Authorization"] = f"Bearer {token}"
        return request
    return HTTPBasicAuth(read_secret("DICOMWEB_USER"), read_secret("DICOMWEB_PASSWORD"))(request)


def read_secret(name: str) -> str:
    """An environment variable, or what is in the file that NAME_FILE names; else ""."""
    path = os.environ.get(f"{name}_FILE")
    if name in os.environ or not path:
        return os.environ.get(name, "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}, which {name}_FILE names, cannot be read", True) from error


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine itself."""
    return host == "localhost" or bool(host and re.match(r"127\.|::1$", host))


def read_pages(search: Callable, tag: str, **how) -> Iterator[dict]:
    """All that a search finds, however little the archive gives at a time.

    tag: of the UID of what is found. An archive that knows no offset gives the same again.
    """
    seen, read = set(), 0
    while page := search(offset=read, **how):
        new = {get(item, tag) for item in page} - seen
        if not new:
            return
        yield from page
        read += len(page)
        seen |= new


def get(item: dict, tag: str):
    """The first value of an attribute of DICOM JSON; "" for none."""
    return (item.get(tag, {}).get("Value") or [""])[0]


# ---------------------------------------------------------------- headers as files


def has_pixels(data: pydicom.Dataset) -> bool:
    """Whether an instance has pixels; pydicom raises anything where they cannot be decoded."""
    data.pixel_array_options(decoding_plugin=choose_decoder(data))
    return data.pixel_array.size > 0


def save_header(item: dict, tags: list[int], path: Path) -> None:
    """Write what DICOM JSON says of `tags` as a DICOM file without pixels.

    Raises InputError for a header that cannot be read.
    """
    import pydicom

    try:
        kept = {key: item[key] for key in (f"{tag:08X}" for tag in tags) if key in item}
        shorten_decimals(kept)
        data = pydicom.Dataset.from_json(kept, bulk_data_uri_handler=lambda *_: b"")
        data.SpecificCharacterSet = "ISO_IR 192"  # JSON is UTF-8
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        with explained(path):
            data.save_as(path, enforce_file_format=True)
    except InputError:
        raise
    except Exception as error:  # pydicom may raise anything for odd values
        raise InputError(f"the header of instance {path.stem} cannot be read") from error


def shorten_decimals(item: dict) -> None:
    """Turn the decimals of DICOM JSON, sequences included, into texts of DICOM's 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    for element in item.values():
        values = element.get("Value", [])
        if element.get("vr") == "DS":
            element["Value"] = [
                format_number_as_ds(v) if isinstance(v, float) else v for v in values
            ]
        elif element.get("vr") == "SQ":
            for inner in values:
                shorten_decimals(inner)
