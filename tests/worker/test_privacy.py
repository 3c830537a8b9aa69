"""No name, number or date of a patient in anything that is logged, queued or stored: planted everywhere, looked for everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pydicom
import pytest
import redis
import requests
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import Table, inspect, select

from slicewise.db.models import Base

# What stands in a header, and what a file or folder is called.
HEAD, NAME = "ZZHEAD", "ZZNAME"
DATE, BORN = "19390417", "1939-04-17"

# Where a person may see what a file is called: they named it, or ask for it. docs/operations.md says so.
NAMED = {("arrivals", "source"), ("watched", "path"), ("audit", "detail")}

TEXTS = {
    "PN": f"{HEAD}^Jane", "LO": f"{HEAD} lo", "SH": f"{HEAD} sh", "ST": f"{HEAD} st", "LT": f"{HEAD} lt", "UT": f"{HEAD} ut",
    "UC": f"{HEAD} uc", "UR": f"urn:{HEAD}", "CS": HEAD, "AE": HEAD, "DA": DATE, "DT": f"{DATE}101112", "TM": "101112.939417",
    "AS": "087Y",
}  # fmt: skip

PLANTED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "OtherPatientNames", "PatientAddress", "PatientComments",
    "PatientTelephoneNumbers", "EthnicGroup", "Occupation", "AdditionalPatientHistory", "AccessionNumber", "StudyID", "StudyDate",
    "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime", "StudyDescription", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName",
    "RequestingPhysician", "StationName", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "ImageComments",
    "StudyComments", "ReasonForTheRequestedProcedure", "RequestedProcedureDescription", "PerformedProcedureStepDescription",
    "IssuerOfPatientID", "MedicalRecordLocator", "PatientMotherBirthName", "RetrieveURL", "ScheduledStationAETitle",
)  # fmt: skip


def planted(dataset: Dataset) -> Dataset:
    """Put them into every kind of text, at the top, in a sequence and in private elements."""
    for keyword in PLANTED:
        setattr(dataset, keyword, TEXTS[pydicom.datadict.dictionary_VR(pydicom.datadict.tag_for_keyword(keyword))])
    item = Dataset()
    item.PatientName = item.RequestedProcedureDescription = f"{HEAD}^Item"
    dataset.RequestAttributesSequence = Sequence([item])
    private = dataset.private_block(0x0019, f"{HEAD} PRIVATE", create=True)
    private.add_new(1, "LO", f"{HEAD} private")
    private.add_new(2, "UN", f"{HEAD} unknown".encode())
    return dataset


def sound(path: Path, write_dicom, number: int, **elements: object) -> Path:
    dataset = planted(pydicom.dcmread(write_dicom(path, seed=number)))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


# Elements whose text stands where numbers, UIDs or defined terms belong: what libraries quote when they stumble.
MISPLACED = {
    "Rows": "US", "Columns": "US", "BitsAllocated": "US", "BitsStored": "US", "HighBit": "US", "PixelRepresentation": "US",
    "SamplesPerPixel": "US", "PlanarConfiguration": "US", "NumberOfFrames": "IS", "PhotometricInterpretation": "CS",
    "Modality": "CS", "BodyPartExamined": "CS", "ImageType": "CS", "SeriesDescription": "LO", "ProtocolName": "LO",
    "RescaleSlope": "DS", "RescaleIntercept": "DS", "WindowCenter": "DS", "WindowWidth": "DS", "VOILUTFunction": "CS",
    "SpecificCharacterSet": "CS", "SOPInstanceUID": "UI", "SOPClassUID": "UI", "SeriesInstanceUID": "UI", "StudyInstanceUID": "UI",
    "ImageOrientationPatient": "DS", "PixelSpacing": "DS", "EchoTime": "DS", "InstanceNumber": "IS", "PatientBirthDate": "DA",
    "LossyImageCompression": "CS", "BurnedInAnnotation": "CS", "PresentationLUTShape": "CS",
}  # fmt: skip


def misplaced(path: Path, good: Path, keyword: str) -> Path:
    """The same file, with a text where the element has something else."""
    dataset = pydicom.dcmread(good)
    tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
    text = f"{HEAD}^{keyword}".encode()
    text += b" " * (len(text) % 2)
    # Raw: written as it is.
    dataset[tag] = RawDataElement(tag, MISPLACED[keyword], len(text), text, 0, False, True)
    dataset.save_as(path, enforce_file_format=False, little_endian=True, implicit_vr=False)
    assert text in path.read_bytes()
    return path


@pytest.fixture
def scans(tmp_path, write_dicom, write_jpeg) -> list[Path]:
    """Sound, broken and foreign files, all full of names."""
    folder = tmp_path / f"{NAME}-folder"
    made = [sound(folder / f"{NAME}-{n}.dcm", write_dicom, n) for n in range(3)]
    made.append(sound(folder / f"{NAME}-ct.dcm", write_dicom, 3, Modality="CT"))
    made.append(sound(folder / f"{NAME}-knee.dcm", write_dicom, 4, BodyPartExamined="KNEE", SeriesDescription=HEAD))
    made.append(sound(folder / f"{NAME}-other-bytes.dcm", write_dicom, 0, PatientName=f"{HEAD}^Other"))
    made += [misplaced(folder / f"{NAME}-{keyword}.dcm", made[1], keyword) for keyword in MISPLACED]
    whole = made[1].read_bytes()
    for name, body in {
        "header": whole[:700], "pixels": whole[:-3000], "noise": whole[:400] + os.urandom(3000), "text": f"{HEAD} text".encode(),
        "syntax": whole.replace(uid.ExplicitVRLittleEndian.encode() + b"\0", f"{HEAD}^syntax-123456".encode()[:20], 1),
    }.items():  # fmt: skip
        made.append(folder / f"{NAME}-{name}.dcm")
        made[-1].write_bytes(body)
    made.append(write_jpeg(folder / f"{NAME}.jpg", seed=9))
    picture = made[-1].read_bytes()
    comment = f"{HEAD} comment".encode()
    made[-1].write_bytes(picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:])
    made.append(folder / f"{NAME}-half.jpg")
    made[-1].write_bytes(made[-2].read_bytes()[:900])
    made.append(folder / f"{NAME}.zip")
    with zipfile.ZipFile(made[-1], "w") as packed:
        packed.writestr(f"{NAME}/{NAME}-inside.dcm", f"{HEAD} inside")
    made.append(folder / f"{NAME}-broken.zip")
    made[-1].write_bytes(b"PK" + HEAD.encode())
    return made


class Listener:
    """Starts commands as a user does, and keeps all that they say."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *words: object) -> Path:
        """Start one and go on; where its words will be."""
        said = self._folder / f"{len(self._running)}-{words[0]}"
        with said.open("wb") as output:
            command = [sys.executable, "-m", "slicewise.worker.cli", *map(str, words)]
            self._running.append(subprocess.Popen(command, stdout=output, stderr=output))
        return said

    def run(self, *words: object) -> Path:
        """Run one to its end, whatever that is."""
        said = self.start(*words)
        self._running[-1].wait(120)
        return said

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(60)


