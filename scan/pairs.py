"""Which scan and which mask belong together: by what their names have in common.

    pairs, left_over = find_pairs("scans", "masks")
    pairs, left_over = find_pairs("folder_of_both", endings=PICTURES)

A file's name is the words of its path below the folder that was given. Words that say "image" or
"mask" are left out. What remains must be the same for a scan and its mask, and for no other file.
Files that find no partner so are compared again by less of their names: see `make_keys`. Pairs are
never made by the order of files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from scan.cases import (
    PICTURES,
    SCANS,
    get_stem,
    has_ending,
    is_dicom_folder,
    list_visible,
    open_folder,
)
from scan.names import CT_WORDS, ROLES, VAGUE, Name, drop, name_file, tell_masks, with_name

Pairs = list[tuple[str, Path, Path]]  # (case, scan, mask)

CHANNEL = re.compile("000[0-9]")  # the last word of a scan's name in nnU-Net
LEVELS = ("case", "channel", "value", "number")  # the most specific first
MOST_LINES = 20  # on files without a partner: a screenful


# ---------------------------------------------------------------- a folder


def find_pairs(
    scans: str | Path, masks: str | Path | None = None, endings: Sequence[str] = SCANS
) -> tuple[Pairs, list[str]]:
    """Pair scans with masks by name: ([(case, scan, mask), …], [a line on each file left over]).

    `scans` is a scan, a folder of scans (files with one of `endings`, or DICOM folders), or,
    without `masks`, a folder that holds both, in whatever folders below. Letter case does not
    matter. A line also says which pairs were guessed. Raises InputError when nothing pairs.
    """
    scans, masks = Path(scans), Path(masks) if masks else None
    for path in filter(None, (scans, masks)):
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
    is_one = scans.is_file() or is_dicom_folder(scans)
    if is_one and masks and masks.is_file():
        return [(get_stem(scans), scans, masks)], []
    if is_one and not masks:
        names = list(list_beside(scans, endings))
    else:
        names = [name_file(path, scans) for path in list_scan_files(scans, endings)]
    images, drawn = list_sides(names, masks, endings)
    found = match_names(images, drawn)
    if is_one:  # masks of other scans are not asked for
        images = [name for name in images if name.path == scans]
        found.pairs = [pair for pair in found.pairs if pair[0].path == scans]
    if not found.pairs:
        raise InputError(explain_none(scans, masks, images, drawn, found, endings))
    left_over = [] if is_one else explain_rest(images, drawn, found)
    known = {name.path for name in (*images, *drawn)}
    others = [] if is_one or masks else [n.path for n in names if n.path not in known]
    left_over += [f"{path}: in no folder of images or masks; left out" for path in others]
    if len(left_over) > MOST_LINES:
        more = len(left_over) - MOST_LINES
        left_over[MOST_LINES:] = [f"{more} more files have not one partner; left out"]
    return name_pairs(found), [*left_over, *explain_guesses(found)]


def list_sides(names: Sequence[Name], masks: Path | None, endings) -> tuple[list, list]:
    """The Names of scans and of masks: of one folder, or the masks' folder or file."""
    if masks is None:
        return tell_masks(names)
    if masks.is_file():
        return list(names), [name_file(masks, masks.parent)]
    drawn = [name_file(path, masks) for path in list_scan_files(masks, endings)]
    there = {name.path.resolve() for name in drawn}
    if images := [name for name in names if name.path.resolve() not in there]:
        return images, drawn
    return tell_masks(names)  # it is the scans' folder, given twice


def list_beside(scan: Path, endings: Sequence[str]) -> Iterator[Name]:
    """The Names of a scan, of files beside it, and of files in it, if it is a DICOM folder."""
    yield name_file(scan, scan.parent)
    folders = [scan.parent, scan] if scan.is_dir() else [scan.parent]
    for path in (path for folder in folders for path in list_visible(folder)):
        if has_ending(path, endings) and path != scan:
            yield name_file(path, scan.parent)


def list_scan_files(folder: Path, endings: Sequence[str]) -> Iterator[Path]:
    """Files with one of `endings` and DICOM folders, in and below a folder; or the file itself.

    A folder that is called like a file counts as one.
    """
    is_dicom = is_dicom_folder(folder)
    if is_dicom or folder.is_file():
        yield folder
    for path in () if folder.is_file() else list_visible(folder):
        if has_ending(path, endings):
            yield path
        elif path.is_dir() and not is_dicom and not is_useless(path):
            yield from list_scan_files(path, endings)


def is_useless(folder: Path) -> bool:
    """Whether a folder holds what a Mac adds to archives, or links back to one above it."""
    above = folder.parent.resolve()
    return folder.name == "__MACOSX" or above.is_relative_to(folder.resolve())


def find_masks(files: Sequence[Path], root: Path | None = None) -> list[Path]:
    """The files whose names make them masks of others among them: of one folder, or of the tree
    below `root`, whose folders may say what they hold."""
    scans, masks = tell_masks([name_file(file, root or file.parent) for file in files])
    return [mask.path for _, mask, _ in match_names(scans, masks).pairs]


