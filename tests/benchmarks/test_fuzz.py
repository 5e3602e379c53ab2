"""benchmarks/fuzz.py: it finds the faults that are planted, and makes the same inputs again."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import damage
import dicom_damage
import fuzz
import numpy as np
import pytest
from make import contents

HU = np.random.default_rng(0).integers(-1000, 2000, (16, 16, 12)).astype(np.int16)
RESULT = """
import json, pathlib, sys
import cv2, numpy as np
out = pathlib.Path(sys.argv[3]) / "input_prediction"
out.mkdir(parents=True)
shape = cv2.imread(sys.argv[1], cv2.IMREAD_UNCHANGED).shape[:2]
def write(name, mask):
    cv2.imwrite(str(out / name), mask)
write("input_overlay.png", np.zeros(shape, np.uint8))
"""
LARGE = (damage.swell, damage.make_bomb, damage.crowd, damage.burst)  # take seconds to make
WRITES = 'write("mask.png", np.zeros(shape, np.uint8))\n'
SAYS = '(out / "input.json").write_text(json.dumps({"mask": "mask.png", "shape": shape}))\n'


@pytest.fixture
def ask(tmp_path):
    """Run a script on a sound picture, as fuzz.py runs pred.py; return the kinds of its faults."""

    def run(script, limit=20):
        command, folder = tmp_path / "command.py", tmp_path / "case"
        command.write_text(script)
        folder.mkdir()
        path = folder / "input.png"
        path.write_bytes(damage.MAKERS["PNG"](HU, np.random.default_rng(0)))
        case = damage.Case(path, "PNG", "nothing")
        words = [str(path), "--out", str(folder / "out")]
        ended = fuzz.run_forked(command, words, folder, limit)
        return [fault for fault, _ in fuzz.find_faults(case, ended, folder / "out", limit)], ended

    return run


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("raise KeyError('Rows')", "traceback"),
        ("import sys; print('Traceback (most recent call last):', file=sys.stderr)", "traceback"),
        ("import os; os.abort()", "crash"),
        ("import sys; sys.exit(2)", "other words"),
        ("import sys; print('error: no scan', file=sys.stderr)", "other words"),
        ("import sys; print('libpng: no', file=sys.stderr); sys.exit(2)", "other words"),
        ("pass", "half-written"),
        (RESULT + WRITES, "half-written"),
        (RESULT + SAYS, "half-written"),
        (RESULT + WRITES + SAYS + "(out / 'mask.png').write_bytes(b'')", "half-written"),
        (RESULT + WRITES + SAYS + "(out / '.unfinished_1').mkdir()", "half-written"),
        (RESULT + WRITES + SAYS + "sys.exit('error: no')", "half-written"),
        (RESULT + WRITES + SAYS + "write('mask.png', np.full(shape, 7, np.uint8))", "half-written"),
        (RESULT + WRITES + SAYS + "write('mask.png', np.zeros((5, 4), np.uint8))", "other grid"),
        (RESULT + WRITES + SAYS.replace(": shape", ": [5, 4]"), "other grid"),
    ],
)
def test_a_planted_fault_is_found(ask, script, fault):
    found, ended = ask(script)
    assert fault in found, ended


@pytest.mark.parametrize(
    "script",
    [
        RESULT + WRITES + SAYS,
        "import sys; print('warning: odd\\nerror: no scan', file=sys.stderr); sys.exit(2)",
    ],
)
def test_a_result_and_a_refusal_are_no_faults(ask, script):
    found, ended = ask(script)
    assert found == [], ended


@pytest.mark.parametrize("script", ["import time; time.sleep(60)", "while True: pass"])
def test_a_command_that_hangs_is_ended(ask, script):
    found, ended = ask(script, limit=1)
    assert found == ["hang"] and ended.seconds < 10


def test_a_thread_that_never_ends_is_a_hang(ask):
    script = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"
    assert ask(script, limit=1)[0] == ["hang"]


def test_much_memory_is_a_fault_even_where_it_is_given_back(ask, monkeypatch):
    monkeypatch.setattr(fuzz, "MOST_MB", 10_000)
    found, ended = ask("import numpy as np; np.ones(400 << 17)\n" + RESULT + WRITES + SAYS)
    assert found == [] and ended.peak_mb > 400
    monkeypatch.setattr(fuzz, "MOST_MB", 399)
    case = damage.Case(Path("input.png"), "PNG", "")
    assert "memory" in dict(fuzz.find_faults(case, ended, Path("none"), 20))


def test_the_place_of_a_fault_is_the_last_line_of_ours():
    text = f'''Traceback (most recent call last):
  File "{fuzz.ROOT}/benchmarks/fuzz.py", line 3, in run
  File "{fuzz.ROOT}/pred.py", line 12, in main
  File "{fuzz.ROOT}/scan/nifti.py", line 34, in read
  File "/usr/lib/nibabel.py", line 56, in load
ValueError: no'''
    assert fuzz.find_place(text) == "scan/nifti.py:34 ValueError: no"


@pytest.mark.parametrize("kind", damage.MAKERS)
def test_every_damage_can_be_done_to_a_sound_file(kind):
    rng = np.random.default_rng(0)
    for harm in (*damage.DAMAGE[kind], *damage.ANY):
        for _ in range(1 if harm in LARGE else 2):
            sound = damage.MAKERS[kind](HU, rng)
            assert isinstance(harm(sound, rng), bytes)


@pytest.mark.parametrize("harm", dicom_damage.FOLDER_DAMAGE)
def test_every_damage_can_be_done_to_a_folder(harm):
    files = dicom_damage.make_slices(HU, np.random.default_rng(0))
    assert harm(dict(files), np.random.default_rng(0)) != files


def test_an_input_is_made_of_its_seed_and_number_alone(tmp_path):
    def make(name, seed, number):
        folder = tmp_path / name / str(number)
        folder.mkdir(parents=True)
        return damage.make_case(folder, seed, number, HU).done, contents(folder)

    numbers = range(len(damage.KINDS))
    first = [make("first", 1, number) for number in numbers]
    again = [make("again", 1, number) for number in reversed(numbers)][::-1]
    assert first == again and all(files for _, files in first)
    assert [make("other", 2, number) for number in numbers] != first


def test_a_dicom_file_taken_apart_and_joined_is_the_same():
    files = dicom_damage.make_slices(HU, np.random.default_rng(0))
    for content in [*files.values(), dicom_damage.make_stack(HU, np.random.default_rng(2))]:
        assert dicom_damage.join(dicom_damage.split(content)) == content


def test_a_real_file_is_damaged_in_place_of_ours(tmp_path):
    (tmp_path / "mine.png").write_bytes(damage.MAKERS["PNG"](HU, np.random.default_rng(5)))
    (tmp_path / "large.png").write_bytes(bytes(fuzz.MOST_REAL + 1))
    real = fuzz.find_real(str(tmp_path))
    assert [path.name for path in real] == ["mine.png"]
    pictures = [n for n in range(120) if n % len(damage.KINDS) == 4]
    done = []
    for number in pictures:
        (tmp_path / str(number)).mkdir()
        done.append(damage.make_case(tmp_path / str(number), 0, number, HU, real).done)
    assert 0 < sum("mine.png" in what for what in done) < len(done)


def test_a_table_counts_every_kind_and_the_exit_code_tells_of_faults(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fuzz, "prepare_worker", fuzz.use_one_thread)
    monkeypatch.setattr(fuzz, "save_head", partial(np.save, arr=HU))
    command = tmp_path / "command.py"
    command.write_text(
        "import sys\nif sys.argv[1].endswith('.tif'): 1 / 0\n"
        "print('error: no', file=sys.stderr)\nsys.exit(2)"
    )
    words = ["--count", "9", "--jobs", "1", "--command", str(command)]
    assert fuzz.main(words) == 1
    printed = capsys.readouterr().out
    assert "traceback: --seed 0 --only 6: TIFF" in printed and "ZeroDivisionError" in printed
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 12 and lines[-1].startswith("| all | 9 | 0 | 8 | 1 | 0 |")
    monkeypatch.setattr(fuzz, "try_all", lambda *_, **__: [])
    assert fuzz.main(words) == 0


def test_pred_masks_sound_inputs_in_a_fork(tmp_path, cta):
    """The harness runs the real command as its workers do, and what it damages shows a brain."""
    hu = np.rint(cta.hu).astype(np.int16)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=fuzz.prepare_worker) as pool:
        for kind in ("NIfTI .nii", "DICOM file", "16-bit PNG", "JPEG", "TIFF"):
            folder = tmp_path / kind.replace(" ", "_")
            folder.mkdir()
            path = folder / f"input{damage.KINDS[kind]}"
            path.write_bytes(damage.MAKERS[kind](hu, np.random.default_rng(5)))
            words = [str(path), "--out", str(folder / "out")]
            ended = pool.submit(fuzz.run_forked, fuzz.ROOT / "pred.py", words, folder, 99).result()
            case = damage.Case(path, kind, "nothing")
            assert fuzz.find_faults(case, ended, folder / "out", 99) == []
            assert ended.code == 0 and "no brain" not in ended.stderr, (kind, ended)
            assert 100 < ended.peak_mb < fuzz.MOST_MB
