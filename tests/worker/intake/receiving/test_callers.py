"""Who may send."""

from __future__ import annotations

import pytest

from slicewise.worker.errors import Misconfigured
from slicewise.worker.intake.receiving.callers import Callers, ae_title, check_listening, network, printable


def test_without_a_list_only_this_host_may_connect():
    callers = Callers("SLICEWISE")
    assert callers.admit("127.0.0.1")
    assert callers.admit("::1")
    assert not callers.admit("10.1.2.3")


def test_a_list_says_who_may_connect_and_no_other():
    callers = Callers("SLICEWISE", networks=(network("10.1.2.0/24"), network("fd00::7")))
    assert callers.admit("10.1.2.3")
    assert callers.admit("::ffff:10.1.2.3")
    assert callers.admit("fd00::7")
    assert not callers.admit("10.1.3.3")
    assert not callers.admit("fd00::8")
    assert not callers.admit("127.0.0.1")
    assert not callers.admit("fe80::1%eth0")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_this_host_alone_may_be_served_without_a_list(address):
    assert check_listening(address, (), client_certificates=False) == ()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.1.2.3"])
def test_an_address_that_others_reach_needs_a_list_or_certificates(address):
    with pytest.raises(Misconfigured, match="--allow"):
        check_listening(address, (), client_certificates=False)
    allowed = (network("10.1.2.0/24"),)
    assert check_listening(address, allowed, client_certificates=False) == allowed
    anybody = Callers("SLICEWISE", networks=check_listening(address, (), client_certificates=True))
    assert anybody.admit("10.1.2.3")
    assert anybody.admit("fd00::7")


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "A\\B", "A\nB", "Ä"])
def test_what_is_no_ae_title_is_refused(title):
    with pytest.raises(ValueError):
        ae_title(title)


def test_an_ae_title_is_its_significant_part():
    assert ae_title(" PACS 1 ") == "PACS 1"


def test_a_callers_title_is_stored_without_what_cannot_be_printed():
    assert printable("A\0B\x1b[2JÄ  ") == "A?B?[2J?"
