"""Options that the dataset decides, and those that it has no use for."""

import pytest

from common.card import Card
from common.errors import InputError
from training.options import LEAST, parse, settle

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


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize("name", ["lr", "sure", "dropout", "spacing-mm", "label-weights"])
def test_numbers_out_of_their_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"--{name}"):
        parse([f"--{name}={value}"])


@pytest.mark.parametrize("name", LEAST)
def test_counts_too_small_or_too_large_are_refused_by_name(name):
    for value in (LEAST[name] - 1, -5, 2**32):
        with pytest.raises(InputError, match=f"--{name} {value}: .*{LEAST[name]} or more"):
            parse([f"--{name}", str(value)])
    assert getattr(parse([f"--{name}", str(LEAST[name])]), name) == LEAST[name]


def test_weights_that_weigh_nothing_are_refused():
    with pytest.raises(InputError, match="not all 0"):
        parse(["--label-weights", "0", "0"])


def test_a_dataset_settles_size_and_batch():
    options = settle(parse([]), Card())
    assert (options.size, options.batch) == (160, 32)
    options = settle(parse([]), VOLUMES)
    assert (options.size, options.batch) == (None, 1)