@pytest.fixture
def listener(tmp_path, processes, quick) -> Iterator[Listener]:
    made = Listener(tmp_path / "said")
    yield made
    made.stop()


def port_of(said: Path, wait_until) -> int:
    import re

    return int(wait_until(lambda: re.search(r"(?:port |127\.0\.0\.1:)(\d+)", said.read_text())).group(1))


def test_nobodys_name_gets_anywhere(listener, scans, settings, opened, tmp_path, wait_until):
    folder, drop = scans[0].parent, tmp_path / "drop"
    drop.mkdir()
    up = listener.start("up")
    wait_until(lambda: "is up" in up.read_text())
    silent = [
        up,
        listener.start("watch", drop, "--quiet", "0.2", "--rescan", "1", "--gather", "1"),
        receiver := listener.start("receive", "--port", 0, "--gather", "1"),
        server := listener.start("serve", "--port", 0, "--gather", "1"),
    ]
    _send(port_of(receiver, wait_until), scans)
    _upload(port_of(server, wait_until), scans)
    for path in scans:
        (drop / path.name).write_bytes(path.read_bytes())
    listener.run("submit", folder, tmp_path / f"{NAME}-folder" / f"{NAME}.zip")
    with opened(settings.database_url) as database:
        wait_until(lambda: not [path for path in drop.iterdir() if path.is_file()])
        wait_until(lambda: not _unsettled(database))
        silent += [listener.run(*words) for words in (("jobs",), ("series",), ("dead", "list"), ("doctor",))]
        asked = [listener.run("reconcile", folder, "--all"), listener.run("results"), listener.run("explain", scans[0])]
        asked.append(listener.run("explain", folder / "nothing"))
        queued = _queued(settings)
        stored = dict(_stored(database))
    said = {f"said by {path.name}": path.read_text() for path in silent}
    logged = {f"in {path}": path.read_text(errors="replace") for path in settings.logs.rglob("*") if path.is_file()}
    assert any("worker.log" in where for where in logged)
    files = {
        str(path): path.read_bytes().decode("latin-1") for path in settings.home.glob("redis/**/*") if path.is_file()
    }
    assert stored["instances", "patient"]
    _nowhere((HEAD, DATE, BORN), said | logged | queued | files | stored | {str(p): p.read_text() for p in asked})
    named = {where: text for where, text in stored.items() if where not in NAMED}
    _nowhere((NAME,), said | logged | queued | files | named)
    # The test can see: what may be named is.
    assert NAME in stored["arrivals", "source"]
    assert NAME in asked[0].read_text()
    reasons = [path.read_text() for path in drop.rglob("*.reason*")]
    assert not [text for text in reasons if HEAD in text]


