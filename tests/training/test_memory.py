"""What does not fit memory ends in one line."""

import pytest
from make import make_discs

import train
from common.errors import InputError
from model import build_unet
from training.memory import check_memory, explained_memory


def test_a_size_that_no_memory_holds_is_refused_in_one_line(tmp_path):
    folder = make_discs(tmp_path / "discs")
    options = ["--data", str(folder), "--output", str(tmp_path / "out"), "--size", "1048576"]
    with pytest.raises(InputError, match=r"needs [\d,]+ GiB of memory at least, .* --size"):
        train.main(options)
    assert not (tmp_path / "out").exists()


def test_batches_count_and_a_network_of_any_size_is_let_pass():
    check_memory(build_unet((512, 512, 1), width=2, depth=1), batch=1, devices=1)
    with pytest.raises(InputError, match="GiB"):
        check_memory(build_unet((512, 512, 1), width=2, depth=1), batch=10**7, devices=1)
    check_memory(build_unet((None, None, 1), width=2, depth=1), batch=10**7, devices=1)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 4.00 TiB for an array"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        RuntimeError("OOM when allocating tensor with shape[9]"),
        ValueError("OpenCV(5.0) (-4:Insufficient memory) Failed to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_is_explained(error):
    match = "does not fit memory: give a smaller --size"
    with pytest.raises(InputError, match=match), explained_memory():
        raise error


def test_other_errors_pass_as_they_are():
    for error in (InputError("out of memory"), ValueError("other")):
        with pytest.raises(type(error), match=str(error)), explained_memory():
            raise error
