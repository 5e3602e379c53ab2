"""The command: what it makes from nothing, and how it refuses."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from make import (
    all_pairs,
    head,
    image_at,
    make_ct_set,
    make_network,
    mri,
    save_mri,
    save_mri_pictures,
    save_scan,
    save_scans,
    touch,
)

from common.card import HEAD, read_card
from common.errors import InputError, run
from common.files import read_json
from data import main, parse
from dataset.options import Source, name_plainly, to_options, to_sources
from dataset.read import read_dataset, read_description, read_pair
from predict.network import MODEL
from predict.result import Target, input_version
from scan.cases import get_stem


def test_a_dataset_from_nothing(tmp_path):
    size = ["--size", "64", "--slices", "3", "--window", "hu"]
    main(["--synthetic", "1", *size, "--workers", "1", "--out", str(tmp_path)])
    pairs = read_dataset(tmp_path)["Train"]
    assert len(pairs) == 9 and {pair.case for pair in pairs} == {"phantom_0000"}
    for pair in pairs:
        assert image_at(pair.image).dtype == np.uint16
        assert set(np.unique(image_at(pair.mask))) <= {0, 1, 2}
    image, mask = read_pair(max(pairs, key=lambda p: image_at(p.mask).sum()))
    assert -20 < np.median(image[mask > 0]) < 100
    card = read_description(tmp_path)
    assert card.labels == HEAD and card.regions == {"brain": [1, 2]}


def test_synthetic_scans_are_spread_evenly_over_the_maps(tmp_path):
    touch(*(tmp_path / f"seg_{i}.nii.gz" for i in range(4)))
    sources = list_synthetic(tmp_path)
    counts = pd.Series([s.case for s in sources]).value_counts()
    assert len(counts) == 4 and counts.max() - counts.min() <= 1
    assert len({s.scan for s in sources}) == len({s.seed for s in sources}) == 10
    assert all(s.scan.startswith(s.case + "_") and get_stem(s.path) == s.case for s in sources)
    assert sources == list_synthetic(tmp_path)
    assert sources[0].seed != list_synthetic(tmp_path, "--seed", "1")[0].seed


def list_synthetic(label_maps, *more):
    args = parse(["--synthetic", "10", "--labels", str(label_maps), *more])
    return to_sources(args, to_options(args))[0]


def test_slices_in_pictures_have_no_volumes_and_say_which_greys_are_labels(tmp_path, capsys):
    folder = save_mri_pictures(tmp_path / "lgg", cases=1)
    words = [str(folder), "--channels", "t1", "flair", "t1ce", "--workers", "1"]
    with pytest.raises(InputError, match="no volumes"):
        main([*words, "--dimensions", "3", "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="--window and --views would do nothing"):
        main([*words, "--views", "axial", "--window", "minmax"])
    with pytest.raises(InputError, match="not one of the 8 images .* has a label.* other --labels"):
        main([*words, "--labels", "1", "2", "4", "--size", "32", "--out", str(tmp_path / "out")])
    assert "P0 also holds 255, here taken as background" in capsys.readouterr().err


def test_modalities_labels_size_and_spacing_are_found(tmp_path):
    cases = save_mri(tmp_path / "cases", 3, values=(1, 2, 3))
    (cases / "case1/case1_t1.nii.gz").write_bytes((cases / "case1/case1_flair.nii.gz").read_bytes())
    main([str(cases), "--workers", "1", "--out", str(tmp_path / "out")])
    about = read_json(tmp_path / "out/dataset.json")
    assert about["channels"] == ["flair", "t1ce"], "those that all cases have"
    assert about["label_values"] == {"1": 1, "2": 2, "3": 3}
    brain = np.argwhere(mri()[0].any(-1))
    assert about["size"] == 16 * math.ceil(np.ptp(brain, axis=0).max() / 16)
    assert about["spacing_mm"] == 1 and about["plan"]["size"] == about["size"]
    main([str(cases), "--workers", "1", "--size", "16", "--out", str(tmp_path / "small")])
    small = read_json(tmp_path / "small/dataset.json")
    assert small["spacing_mm"] == pytest.approx((np.ptp(brain, axis=0).max() + 1) / 16, abs=1e-3)


def test_an_atlas_of_labels_is_asked_about(tmp_path):
    cases = save_mri(tmp_path / "cases", 1)
    labels = (np.indices(mri()[1].shape).sum(0) % 20).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.diag([-1, -1, 1, 1])), cases / "case0/case0_seg.nii.gz")
    with pytest.raises(InputError, match="hold 19 values .* give --labels"):
        main([str(cases), "--workers", "1", "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "nothing to slice"),
        (["nowhere"], "nowhere does not exist"),
        (["--synthetic", "0"], "--synthetic"),
        (["--labels", "maps"], "for --synthetic N"),
        (["scans", "--necks", "necks"], "for --synthetic N"),
        (["--synthetic", "2", "--labels", "nowhere"], "nowhere"),
        (["scans", "--size", "4"], "--size 4"),
        (["scans", "--size", "0"], "--size 0"),
        (["cases", "--channels", "flair", "--size", "0"], "--size 0"),
        (["pictures"], "train.py --data pictures takes its Train and Val folders"),
        (["pictures"], "modalities of an MRI, give --channels NAME NAME NAME"),
        (["scans", "--window", "300", "100"], "--window"),
        (["scans", "--window", "bone"], "--window"),
        (["scans", "--split", "0", "1", "1"], "--split"),
        (["scans", "--empty", "15"], "--empty"),
        (["scans", "--slices", "0"], "--slices 0"),
        (["bare"], "found no mask"),
        (["bare", "--channels", "flair"], "found no case with flair"),
        (["nowhere", "--channels", "flair"], "no folder nowhere"),
        (["--channels", "flair"], "--channels takes one folder"),
        (["cases", "--channels", *"abcde"], "one to four"),
        (["cases", "--channels", "flair", "--labels", "0"], "--labels takes whole numbers"),
        (["cases", "--channels", "flair", "--window", "0", "80"], "--window needs one of zscore"),
        (["cases", "--channels", "flair", "--names", "flair"], "--names takes"),
        (["cases", "--channels", "flair", "--grid", "64", "64"], "--grid"),
        (["cases", "--channels", "flair", "--spacing", "0"], "--spacing"),
        (["cases", "--channels", "flair", "--dimensions", "3", "--format", "png"], "volumes are"),
        (["scans", "--dimensions", "3", "--size", "64"], "--size would do nothing to volumes"),
        (["scans", "--seed", "-1"], "--seed"),
        (["scans", "--split", "nan", "1", "1"], "--split"),
        (["scans", "--range", "1", "0"], "--range"),
        (["scans", "--least", "2"], "--least"),
        (["--synthetic", "1", "--labels", "1", "2"], "--synthetic"),
        (["scans", "--results", "scans"], "--results stands alone: leave scans out"),
        (["--results", "scans"], "scans holds no mask to learn from"),
        (["--results", "nowhere"], "there is no folder"),
        (["scans", "--like", "nowhere.keras"], "nowhere.keras"),
    ],
)
def test_a_wrong_command_ends_with_one_line_and_2(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    save_scans(tmp_path / "scans", 1)
    save_mri(tmp_path / "cases", 1)
    save_scan(head()[0], tmp_path / "bare/a.nii")
    touch(tmp_path / "pictures/images/1.png", tmp_path / "pictures/masks/1.png")
    with pytest.raises(SystemExit) as caught:
        run(lambda: main(words))
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and said in lines[0]
    assert not Path("files").exists()


def test_an_out_folder_that_cannot_be_written_is_said(tmp_path):
    scans = save_scans(tmp_path / "scans", 1)
    touch(tmp_path / "file")
    with pytest.raises(InputError, match="cannot write"):
        make_ct_set(scans, tmp_path / "file" / "out")


def test_data_never_loads_a_network_library():
    code = "import data, sys; sys.exit(any(m in sys.modules for m in ('keras', 'tensorflow')))"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_scans_of_any_name_are_cut(tmp_path):
    """The dataset's own names are such as any disk, table and page bears."""
    folder = tmp_path / "scans"
    for name in (b"b\xe9\xff", b"two\nlines", b"-rf", b"x" * 243):
        hu, mask = head()
        save_scan(hu, folder / f"{os.fsdecode(name)}.nii.gz")
        save_scan(mask, folder / f"{os.fsdecode(name)}_mask.nii.gz")
    assert make_ct_set(folder, tmp_path / "set") == 0
    names = {name for names in read_description(tmp_path / "set").splits.values() for name in names}
    assert names == {"b__", "two_lines", "-rf", "x" * 200}
    pairs = all_pairs(tmp_path / "set")
    assert {pair.case for pair in pairs} == names and all(pair.image.exists() for pair in pairs)