# ---------------------------------------------------------------- matching


@dataclass
class Match:
    """What `match_names` found: pairs with their level, and groups of more than one pair."""

    pairs: list[tuple[Name, Name, str]] = field(default_factory=list)
    unclear: list[tuple[list[Name], list[Name]]] = field(default_factory=list)

    @property
    def done(self) -> set[Name]:
        """The names that need no further look."""
        paired = {name for scan, mask, _ in self.pairs for name in (scan, mask)}
        return paired.union(*(side for group in self.unclear for side in group))


def match_names(scans: Sequence[Name], masks: Sequence[Name]) -> Match:
    """Pair names level by level; what pairs at one level is not looked at again."""
    found = Match()
    sides = (scans, masks)
    useless = find_useless(*sides)
    are_split = all(any(name.split for name in side) for side in sides)
    for level in LEVELS:
        if not all(sides):
            break
        keys = [make_keys(level, side, sides, useless) for side in (0, 1)]
        groups: dict[tuple, tuple[list, list]] = {}
        for side, names in enumerate(sides):
            for name, key in zip(names, keys[side], strict=True):
                if key:
                    whole = (name.split if are_split else "", *key)
                    groups.setdefault(whole, ([], []))[side].append(name)
        both = [group for group in groups.values() if all(group)]
        if level == "number":
            both = [part for group in both for part in split_group(group, useless)]
        for group in both:
            scans, masks = choose_ct(*group)
            if len(scans) == len(masks) == 1:
                found.pairs.append((scans[0], masks[0], level))
            else:
                found.unclear.append((scans, masks))
        done = found.done
        sides = tuple([name for name in side if name not in done] for side in sides)
    found.pairs.sort(key=lambda pair: pair[0].path)
    return found


def choose_ct(scans: list[Name], masks: list[Name]) -> tuple[list[Name], list[Name]]:
    """The group; of several scans with one mask, the one that is called a CT (ct and mr)."""
    named = [name for name in scans if CT_WORDS.intersection(name.own)]
    return (named, masks) if len(named) == len(masks) == 1 else (scans, masks)


def find_useless(scans: Sequence[Name], masks: Sequence[Name]) -> list[frozenset]:
    """For scans and masks, the words that all their names have, and no name of the other side."""
    sides = [[frozenset(name.case) for name in side] for side in (scans, masks)]
    shared = [frozenset.intersection(*s) if len(s) > 1 else frozenset() for s in sides]
    return [own.difference(*other) for own, other in zip(shared, sides[::-1], strict=True)]


def make_keys(level: str, side: int, sides, useless) -> list[tuple]:
    """For each name of a side (0 scans, 1 masks), what it is compared by; () for what stands apart.

    case: all words but those for image and mask. channel: a scan's without the channel of nnU-Net
    (X_0000). value: without VAGUE and useless words, numbers by value (001 is 1). number: the
    file's own numbers alone, or its folders', or its own words where there is no number.
    """
    names = sides[side]
    if level == "case" or level == "channel" and side:
        return [name.case for name in names]
    if level == "channel":
        return [n.case[:-1] if CHANNEL.fullmatch(n.own[-1]) else () for n in names]
    reduced = [[reduce_words(w, useless[side]) for w in (n.own, n.case)] for n in names]
    if level == "value":
        return [case for _, case in reduced]
    numbers = [[tuple(filter(str.isdecimal, words)) for words in both] for both in reduced]
    return [n[0] or n[1] or own for n, (own, _) in zip(numbers, reduced, strict=True)]


def reduce_words(words: Sequence[str], useless: frozenset) -> tuple[str, ...]:
    """The words that tell cases apart, numbers by value."""
    left = drop(words, ROLES | VAGUE | useless)
    return tuple(str(int(word)) if word.isdecimal() else word for word in left)


def split_group(group: tuple[list, list], useless) -> Iterator[tuple[list, list]]:
    """Of scans and masks with the same numbers: those of which one's words stand in the other's."""
    sides = zip(group, useless, strict=True)
    scans, masks = ({n: reduce_words(n.case, these) for n in names} for names, these in sides)
    fits = {s: [m for m in masks if is_addition(scans[s], masks[m])] for s in scans}
    for mask in masks:
        theirs = [scan for scan in scans if mask in fits[scan]]
        drawn = list(dict.fromkeys(m for scan in theirs for m in fits[scan]))
        if drawn[:1] == [mask]:
            yield theirs, drawn


