"""A report stands on its own, says the same in both forms, and always comes out the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.errors import TickwatchError
from training.report import Cell, Picture, Report, Table, legend, line_style, picture


def sample() -> Report:
    figure, axes = picture()
    axes.plot([0, 1], [1, 0], label="falling", **line_style(0))
    legend(axes)
    rows = [
        [Cell("GRU <32>"), Cell("0.43", "best"), Cell("7.0", "off")],
        [Cell("a|b"), Cell("0.41"), Cell("0.9", "beaten")],
    ]
    return Report(
        "Who wins?",
        ["One & two."],
        [
            Table("Numbers", ["name", "AP", "delay"], rows, "Read with care."),
            Picture("line", "A line", figure, "It falls."),
        ],
    )


def test_the_html_needs_nothing_but_itself_and_escapes_what_it_is_given() -> None:
    html = sample().html()
    assert not re.findall(r'<script|<link|@import|(?:src|href)="(?!#)', html)
    assert "GRU &lt;32&gt;" in html
    assert "One &amp; two." in html
    assert html.count("<svg") == 1
    assert "falling" in html


def test_pictures_take_the_colour_of_the_text_in_html_and_a_grey_in_files(tmp_path: Path) -> None:
    report = sample()
    assert "currentColor" in report.html()
    report.write(tmp_path)
    drawn = (tmp_path / "line.svg").read_text()
    assert "#7f8081" in drawn
    assert "currentColor" not in drawn


def test_both_forms_hold_every_word_and_marks_are_not_told_by_colour_alone(tmp_path: Path) -> None:
    sample().write(tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "| GRU <32> | **0.43** | 7.0 ✗ |" in markdown.splitlines()
    assert "| a\\|b | 0.41 | **0.9** ▲ |" in markdown.splitlines()
    assert "![A line](line.svg)" in markdown
    html = (tmp_path / "report.html").read_text()
    for words in ("Who wins?", "Numbers", "Read with care.", "A line", "It falls.", "0.41"):
        assert words in html
        assert words in markdown


def test_the_same_report_has_the_same_bytes() -> None:
    assert sample().html() == sample().html()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TickwatchError, match=r"--output .*file: .*; give a folder that can be written"):
        sample().write(tmp_path / "file")
