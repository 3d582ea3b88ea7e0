"""Webhooks: one POST of JSON, signed, to where the rule for addresses lets it go.

A job file may name any URL, and the master stands where people's browsers and
the outside don't: behind the firewall, beside services that trust their
network. So a webhook reaches public addresses by https, and nothing else, but
for the hosts that the master's settings name. The address is looked at when
the connection is made, not only before, so that a name that answers otherwise
the second time leads nowhere. Redirects are not followed.

The signature is over the time and the body, as many services do it:

    X-Meshtrain-Signature: t=1700000000,v1=<HMAC-SHA256 of "t.body", in hex>
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from meshtrain.spec.problems import shown

ANSWER_BYTES_MAX: Final = 1024
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            *("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "5f00::/16", "3fff::/20"),
            *("fec0::/10", "192.0.0.0/24", "192.88.99.0/24"),
        ),
    )
)
"""What Python's own table, which differs between its versions, takes for global."""
_AGAIN: Final = frozenset({408, 425, 429})
"""Statuses that say: later, perhaps."""


class NotSentError(Exception):
    """Raised when something was not delivered and may be tried again."""


class NeverSentError(NotSentError):
    """Raised when something was not delivered and won't be, however often it is tried."""


def problem_of(url: str, hosts: Collection[str]) -> str:
    """Why a webhook may not go to a URL, as far as that can be told without looking it up."""
    try:
        host = (URL(url).host or "").casefold()
    except ValueError as error:
        return f"{shown(url)} names no host that can be looked up ({error})"
    if host in hosts:
        return ""
    mend = f"name {host} in notify_hosts of the master's settings, if that is meant"
    if not url.casefold().startswith("https://"):
        return f"webhooks go by https: {mend}"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost" or host.endswith(".localhost"):
            return f"{host} is the master's own host: {mend}"
        return ""
    return "" if is_public(str(address)) else f"{host} is no public address: {mend}"


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, also through a translation."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(address.packed[-4:])
        if address.teredo is not None:
            return False
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast


class Webhooks:
    """Sends them.

    Args:
        hosts: those that may be private, or reached by http; in small letters.
        timeout_s: for one of them in all.
        resolver: looks names up; not given, the system does.
    """

    def __init__(
        self,
        hosts: Collection[str],
        timeout_s: float,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, url: str, body: bytes, headers: dict[str, str], secret: bytes, now_s: float
    ) -> None:
        """Send one.

        Args:
            secret: signs it; empty signs nothing.
            now_s: seconds since 1970.

        Raises:
            NotSentError: when it was not taken; NeverSentError when it won't be.
        """
        if problem := problem_of(url, self._hosts):
            raise NeverSentError(problem)
        headers = {**headers, "Content-Type": "application/json", "User-Agent": "meshtrain"}
        if secret:
            headers["X-Meshtrain-Signature"] = signature(secret, body, int(now_s))
        try:
            async with self._open().post(
                URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                said = await response.content.read(ANSWER_BYTES_MAX)
        except PrivateAddressError as error:
            raise NeverSentError(str(error)) from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PrivateAddressError):
                raise NeverSentError(str(error.os_error)) from error
            raise NotSentError(str(error)) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NotSentError(str(error) or "it did not answer in time") from error
        if 200 <= status < 300:
            return
        told = f"it answered {status}: {_readable(said)}".rstrip(": ")
        if status >= 500 or status in _AGAIN:
            raise NotSentError(told)
        raise NeverSentError(told)

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=16,
                    resolver=_GuardedResolver(self._resolver(), self._hosts),
                    use_dns_cache=False,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class PrivateAddressError(OSError):
    """Raised when a name leads to addresses that webhooks don't go to."""


class _GuardedResolver(AbstractResolver):
    """Shows the connector public addresses alone, and says so where there are none."""

    def __init__(self, inner: AbstractResolver, hosts: Collection[str]) -> None:
        self._inner = inner
        self._hosts = hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host.casefold() in self._hosts:
            return found
        public = [one for one in found if is_public(one["host"])]
        if not public:
            raise PrivateAddressError(
                f"{host} has no public address: name it in notify_hosts of the master's "
                "settings, if that is meant"
            )
        return public

    async def close(self) -> None:
        await self._inner.close()


def signature(secret: bytes, body: bytes, now_s: int) -> str:
    """The signature of a body, as its receiver reckons it again."""
    digest = hmac.new(secret, f"{now_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={now_s},v1={digest}"


def _readable(said: bytes) -> str:
    text = said.decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200].strip()
