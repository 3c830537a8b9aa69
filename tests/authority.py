"""An authority that signs certificates for tests, by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


class Authority:
    """Signs certificates for tests."""

    def __init__(self, folder: Path) -> None:
        assert shutil.which("openssl"), "openssl is missing: apt-get install openssl"
        self._folder = folder
        folder.mkdir()
        self.certificate = folder / "ca.pem"
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=authority", "-days", "2",
                      "-keyout", folder / "ca.key", "-out", self.certificate)  # fmt: skip

    def sign(self, name: str) -> tuple[Path, Path]:
        """Key and certificate of a host or an application."""
        key, asked, certificate = (self._folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        self._openssl("req", "-newkey", "rsa:2048", "-noenc", "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
        self._openssl("x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self._folder / "ca.key",
                      "-CAcreateserial", "-days", "2", "-out", certificate)  # fmt: skip
        return key, certificate

    def _openssl(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
