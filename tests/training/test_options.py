"""Options that the dataset decides, and those that it has no use for."""

import pytest

from common.card import Card
from common.errors import InputError
from dataset.plan import Machine, make_plan
from training.options import LEAST, parse, settle

TUMOUR = Card(labels={1: "necrotic core", 2: "oedema", 3: "enhancing tumour"})
VOLUMES = Card(labels=TUMOUR.labels, dimensions=3, grid=(16, 8, 24))


@pytest.mark.parametrize(
    ("options", "card", "message"),
    [
        ("--label-weights 1 2", TUMOUR, "one for each of necrotic core, oedema, enhancing"),
        ("--label-weights 1", Card(), "are for several labels"),
        ("--background", Card(), "are for several labels"),
        ("--size 32", VOLUMES, "holds volumes: leave --size out"),
        ("--patch 32", VOLUMES, "volumes of one grid: leave --patch out"),
        ("--patch 32", TUMOUR, "holds slices: leave --patch out"),
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


@pytest.mark.parametrize("patch", ["0", "16 16", "16 16 -16"])
def test_patches_of_no_size_are_refused(patch):
    with pytest.raises(InputError, match=f"--patch {patch}: give one or three"):
        parse(["--patch", *patch.split()])


def test_a_plan_decides_what_is_not_given():
    plan = make_plan(Card(), 100, Machine.here())
    options = settle(parse(["--epochs", "9"]), Card(plan=plan | {"batch": 7, "epochs": 3}))
    assert (options.batch, options.epochs, options.patience) == (7, 9, 9)
    assert settle(parse(["--epochs", "9", "--schedule", "plateau"]), Card()).patience == 3
    options = settle(parse(["--patch", "16"]), Card(dimensions=3, plan=plan | {"batch": 1}))
    assert (options.patch, options.batch) == ([16, 16, 16], 1)
    without = settle(parse([]), Card(), 100)
    assert {name: getattr(without, name) for name in ("size", "batch", "lr")} == {
        name: plan[name] for name in ("size", "batch", "lr")
    }
