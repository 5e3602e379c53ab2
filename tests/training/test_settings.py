"""Options that the dataset decides, and those that it has no use for."""

import pytest

from common.card import Card
from common.errors import InputError
from train import parse
from training.settings import to_settings

TUMOUR = Card(labels={1: "necrotic core", 2: "oedema", 3: "enhancing tumour"})
VOLUMES = Card(labels=TUMOUR.labels, dimensions=3, grid=(16, 8, 24))


@pytest.mark.parametrize(
    ("words", "card", "said"),
    [
        ("--label-weights 1 2", TUMOUR, "one for each of necrotic core, oedema, enhancing"),
        ("--label-weights 1", Card(), "are for several labels"),
        ("--background", Card(), "are for several labels"),
        ("--size 32", VOLUMES, "of 16 x 8 x 24 voxels: leave --size out"),
    ],
)
def test_options_that_a_dataset_has_no_use_for_are_refused(words, card, said):
    with pytest.raises(InputError, match=said):
        to_settings(parse(words.split()), card)


def test_weights_that_weigh_nothing_are_refused():
    with pytest.raises(InputError, match="not all 0"):
        parse(["--label-weights", "0", "0"])


def test_a_dataset_settles_size_and_batch():
    settings = to_settings(parse([]), Card())
    assert (settings.size, settings.batch) == (160, 32)
    settings = to_settings(parse([]), VOLUMES)
    assert (settings.size, settings.batch) == (None, 1)
