"""DICOM over TLS (PS3.15 B.9 and later): who has no certificate is not heard."""

from __future__ import annotations

import ssl
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from slicewise.worker.intake.receiving import server
from tests.authority import Authority
from tests.line import hang_up


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def own(authority) -> tuple[Path, Path]:
    return authority.sign("localhost")


@pytest.fixture(scope="module")
def peer(authority) -> tuple[Path, Path]:
    return authority.sign("pacs")


@pytest.fixture
def database(tmp_path, opened):
    """One kind is enough: little of this reaches it."""
    with opened(f"sqlite:///{tmp_path / 'test.sqlite3'}") as made:
        made.upgrade()
        yield made


@pytest.fixture
def secured(receive, authority, own):
    key, certificate = own
    return receive("--tls-cert", certificate, "--tls-key", key, "--tls-ca", authority.certificate)


def test_who_shows_a_certificate_is_served(secured, authority, peer, tmp_path, write_dicom, books):
    secured.storescu("+tls", *peer, "+cf", authority.certificate, write_dicom(tmp_path / "a.dcm"))
    assert len(books.arrivals()) == 1


def test_who_shows_none_or_another_ones_is_not(secured, authority, peer, tmp_path):
    stranger = Authority(tmp_path / "other").sign("stranger")
    trusted = ("+cf", authority.certificate)
    assert secured.echoscu("+tla", *trusted, status=None).returncode
    assert secured.echoscu("+tls", *stranger, *trusted, status=None).returncode
    assert secured.echoscu(status=None).returncode
    secured.echoscu("+tls", *peer, *trusted)


def test_what_is_older_than_tls_1_2_is_not_spoken(secured, peer):
    key, certificate = peer
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with secured.connection() as connection, pytest.raises(OSError):
        context.wrap_socket(connection)


def test_those_who_never_shake_hands_hold_up_nobody(serve, authority, own, peer, monkeypatch):
    monkeypatch.setattr(server, "ARTIM_SECONDS", 2.0)
    key, certificate = own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    scp = serve(tls=context)
    with ExitStack() as stack:
        silent = [stack.enter_context(scp.connection()) for _ in range(5)]
        scp.echoscu("+tls", *peer, "+cf", authority.certificate)
        for connection in silent:
            connection.settimeout(60)
            assert connection.recv(1) == b""


def test_plain_rubbish_instead_of_a_handshake(serve, authority, own, peer):
    key, certificate = own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    scp = serve(tls=context)
    with scp.connection() as connection:
        connection.sendall(b"\x01\0\0\0\xff\xff" + b"x" * 1000)
        hang_up(connection)
        with suppress(ConnectionError):
            while connection.recv(1000):
                pass
    scp.echoscu("+tls", *peer, "+cf", authority.certificate)


def test_certificates_let_others_in_without_a_list(receive, authority, own, peer):
    key, certificate = own
    words = ("--tls-cert", certificate, "--tls-key", key, "--tls-ca", authority.certificate)
    receive("--address", "0.0.0.0", *words).echoscu("+tls", *peer, "+cf", authority.certificate)
