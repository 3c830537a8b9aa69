"""Whose scan it is stays a secret of the key's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from slicewise.worker import pseudonyms
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import Patient, open_scan

JANE = Patient("4711", "HOSPITAL")


def test_the_same_patient_has_the_same_pseudonym_and_no_other(settings):
    named = pseudonyms.naming(settings)
    assert named(JANE) == named(Patient("4711", "HOSPITAL"))
    assert len(named(JANE)) == 32
    assert int(named(JANE), 16)
    others = [Patient("4712", "HOSPITAL"), Patient("4711"), Patient("4711", "CLINIC"), Patient("HOSPITAL", "4711")]
    assert len({named(one) for one in [JANE, *others]}) == 5
    assert named(None) is None


def test_another_home_has_another_key(settings, tmp_path):
    other = replace(settings, home=tmp_path / "other")
    assert pseudonyms.naming(settings)(JANE) != pseudonyms.naming(other)(JANE)


def test_the_key_is_private_and_stays(settings):
    before = pseudonyms.naming(settings)(JANE)
    file = settings.home / pseudonyms.KEY_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert pseudonyms.naming(settings)(JANE) == before
    assert [path.name for path in settings.home.glob(".patient*")] == []


def test_processes_that_start_together_agree(settings):
    code = (
        "import sys; from pathlib import Path; from slicewise.worker import pseudonyms as p; "
        "print(p._key(Path(sys.argv[1])).hex())"
    )
    words = [sys.executable, "-c", code, str(settings.home / "together" / pseudonyms.KEY_FILE)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate()[0] for process in started}) == 1
    assert all(process.returncode == 0 for process in started)


@pytest.mark.parametrize("content", ["", "not hexadecimal", "abcd"])
def test_a_damaged_key_is_never_replaced(settings, content):
    file = settings.home / pseudonyms.KEY_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    with pytest.raises(Misconfigured):
        pseudonyms.naming(settings)
    assert file.read_text() == content


def test_the_identifier_itself_or_nothing_where_a_person_wants_that(settings):
    assert pseudonyms.naming(replace(settings, patient_id="plain"))(JANE) == "4711"
    assert pseudonyms.naming(replace(settings, patient_id="none"))(JANE) is None
    assert not (settings.home / pseudonyms.KEY_FILE).exists()


def test_a_patient_is_no_text(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PatientID=" 4711 ", IssuerOfPatientID="HOSPITAL")
    scan = open_scan(path.read_bytes())
    assert scan.patient == JANE
    assert "4711" not in repr(scan)
    assert open_scan(write_dicom(tmp_path / "b.dcm").read_bytes()).patient is None


def test_what_a_worker_stores_is_the_pseudonym(shop, write_dicom, tmp_path):
    (job,) = shop.submit(write_dicom(tmp_path / "a.dcm", PatientID="4711", IssuerOfPatientID="HOSPITAL")).jobs
    shop.worker().on_job(job)
    (row,) = shop.results()
    assert row["patient"] == pseudonyms.naming(shop.settings)(JANE)
