"""What may be asked for, and what is told before anything is asked."""

from __future__ import annotations

import pytest

from slicewise.worker.errors import Misconfigured
from slicewise.worker.intake.pulling import wanted
from slicewise.worker.intake.pulling.wanted import Wanted


@pytest.mark.parametrize(
    "text", ["1", "1.2.840.10008", "1." * 31 + "1", "2.25.340282366920938463463374607431768211455"]
)
def test_a_uid(text):
    assert wanted.uid(text) == text


@pytest.mark.parametrize("text", ["", "1.", ".1", "1..2", "1.2*", "1.a", "1\\2", "1." * 32 + "1"])
def test_no_uid(text):
    with pytest.raises(ValueError):
        wanted.uid(text)


@pytest.mark.parametrize("text", ["", " ", "A*", "A?", "A\\B", "12345678901234567"])
def test_no_accession_number(text):
    """A wildcard would ask for everything."""
    with pytest.raises(ValueError):
        wanted.accession(text)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("20260101", "20260101"),
        ("2026-01-01", "20260101"),
        ("20260101-20260131", "20260101-20260131"),
        ("2026-01-01..2026-01-31", "20260101-20260131"),
        ("2026-01-01-2026-01-31", "20260101-20260131"),
        ("20260101-", "20260101-"),
        ("..2026-01-31", "-20260131"),
        ("2026-02-28..2026-02-28", "20260228-20260228"),
    ],
)
def test_dates_as_a_query_has_them(text, query):
    assert wanted.dates(text) == query


@pytest.mark.parametrize(
    "text", ["", "-", "..", "2026", "20260230", "20260131-20260101", "20260101,20260102", "*", "yesterday"]
)
def test_no_dates(text):
    with pytest.raises(ValueError):
        wanted.dates(text)


def test_a_table_is_read_by_the_names_of_its_columns(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(
        "\ufeffPatientName,AccessionNumber,StudyInstanceUID\nDOE^JOHN, A1 ,\nDOE^JANE,,1.2.3\nDOE^JANE,,1.2.3\n",
        "utf-8",
    )
    assert wanted.several(table=table, modality="MR") == [
        Wanted(accession="A1", modality="MR"),
        Wanted(study="1.2.3", modality="MR"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,id\nDOE,1\n", "no column called StudyInstanceUID"),
        ("", "no column called"),
        ("StudyInstanceUID\n1.2.3\nDOE^JOHN\n", "line 3: the value for study is none"),
        ("StudyInstanceUID,AccessionNumber\n1.2.3,\n,\n", "line 3: nothing is asked for"),
        ("AccessionNumber\nA*\n", "line 2: the value for accession is none"),
        ("StudyDate\n*\n", "line 2: the value for dates is none"),
    ],
)
def test_a_wrong_row_is_named_by_its_line_and_not_by_what_it_holds(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(Misconfigured, match=says) as raised:
        wanted.several(table=tmp_path / "t.csv")
    assert "DOE" not in str(raised.value)


@pytest.mark.parametrize("content", [b"StudyInstanceUID\n\xff\xfe\n", None])
def test_a_table_that_cannot_be_read_is_said(tmp_path, content):
    if content:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(Misconfigured, match="cannot be read as CSV"):
        wanted.several(table=tmp_path / "t.csv")


def test_everything_is_asked_for_once_and_nothing_is_no_question():
    asked = wanted.several(studies=["1.2", "1.2"], series=["1.3"], accessions=["A"], dates="20260101", modality="MR")
    assert asked == [
        Wanted(study="1.2"),
        Wanted(series="1.3"),
        Wanted(accession="A", modality="MR"),
        Wanted(dates="20260101", modality="MR"),
    ]
    with pytest.raises(Misconfigured, match="what is wanted"):
        wanted.several()
