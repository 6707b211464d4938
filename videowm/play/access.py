"""Who may talk to the server: this machine, or whoever has the token; no foreign page on either's behalf."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

LOCAL = ("localhost", "127.0.0.1", "::1")
ANY = ("0.0.0.0", "::")  # addresses that listen on every network
PROTECTED = ("/", "/play")  # what needs the token; styles and scripts are no secret
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable, Callable], Awaitable[None]]


@dataclass(frozen=True)
class Access:
    """The address that the server listens on, and the token that requests need; None: none."""

    host: str
    token: str | None = None

    @classmethod
    def of(cls, host: str, token: str | None) -> Access:
        """With a new token where the network can reach the server and none is given."""
        return cls(host, token or (None if host in LOCAL else secrets.token_urlsafe(16)))

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is refused; None where it is not.

        A page of another site can have a browser send requests here (cross-site WebSocket hijacking). It can also do
        so under a name of its own that resolves to this machine (DNS rebinding). So Origin and Host are compared.
        """
        host = header(scope, b"host")
        if host is None or not self.knows(name_of(host)):
            return "this server does not go by that name: open the address that it printed"
        origin = header(scope, b"origin")
        if has(scope, b"origin") and (origin is None or not same(origin, host)):
            return "requests of other sites are refused: open the address that the server printed"
        if self.token and scope["path"] in PROTECTED and not self.has_token(scope):
            return "a token is needed: open the whole address that the server printed"
        return None

    def knows(self, name: str) -> bool:
        """Whether a Host header may have this name."""
        if name in (*LOCAL, self.host.lower()) and name not in ANY:
            return True
        return self.host in ANY and (is_address(name) or name == socket.gethostname().lower())

    def has_token(self, scope: Scope) -> bool:
        """Whether the request's address holds the token, once."""
        given = parse_qs(scope["query_string"].decode("latin1")).get("token", [])
        return len(given) == 1 and secrets.compare_digest(given[0].encode(), (self.token or "").encode())


class Guard:
    """An ASGI application in front of another: refuses what `Access` refuses, and adds headers to answers."""

    def __init__(self, app: App, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        why = self.access.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if why is None:
            await self.app(scope, receive, with_headers(send))
        elif scope["type"] == "http":
            start = {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            await with_headers(send)(start)
            await send({"type": "http.response.body", "body": why.encode()})
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": why})


def with_headers(send: Callable) -> Callable:
    """`send` with `HEADERS` in every answer."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sending


def has(scope: Scope, name: bytes) -> bool:
    """Whether a request has a header."""
    return any(key == name for key, _ in scope["headers"])


def header(scope: Scope, name: bytes) -> str | None:
    """A header's value; None where it is missing, comes twice or is not ASCII."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode() if len(found) == 1 and found[0].isascii() else None


def name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    inner, closed, _ = host[1:].partition("]") if host.startswith("[") else (host.partition(":")[0], "]", "")
    return inner.lower() if closed else ""


def same(origin: str, host: str) -> bool:
    """Whether an Origin is a page of this Host."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def is_address(name: str) -> bool:
    """Whether a name is an IP address: no page can be made to own one by a name server."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
