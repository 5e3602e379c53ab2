"""Scores of slices with a label, told by case and by the slices that hold none."""

import pandas as pd

from testing.summary import of_cases, summary


def rows_of(case, *counts):
    """Rows of slices of a case: (pixels of the label, predicted, both)."""
    return [
        {"Image": f"{case}_{n}", "Region": "tumour", "Kind": "slice", "Case": case, "View": "slice"}
        | dict(zip(("Brain", "Predicted", "Both"), three, strict=True))
        for n, three in enumerate(counts)
    ]


TABLE = pd.DataFrame(
    rows_of("a", (10, 10, 10), (0, 0, 0), (0, 5, 0))
    + rows_of("b", (10, 10, 0), (20, 0, 0))
    + rows_of("c", (10, 20, 5), (0, 0, 0))
)


def test_slices_of_a_case_count_together():
    cases, empty = summary(TABLE)
    # a: 20 / 25, b: 0, c: 10 / 30
    assert "3 cases" in cases and "mean 0.3778, median 0.3333, worst 0.0000 (b slice)" in cases
    assert empty == "tumour: 3 slices without it, with false positives: 1 (33.3%)"


def test_a_case_is_shown_by_its_slice_with_most_of_the_label():
    shown = of_cases(TABLE)
    assert shown.Image.tolist() == ["a_0", "b_1", "c_0"]
    assert shown.F1.round(4).tolist() == [0.8, 0, 0.3333]
