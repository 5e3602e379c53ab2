"""Scans and masks to learn from: what people corrected, or passed, of a folder of results.

    lessons, left_out = find_lessons(Path("results"))

The newest correction of a result counts, unless it was rated fix or fail since; of a result without
any, the mask counts where its newest rating is pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.files import read_json
from predict.ratings import Ratings, find_newest_mask, name_result, read_ratings, sort_ratings
from predict.result import Target, find_json, input_version
from predict.summary import find_results

PASSED = "pass"


@dataclass(frozen=True)
class Lesson:
    """A scan and its mask: `name` is the result's; series, volume: those that pred.py was given.

    when: the correction or rating was made (ISO 8601).
    """

    name: str
    scan: Path
    mask: Path
    is_corrected: bool
    when: str
    series: int | None = None
    volume: int | None = None


def find_lessons(out: Path) -> tuple[list[Lesson], list[str]]:
    """What can be learned from the results in and below a folder, and a line on all else that was
    corrected or passed.

    Of one scan with several such results, the newest counts. Raises InputError where there is none.
    """
    if not out.is_dir():
        raise InputError(f"there is no folder {out}; give the folder of pred.py's --out")
    ratings = sort_ratings(read_ratings(out))
    newest: dict[Path, Lesson] = {}
    left_out = []
    for lesson, doubt in sorted(look_at(out, ratings), key=lambda found: found[0].when):
        if doubt:
            left_out.append(f"{lesson.mask}: {doubt}; left out")
            continue
        if before := newest.get(lesson.scan):
            left_out.append(f"{before.mask}: {lesson.mask} is newer, of the same scan; left out")
        newest[lesson.scan] = lesson
    if newest:
        return sorted(newest.values(), key=lambda lesson: lesson.name), left_out
    more = f" ({left_out[0]})" if left_out else ""
    raise InputError(
        f"{out} holds no mask to learn from, corrected or rated pass{more}; "
        f"look at its masks with: python app.py --review {out}"
    )


def look_at(out: Path, ratings: Ratings) -> Iterator[tuple[Lesson, str]]:
    """Each mask that was corrected or passed, and why nothing can be learned from it, or ""."""
    for row in find_results(out):
        folder = row.overlay.parent
        about = read_json(find_json(folder))
        corrections, mask = about.get("corrections"), find_newest_mask(folder, about)
        rating = ratings.find(name_result(folder, out), mask)
        if not corrections and (rating is None or rating.rating != PASSED):
            continue
        last, wanted = (corrections or [{}])[-1], about.get("wanted", {})
        when = max(last.get("when", ""), rating.when if rating else "")
        name = name_result(folder, out).replace("/", "_").replace("_prediction", "")
        chosen = {key: wanted.get(key) for key in ("series", "volume")}
        scan = Path(about["input"])
        lesson = Lesson(name, scan, mask, bool(corrections), when, **chosen)
        yield lesson, doubt_lesson(lesson, folder, about, rating and rating.rating)


def doubt_lesson(lesson: Lesson, folder: Path, about: dict, rating: str | None) -> str:
    """Why nothing can be learned from a mask, in words; "" if something can."""
    if rating not in (None, PASSED):
        return f"this correction was rated {rating}"
    if not lesson.mask.name.endswith((".nii", ".nii.gz")):
        return "only NIfTI masks of whole scans are learned from"
    if not lesson.mask.is_file():
        return "this mask is gone"
    if about.get("wanted", {}).get("border"):
        return "its border was moved by --border"
    if not lesson.scan.exists():
        return f"its scan {lesson.scan} is gone"
    target = Target(lesson.scan, lesson.name, folder)
    if input_version(target) != about.get("input_version"):
        return f"its scan {lesson.scan} has changed since the mask was made"
    return ""
