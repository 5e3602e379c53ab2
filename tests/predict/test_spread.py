"""Inputs spread over worker processes and over the jobs of an array: each once, masks the same."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from make import contents, save_nifti, touch
from tasks import heed_ctrl_c

import pred
from common.cluster import WorkerDied
from common.errors import InputError
from common.files import read_json, write_json
from predict import spread
from predict.network import MODEL, Network, read_cards
from predict.result import NOTHING_MORE, plan
from predict.spread import keep_network, parse_part, predict_alone, take_part, to_work

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scans(cta, tmp_path_factory):
    """Eight scans of two slices of a head."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(8):
        part = cta.hu[..., 30 + 2 * number : 32 + 2 * number]
        save_nifti(folder / f"scan{number}.nii.gz", part, cta.affine)
    return folder


def start(scans, out):
    """pred.py with two workers, as a terminal starts it: in a process group of its own."""
    words = [sys.executable, ROOT / "pred.py", scans, "--out", out, "--workers", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, start_new_session=True, preexec_fn=heed_ctrl_c, **pipes)


def wait_for_results(process, out, count):
    """Wait until so many are complete; the worker processes, the newest last."""
    while process.poll() is None and len(list_done(out)) < count:
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    return [p for p in family if "spawn_main" in " ".join(p.cmdline())]


def list_done(out):
    return [path for path in out.glob("*/*.json") if "mask" in read_json(path)]


def masks_of(out):
    return {path.name: path.read_bytes() for path in out.glob("*/*_mask.nii.gz")}


def test_an_interrupted_run_goes_on_without_a_worker_and_its_masks_are_those_of_one_process(
    scans, tmp_path
):
    process = start(scans, tmp_path / "two")
    workers = wait_for_results(process, tmp_path / "two", 1)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said and said.splitlines()[-1].startswith("interrupted; the same")
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers)

    before = len(list_done(tmp_path / "two"))
    process = start(scans, tmp_path / "two")
    wait_for_results(process, tmp_path / "two", before + 1)[-1].kill()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count("done before") == before
    assert pred.main([str(scans), "--out", str(tmp_path / "one")]) == 0
    found = masks_of(tmp_path / "two")
    assert len(found) == 8 and found == masks_of(tmp_path / "one")
    assert len({bytes for bytes in found.values()}) == 8, "there is something to be seen in them"


# ---------------------------------------------------------------- one input in a worker


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((40, 40), np.uint8))
    return path


def test_what_a_worker_sends_back_is_small_and_has_the_paths_that_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (target,) = plan([draw(Path("in/x.png"))], Path("out"))
    found = predict_alone(target, (str(MODEL),), "openvino", NOTHING_MORE, read_cards([MODEL]))
    sent = pickle.dumps(found)
    assert len(sent) < 10_000 and found.target.path.is_absolute()
    work = to_work(target, pickle.loads(sent))
    assert work.target == target and work.error is None and work.seconds > 0
    assert read_json(target.json) == json.loads(json.dumps(work.about))


def test_an_input_that_cannot_be_used_is_an_error_of_its_own(tmp_path):
    touch(tmp_path / "broken.nii.gz")
    (target,) = plan([tmp_path / "broken.nii.gz"], tmp_path / "out")
    found = predict_alone(target, (str(MODEL),), "openvino", NOTHING_MORE, read_cards([MODEL]))
    work = to_work(target, pickle.loads(pickle.dumps(found)))
    assert isinstance(work.error, InputError) and "broken.nii.gz" in str(work.error)


def test_an_input_whose_workers_died_leaves_nothing_half_done(tmp_path):
    targets = plan([tmp_path / "a.nii", tmp_path / "b.nii"], tmp_path / "out")
    write_json(targets[0].json, {"input": targets[0].input})
    touch(targets[0].folder / "a_predicted_mask.nii.gz")
    write_json(targets[1].json, {"input": targets[1].input, "mask": "b_predicted_mask.nii.gz"})
    works = [to_work(target, WorkerDied("its worker died twice")) for target in targets]
    assert str(works[0].error) == f"{tmp_path / 'a.nii'}: its worker died twice"
    assert list(contents(tmp_path / "out")) == ["b_prediction/b.json"], "an older result stays"


def test_a_network_is_loaded_once_and_anew_when_it_has_changed(monkeypatch):
    loaded = []
    monkeypatch.setattr(spread, "Network", lambda *about: loaded.append(about) or object())
    card = read_cards([MODEL])
    first = keep_network(("m.keras",), "openvino", card)
    assert keep_network(("m.keras",), "openvino", card) is first
    assert keep_network(("m.keras",), "openvino", replace(card, sha256="0" * 64)) is not first
    keep_network(("m.keras",), "keras", card)
    assert [about[1] for about in loaded] == ["openvino", "openvino", "keras"]


def test_a_missing_model_is_one_line_before_any_worker_is_started(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "open_cluster", lambda *_: pytest.fail("it has begun"))
    words = [str(scans), "--model", "no.keras", "--workers", "2", "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match="there is no model no.keras"):
        pred.main(words)


def test_a_worker_uses_its_share_of_the_cores(monkeypatch):
    asked = []
    import openvino

    monkeypatch.setattr(openvino.Core, "compile_model", lambda *about: asked.append(about[-1]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    Network(MODEL)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("predict.network.CORES", 1)
    Network(MODEL)
    assert [settings.get("INFERENCE_NUM_THREADS") for settings in asked] == [None, 1]


# ---------------------------------------------------------------- the jobs of an array


def test_parts_are_disjoint_complete_and_depend_on_the_path_alone(tmp_path, capsys):
    targets = plan([tmp_path / f"{number}.nii.gz" for number in range(200)], tmp_path / "out")
    parts = [take_part(targets, (number, 7)) for number in range(1, 8)]
    assert sorted(t.name for part in parts for t in part) == sorted(t.name for t in targets)
    assert min(map(len, parts)) >= 10, "they are of like size"
    assert f"part 1/7: {len(parts[0])} of 200 inputs" in capsys.readouterr().err
    few = plan([t.path for t in reversed(targets[50:150])], tmp_path / "elsewhere")
    again = {t.name for t in take_part(few, (3, 7))}
    assert again == {t.name for t in parts[2]} & {t.name for t in few}
    assert take_part(targets, (1, 1)) == targets


def test_the_parts_of_a_command_make_up_the_whole(tmp_path):
    for number in range(6):
        draw(tmp_path / f"in/{number}.png")
    done, out = [], tmp_path / "out"
    for part in ("2/2", "1/2"):
        assert pred.main([str(tmp_path / "in"), "--out", str(out), "--part", part]) == 0
        done.append(len(list(out.glob("*/*_mask.png"))))
    second = take_part(plan(sorted((tmp_path / "in").iterdir()), out), (2, 2))
    assert done == [len(second), 6]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "a/b", "1/4/2", "-1/4", "1.5/2"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="give K/N with K from 1 to N"):
        parse_part(text)
