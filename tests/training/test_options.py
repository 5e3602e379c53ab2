"""Options that the dataset decides, and those that it has no use for."""

import pytest

from common.card import Card
from common.errors import InputError
from training.options import parse, settle

TUMOUR = Card(labels={1: "necrotic core", 2: "oedema", 3: "enhancing tumour"})
VOLUMES = Card(labels=TUMOUR.labels, dimensions=3, grid=(16, 8, 24))


@pytest.mark.parametrize(
    ("options", "card", "message"),
    [
        ("--label-weights 1 2", TUMOUR, "one for each of necrotic core, oedema, enhancing"),
        ("--label-weights 1", Card(), "are for several labels"),
        ("--background", Card(), "are for several labels"),
        ("--size 32", VOLUMES, "of 16 x 8 x 24 voxels: leave --size out"),
    ],
)
def test_options_that_a_dataset_has_no_use_for_are_refused(options, card, message):
    with pytest.raises(InputError, match=message):
        settle(parse(options.split()), card)


def test_weights_that_weigh_nothing_are_refused():
    with pytest.raises(InputError, match="not all 0"):
        parse(["--label-weights", "0", "0"])


def test_a_dataset_settles_size_and_batch():
    options = settle(parse([]), Card())
    assert (options.size, options.batch) == (160, 32)
    options = settle(parse([]), VOLUMES)
    assert (options.size, options.batch) == (None, 1)
