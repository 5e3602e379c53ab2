"""How far a command is, in a log."""

from common import progress
from common.progress import format_time, track


def test_a_log_gets_a_line_a_minute(monkeypatch, capsys):
    times = iter(range(0, 1000, 25))  # a thing takes 25 s
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    assert list(track("abcdefg", total=9, unit="scan", done=2)) == list("abcdefg")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "5 of 9 scans after 1 min, 2.4 a minute, 2 min left",
        "8 of 9 scans after 2 min, 2.4 a minute, 0 min left",
    ]


def test_a_long_time_is_told_in_hours():
    assert [format_time(s) for s in (20, 600, 5399, 5400, 86400)] == [
        "0 min",
        "10 min",
        "90 min",
        "1.5 h",
        "24.0 h",
    ]


def test_a_count_without_a_total(monkeypatch, capsys):
    times = iter(range(0, 1000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    assert list(track("abcde", None, "folder")) == list("abcde")
    assert capsys.readouterr().err.startswith("3 folders after 1 min")


def test_a_short_run_says_nothing_in_a_log(capsys):
    list(track(range(1000), total=1000, unit="image"))
    assert capsys.readouterr() == ("", "")
