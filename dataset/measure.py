"""How large brains and voxels are and which labels there are, before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.cluster import WorkerDied, spread
from common.errors import InputError
from common.progress import track
from dataset.options import Options, Source
from dataset.plan import round_up
from scan.cases import Case
from scan.picture import read_channels
from scan.read import read_case, read_labels
from scan.views import brain_of
from scan.volume import measure_box

FINEST = 1.0  # mm, a round number: finer slices of a brain take too long to learn from
MOST_LABELS = 8  # a round number: more are an atlas, of which few are meant
MOST = 192  # pixels a side: larger pictures are fitted to it, as most brains fit at 1 mm


def measure_sources(sources: Sequence[Source], options: Options, client=None) -> Options:
    """The options with a size, a spacing and labels, where the command line leaves them open.

    The spacing is the median of the scans' second finest axes, at least FINEST. The size is the
    least that a network takes (see `round_up`) and into which every brain fits; of pictures it is
    their own, at most MOST. With a size alone, the spacing is such that every brain fits into it.
    The workers of a `client` (common/cluster.py) do it, where there is one. Raises InputError for
    more labels than MOST_LABELS.
    """
    if options.size and options.spacing and (options.labels or not options.is_mri):
        return options
    if sources[0].pictures:
        size = options.size or measure_pictures(sources[0], options)
        return replace(options, size=size, spacing=options.spacing or 1.0)
    tasks = [(source,) for source in sources]
    measured = track(spread(client, measure_source, tasks), len(tasks), "brain")
    found = [m for _, m in measured if m and not isinstance(m, WorkerDied)]
    if not found:
        return replace(options, size=options.size or MOST, spacing=options.spacing or FINEST)
    spacings, extents, labels = zip(*found, strict=True)
    values = tuple(sorted(set().union(*labels)))
    if len(values) > MOST_LABELS and not options.labels:
        some = " ".join(map(str, values[:MOST_LABELS]))
        raise InputError(f"the label volumes hold {len(values)} values ({some} …): give --labels")
    options = replace(options, labels=options.labels or values)
    largest = max(extents)
    spacing = options.spacing or max(FINEST, float(np.median(spacings)))
    if options.size and not options.spacing:
        spacing = largest / options.size
    size = options.size or round_up(largest / spacing)
    return replace(options, size=size, spacing=round(spacing, 4))


def measure_source(source: Source) -> tuple[float, float, set[int]] | None:
    """In-plane spacing of a case and the longest side of its brain, in mm, and its labels; None if
    it is not read.

    The first modality tells the sizes. What is wrong with a case is said when it is cut.
    """
    name, path = next(iter(source.modalities.files.items()))
    try:
        scan, image = read_case(Case(source.scan, {name: path}))
        labels = set(np.unique(read_labels(source.mask, scan)).tolist()) - {0}
    except InputError:
        return None
    low, high = measure_box(brain_of(image), scan)
    return float(np.sort(scan.spacing)[1]), float((high - low).max()), labels


def measure_pictures(source: Source, options: Options) -> int:
    """Pixels a side of the slices of a case of pictures."""
    try:
        shape = read_channels(source.pictures[0][1], len(options.channels)).shape[:2]
    except InputError:
        return MOST
    return min(MOST, round_up(max(shape)))