def _send(port: int, scans: list[Path]) -> None:
    """By C-STORE, whatever dcmtk is willing to send."""
    for path in scans:
        subprocess.run(
            ["storescu", "-aec", "SLICEWISE", "127.0.0.1", str(port), path],
            env={**os.environ, "TCP_NODELAY": "1"},
            capture_output=True,
            check=False,
            timeout=60,
        )


def _upload(port: int, scans: list[Path]) -> None:
    at = f"http://127.0.0.1:{port}"
    with closing(requests.Session()) as session:
        parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() for path in scans]
        message = b"\r\n".join(parts) + b"\r\n--b--\r\n"
        kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
        assert session.post(f"{at}/studies?{NAME}", message, headers=kind).status_code == 202
        assert session.post(f"{at}/studies/{NAME}", message, headers=kind).status_code == 400
        assert session.post(f"{at}/jobs", files=[("file", (p.name, p.read_bytes())) for p in scans]).status_code == 202
        session.get(f"{at}/{NAME}", headers={"User-Agent": NAME, "Referer": NAME})
        session.get(f"{at}/jobs/{NAME}/results")


def _unsettled(database) -> list[object]:
    jobs = Base.metadata.tables["jobs"]
    with database.reading() as session:
        return list(session.execute(select(jobs.c.id).where(jobs.c.status.not_in(["done", "dead"]))))


def _queued(settings) -> dict[str, str]:
    """Everything that Redis holds."""
    broker = redis.Redis(unix_socket_path=str(settings.home / "redis.sock"))
    with closing(broker):
        return {
            f"Redis's {key!r}": repr((key, broker.dump(key), *_values(broker, key)))
            for key in broker.scan_iter(count=100)
        }


def _values(broker, key) -> list[object]:
    kind = broker.type(key)
    if kind == b"hash":
        return list(broker.hgetall(key).items())
    if kind == b"list":
        return list(broker.lrange(key, 0, -1))
    if kind == b"set":
        return list(broker.smembers(key))
    return list(broker.zrange(key, 0, -1)) if kind == b"zset" else []


def _stored(database) -> Iterator[tuple[tuple[str, str], str]]:
    """Every column of every table, as text."""
    for name in inspect(database.engine).get_table_names():
        table = Table(name, Base.metadata, autoload_with=database.engine, extend_existing=False, keep_existing=True)
        with database.reading() as session:
            for column in table.columns:
                yield (name, column.name), "\n".join(map(repr, session.execute(select(column)).scalars()))


def _nowhere(words: tuple[str, ...], texts: dict[object, str]) -> None:
    found = [
        f"{word} in {where}: …{text[max(0, (at := text.index(word)) - 200) : at + 100]}…"
        for where, text in texts.items()
        for word in words
        if word in text
    ]
    assert not found, "\n".join(found)
