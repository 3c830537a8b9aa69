"""Who may send: by address and by AE title. Closed by default."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from slicewise.worker.errors import Misconfigured

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Callers:
    """Who may send.

    Parameters
    ----------
    called
        The AE title a caller has to call this application by.
    calling
        AE titles that may call; empty lets any. A title is a name, not a proof: it never opens an address.
    networks
        Addresses that may connect; empty lets only this host.
    """

    called: str
    calling: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    def admit(self, address: str) -> bool:
        """Whether an address may connect at all."""
        known = _address(address)
        return any(known in network for network in self.networks) if self.networks else known.is_loopback


def check_listening(address: str, networks: Sequence[Network], *, client_certificates: bool) -> tuple[Network, ...]:
    """See that an address which others can reach is not open to all of them; the networks that may connect.

    Raises
    ------
    Misconfigured
        Neither an allow-list of addresses nor client certificates say who may send.
    """
    if networks or _address(address).is_loopback:
        return tuple(networks)
    if client_certificates:
        return (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    raise Misconfigured(
        f"{address} can be reached by others, and nothing says who may send: give --allow with the sender's address "
        "(--allow 10.1.2.3, or a network, 10.1.2.0/24), or --tls-cert, --tls-key and --tls-ca to ask for certificates"
    )


def network(text: str) -> Network:
    """An address, or a network in CIDR notation.

    Raises
    ------
    ValueError
        It is neither.
    """
    return ipaddress.ip_network(text)


def ae_title(text: str) -> str:
    """An AE title as the standard has it: 1 to 16 printable characters, no backslash (PS3.5 6.2).

    Raises
    ------
    ValueError
        It is none.
    """
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", text) or not text.strip():
        raise ValueError(text)
    return text.strip()


def printable(title: str) -> str:
    """A caller's AE title as it is stored and logged: what cannot be printed becomes a question mark."""
    return re.sub(r"[^\x20-\x7e]", "?", title.strip())


def _address(text: str) -> Address:
    known = ipaddress.ip_address(text.partition("%")[0])
    # An IPv6 socket sees an IPv4 caller as ::ffff:10.1.2.3.
    return getattr(known, "ipv4_mapped", None) or known