def is_addition(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether one name's words stand in the other's, in their order."""
    few, many = sorted((some, others), key=len)
    rest = iter(many)
    return all(word in rest for word in few)


# ---------------------------------------------------------------- what is said


def name_pairs(found: Match) -> Pairs:
    """(case, scan, mask) of each pair.

    A case is called by its scan. Where that is no name of its own, or says nothing that the mask's
    name says, too, it is called by the folders above as well.
    """
    stems = [get_stem(with_name(scan.path)) for scan, *_ in found.pairs]
    count = Counter(stem.lower() for stem in stems)
    pairs = []
    for (scan, mask, level), stem in zip(found.pairs, stems, strict=True):
        if level == "channel":
            stem = re.sub(r"[\W_]*\d{4}$", "", stem)
        if count[stem.lower()] > 1 or not set(drop(scan.own, ROLES | VAGUE)) & set(mask.case):
            folders = zip(scan.path.parts[-1 - len(scan.folders) : -1], scan.folders, strict=True)
            stem = "_".join([*(name for name, words in folders if drop(words, ROLES)), stem])
        pairs.append((stem, open_folder(scan.path), open_folder(mask.path)))
    return pairs


def explain_rest(scans: Sequence[Name], masks: Sequence[Name], found: Match) -> list[str]:
    """A line on each file that has no partner, or several."""
    lines, done = [], found.done
    for theirs, drawn in found.unclear:
        for scan in theirs:
            if len(theirs) > 1:
                other = next(name.path for name in theirs if name is not scan)
                said = f"another scan has the same name or goes with the same mask ({other})"
            else:
                said = f"several masks ({', '.join(str(mask.path) for mask in drawn)})"
            lines.append(f"{scan.path}: {said}; left out")
    lines += [f"{n.path}: no mask of that name; left out" for n in scans if n not in done]
    return lines + [f"{n.path}: no scan of that name; left out" for n in masks if n not in done]


def explain_guesses(found: Match) -> list[str]:
    """A line on the pairs whose names each have words that the other's lacks."""
    guessed = []
    for scan, mask, level in found.pairs:
        ours, theirs = (set(drop(name.own, ROLES)) for name in (scan, mask))
        if level == "number" or level != "channel" and ours - theirs and theirs - ours:
            guessed.append((scan.path, mask.path))
    if not guessed:
        return []
    few = "1 pair goes" if len(guessed) == 1 else f"{len(guessed)} pairs go"
    said = f"{few} by what the names have in common, such as {guessed[0][0]} with {guessed[0][1]}"
    return [f"{said}: check that they belong together"]


def explain_none(scans: Path, masks: Path | None, images, drawn, found: Match, endings) -> str:
    """Why nothing pairs: what was seen, and what to do."""
    if scans.is_file():
        said = f"found no mask {f'in {masks}' if masks else 'beside it'} for {scans}"
    else:
        said = f"found no mask of a scan in {masks or scans}"
    if drawn and (lines := explain_rest(images, drawn, found)):
        said += f" ({lines[0]})"
    elif images:
        said += f" ({count_files(images)})"
    here = "" if masks else ", put them into folders called images and masks,"
    return (
        f"{said}; name them X{endings[0]} and X_mask{endings[0]}{here} "
        "or give the masks' folder as second argument"
    )


def count_files(names: Sequence[Name]) -> str:
    """How many files lie in which folders, in words."""
    count = Counter(str(name.path.parent) for name in names)
    seen = [f"{number} in {folder}" for folder, number in count.most_common(5)]
    return f"no name says mask; there are {', '.join(seen)}{' …' * (len(count) > 5)}"


# ---------------------------------------------------------------- cases of slices in pictures


def find_picture_cases(
    folder: str | Path,
) -> tuple[dict[str, list[tuple[int, Path, Path]]], list[str]]:
    """Slices with masks in and below a folder, {case: [(index, image, mask), …]}, and a line on
    each file left over.

    X_12.tif with X_12_mask.tif is slice 12 of the case X, as in the LGG set (Buda et al., Computers
    in Biology and Medicine 109 (2019)); without a number, the case is the folder. Where several
    folders hold a case of one name, their names are added. Pairs as `find_pairs`. Raises InputError
    when there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; check the path")
    if not any(list_scan_files(folder, PICTURES)):
        raise InputError(f"found neither NIfTI cases nor slices with masks in {folder}")
    pairs, left_over = find_pairs(folder, endings=PICTURES)
    found: dict[tuple[str, Path], list] = {}
    for _, image, mask in pairs:
        name, below = get_stem(image), image.parent
        case, _, number = name.rpartition("_")
        case = case if case and number.isdigit() else below.resolve().name
        slices = found.setdefault((case, below), [])
        index = int(number) if number.isdigit() else len(slices)
        if index in (other for other, *_ in slices):
            left_over.append(f"{image}: another slice of {case} has its number; left out")
        else:
            slices.append((index, image, mask))
    several = Counter(case for case, _ in found)
    named = {}
    for (case, below), slices in found.items():
        parts = below.relative_to(folder).parts
        parts = parts[:-1] if parts[-1:] == (case,) else parts
        named["_".join((*parts, case)) if several[case] > 1 else case] = sorted(slices)
    return dict(sorted(named.items())), left_over
