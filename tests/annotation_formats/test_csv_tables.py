"""Comma-separated values, read back with pandas and with the csv module."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from lucid_maskrcnn.annotation_formats.csv_tables import table_text

NAMES = [
    "plain",
    "a,b",
    'say "x"',
    "two\nlines",
    "carriage\rreturn",
    "crlf\r\n.",
    " spaces ",
    "é漢😀",
    "semi;colon",
    "tab\tin",
]


def test_cells_come_back_with_pandas_and_csv():
    columns = {"id": np.arange(10), "name": NAMES, "yes": np.arange(10) > 4, "x": np.linspace(0, 1, 10) / 3}
    text = table_text(columns)
    read = pd.read_csv(io.StringIO(text, newline=""))
    assert [*read.columns] == [*columns]
    assert read["name"].tolist() == NAMES
    assert read["yes"].tolist() == columns["yes"].tolist()
    np.testing.assert_array_equal(read["x"], columns["x"])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[1] for row in rows] == ["name", *NAMES]


def test_lines_end_in_a_newline_only():
    assert table_text({"id": [1, 2], "name": ["a", "b"]}) == "id,name\n1,a\n2,b\n"


def test_float32_has_its_own_digits_and_nan_is_empty():
    column = np.array([0.9, np.nan, 1, 1e-9], np.float32)
    assert table_text({"s": column, "n": [1, 2, 3, 4]}) == "s,n\n0.9,1\n,2\n1.0,3\n1e-09,4\n"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "=cmd|' /C calc'!A0"])
def test_text_that_a_spreadsheet_would_run_is_made_text(name):
    (cell,) = pd.read_csv(io.StringIO(table_text({"name": [name]}), newline=""))["name"]
    assert cell == "'" + name


def test_negative_numbers_stay_numbers():
    assert table_text({"x": np.array([-1.5]), "n": np.array([-3])}) == "x,n\n-1.5,-3\n"


def test_no_rows_have_headings():
    assert table_text({"id": np.zeros(0, int), "name": []}) == "id,name\n"
