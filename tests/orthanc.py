"""Orthanc, a small PACS: a real peer for what is sent, fetched and asked over the network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path


class Orthanc:
    """Takes instances over its REST interface, sends them on by C-STORE, and gives them out by C-GET, C-MOVE and DICOMweb.

    Parameters
    ----------
    modalities
        Whom it knows: AE title, host and port by name.
    """

    def __init__(self, folder: Path, modalities: dict[str, list[object]], wait_until, **more: object) -> None:
        # Debian's place for it is not on everybody's PATH.
        program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
        plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
        assert program, "Orthanc is missing: apt-get install orthanc"
        assert plugin.exists(), "Orthanc's DICOMweb is missing: apt-get install orthanc-dicomweb"
        with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as dicom:
            self.http_port, self.port = http.getsockname()[1], dicom.getsockname()[1]
        settings = {
            "Name": "pacs",
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": "ORTHANC",
            "DicomPort": self.port,
            "DicomModalities": modalities,
            "DicomAlwaysAllowGet": True,
            "Plugins": [str(plugin)],
            **more,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._words, self._log = [program, folder / "orthanc.json"], folder / "log"
        self._wait_until = wait_until
        self.start()

    @property
    def ae(self) -> str:
        return f"ORTHANC@127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(self._words, stdout=log, stderr=log)
        self._wait_until(self._answers)

    def add(self, path: Path) -> str:
        """Take in an instance; its id."""
        return str(self._ask("/instances", path.read_bytes())["ID"])

    def store(self, modality: str, instances: list[str]) -> dict[str, object]:
        """Send instances on; how that went."""
        return self._ask(f"/modalities/{modality}/store", json.dumps(instances).encode())

    def echo(self, modality: str) -> None:
        self._ask(f"/modalities/{modality}/echo", b"{}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            self._ask("/system")
        except urllib.error.URLError:
            return False
        return True

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", body, timeout=60) as answer:
            return json.load(answer)
