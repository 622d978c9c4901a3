"""Tables of the command line: their cells as they are written, and the numbers among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bayesmeta as bm
from bayesmeta.columns import columns_of
from bayesmeta.csv_tables import Table, read_table

COLUMNS = columns_of("site", "dose", "response", None)


def table(path: Path, text: str, columns: bm.tasks.Columns = COLUMNS) -> Table:
    path.write_text(text)
    return read_table(path, columns)


def test_cells_stay_as_they_are_and_numbers_are_those_of_pandas(tmp_path: Path) -> None:
    found = table(tmp_path / "t.csv", "site,dose,response,zip\n007,1e1,5.10,00123\nb, 2.5 ,NA,00124\n")

    assert found.cells["zip"].tolist() == ["00123", "00124"]
    assert found.cells["response"].tolist() == ["5.10", "NA"]
    np.testing.assert_array_equal(found.numbers["dose"], [10.0, 2.5])
    np.testing.assert_array_equal(found.numbers["response"], [5.1, np.nan])
    assert (found.tasks.tolist(), found.unknown.tolist()) == (["007", "b"], [False, True])


def test_rows_are_named_by_their_lines_whatever_blank_lines_there_are(tmp_path: Path) -> None:
    found = table(tmp_path / "t.csv", "site,dose,response\n\n\na,1,2\n ,,\nb,2,3\n")

    assert found.numbers.index.tolist() == [4, 6]
    with pytest.raises(bm.errors.DataError, match=r"has 'high' in column 'dose', line 5 \(1 lines in all\)"):
        table(tmp_path / "t.csv", "site,dose,response\n\n\na,1,2\nb,high,3\n")


def test_truth_in_words_is_a_number(tmp_path: Path) -> None:
    found = table(tmp_path / "t.csv", "site,dose,response\na,1,True\na,2,false\na,3, \n")

    np.testing.assert_array_equal(found.numbers["response"], [1.0, 0.0, np.nan])


def test_the_column_of_the_task_may_be_a_number_too(tmp_path: Path) -> None:
    found = table(tmp_path / "t.csv", "year,response\n1990,1\n1991,\n", columns_of("year", None, "response", "year"))

    assert found.tasks.tolist() == ["1990", "1991"]
    np.testing.assert_array_equal(found.numbers["year"], [1990.0, 1991.0])