def test_names_that_would_become_one_are_refused():
    sources = [Source(os.fsdecode(name), "case") for name in (b"x\xe9", b"x\xff")]
    with pytest.raises(InputError, match="2 scans would be called x_; rename"):
        name_plainly(sources)


def test_a_dataset_like_a_network_suits_it(tmp_path):
    """That of the shipped network tells what is bright in the brain from the rest of it."""
    save_scans(tmp_path / "scans", 3)
    words = [tmp_path / "scans", "--like", MODEL, "--out", tmp_path / "set", "--trust-masks"]
    main([*map(str, words), "--workers", "1"])
    card, shipped = read_description(tmp_path / "set"), read_card(MODEL)
    assert card.labels == HEAD and card.window == "hu" and card.size == 192
    assert card.like == shipped.sha256 and card.views == shipped.views
    rows = pd.read_csv(tmp_path / "set/manifest.csv")
    assert (rows.tissue_pixels > 0).any() and rows.groupby(["scan", "view"]).size().max() <= 28


def test_corrected_labels_of_an_mri_are_learned_from(tmp_path):
    """The case is the input's, its labels are the corrected ones."""
    save_mri(tmp_path / "cases", 2)
    make_network(tmp_path / "net.keras", (32, 32), {"spacing_mm": 1.0, "views": ["axial"]})
    for name in ("case0", "case1"):
        case, folder = tmp_path / "cases" / name, tmp_path / f"out/{name}_prediction"
        folder.mkdir(parents=True)
        (case / f"{name}_seg.nii.gz").rename(folder / "corrected.nii.gz")
        version = input_version(Target(case, name, folder))
        about = {"input": str(case), "input_version": version, "mask": "m.nii.gz"}
        about["corrections"] = [{"file": "corrected.nii.gz", "when": "2026"}]
        (folder / f"{name}.json").write_text(json.dumps(about))
    words = ["--results", tmp_path / "out", "--like", tmp_path / "net.keras", "--workers", "1"]
    main([*map(str, words), "--out", str(tmp_path / "set")])
    card = read_description(tmp_path / "set")
    assert card.channels == ("flair", "t1ce") and card.normalise == "minmax" and card.size == 32
    assert card.label_values == {1: 1, 2: 2, 3: 4}
    rows = pd.read_csv(tmp_path / "set/manifest.csv")
    assert set(rows["view"]) == {"axial"} and (rows.enhancing_tumour_pixels > 0).any()
