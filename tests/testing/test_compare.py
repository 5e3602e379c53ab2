"""Two networks side by side: what is compared, and what it comes to."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from testing.compare import compare, summarise, tabulate


def scans(dice, **more):
    """Scores of scans s0, s1, …"""
    rows = {"Image": [f"s{n}" for n in range(len(dice))], "Dice": dice, "Kind": "scan"}
    rows |= {"Case": "", "View": "", "File": rows["Image"]}
    return pd.DataFrame(rows | more)


def test_means_counts_and_p_of_scans_are_those_of_their_differences():
    a, b = np.array([0.9, 0.8, 0.7, 0.95, 0.6]), np.array([0.95, 0.82, 0.69, 0.95, 0.9])
    table = compare(scans(a), scans(b))
    np.testing.assert_allclose(table.Difference, b - a)
    lines = " ".join(summarise(table))
    assert "5 scans or cases" in lines and "mean 0.7900 and 0.8620" in lines
    assert "better on 3, worse on 1, as good on 1" in lines
    assert f"p {wilcoxon(table.Difference).pvalue:.3g}" in lines
    assert "differ most on s4 (+0.3000), s0 (+0.0500), s1 (+0.0200)" in lines
    assert tabulate(table).splitlines()[1].split() == ["s4", "0.6000", "0.9000", "0.3000"]


def test_networks_that_do_the_same_differ_in_nothing():
    lines = " ".join(summarise(compare(scans([0.9, 0.8]), scans([0.9, 0.8]))))
    assert "as good on 2" in lines and "p 1 (there is no difference)" in lines


def test_only_what_both_could_score_is_compared():
    table = compare(scans([0.9, 0.8, 0.7]), scans([0.9, 0.8]))
    assert table.Name.tolist() == ["s0", "s1"]


def test_scans_of_one_name_are_told_apart_by_their_files():
    a = scans([0.9, 0.8], Image="ct", File=["p1/ct.nii.gz", "p2/ct.nii.gz"])
    assert compare(a, a).Name.tolist() == ["p1/ct.nii.gz", "p2/ct.nii.gz"]


def test_the_slices_of_a_case_count_together_in_all_views():
    rows = pd.DataFrame(
        {
            "Image": ["a", "b", "c"],
            "File": ["a", "b", "c"],
            "Case": ["p", "p", ""],
            "View": ["axial", "coronal", ""],
            "Kind": "slice",
            "Brain": [10, 30, 10],
            "Predicted": [10, 50, 10],
            "Both": [10, 30, 5],
            "Dice": [1.0, 0.75, 0.5],
        }
    )
    table = compare(rows, rows.assign(Predicted=[10, 30, 10])).set_index("Name")
    assert table.loc["p", "Dice A"] == pytest.approx(0.8) and table.loc["p", "Dice B"] == 1
    assert table.loc["c", "Dice A"] == 0.5


def test_regions_are_compared_apart():
    def regions(whole, core):
        first, second = scans(whole, Region="whole"), scans(core, Region="core")
        return pd.concat([first, second], ignore_index=True)

    table = compare(regions([0.9, 0.8], [0.5, 0.6]), regions([0.9, 0.9], [0.4, 0.6]))
    lines = summarise(table)
    assert lines[0].startswith("whole: 2 scans") and "better on 1, worse on 0" in lines[0]
    assert lines[2].startswith("core: 2 scans") and "better on 0, worse on 1" in lines[2]
