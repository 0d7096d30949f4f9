"""Whose requests are answered: those of the page itself.

A web page elsewhere can have a browser send requests to this server. It is kept out in three ways: the server answers
only for its own names (a foreign name that is made to lead here is refused), not to requests of other origins, and all
but the page itself asks for a header that only scripts of the page can send.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping

from .app_errors import AppError

__all__ = ["HEADERS", "check_headers", "is_loopback", "own_names"]

# No other server is asked for anything: fonts, scripts and pictures are this one's.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_names(host: str) -> frozenset[str]:
    """Return the names, in lower case, that this server answers for."""
    names = {"localhost", host.lower()}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def check_headers(method: str, headers: Mapping[str, str], names: frozenset[str], loopback: bool) -> None:
    """Refuse a request for another host's name, or of another origin.

    Raises
    ------
    AppError
        If it is one.
    """
    host = headers.get("host", "")
    if not _is_own(_name_of(host), names, loopback):
        raise AppError(403, "This server does not answer for that name: use the address that it printed.")
    origin = headers.get("origin")
    foreign = origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower())
    if method not in ("GET", "HEAD") and (foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")):
        raise AppError(403, "This request comes from another page.")


def _name_of(host: str) -> str:
    """Return a Host header without its port, in lower case, without the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_own(name: str, names: frozenset[str], loopback: bool) -> bool:
    """Whether a name is this server's. A number is no name that somebody else can have lead here."""
    if name in names:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback if loopback else True
