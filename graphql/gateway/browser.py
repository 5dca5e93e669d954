"""What makes the gateway safe to use from web pages: origins, cross-site guard, cookies, headers."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.leaving import Leaving
from gateway.settings import GatewaySettings

DEVICE_SECONDS: Final = 180 * 86400.0  # as long as identity knows a device
COOKIE_PATH: Final = "/graphql"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ALLOW_HEADERS = (
    "Accept, Accept-Language, Authorization, Content-Type, Tus-Resumable, Upload-Length, Upload-Offset, "
    "Upload-Metadata, X-HTTP-Method-Override, Range, If-Range, traceparent"
)
_EXPOSE_HEADERS = (
    "Location, Retry-After, Tus-Version, Tus-Resumable, Tus-Max-Size, Tus-Extension, Upload-Offset, "
    "Upload-Length, Upload-Metadata, Upload-Expires, Upload-Document, Content-Disposition, Content-Range, "
    "ETag"
)


def cookie_name(settings: GatewaySettings) -> str:
    """`__Secure-` makes browsers refuse one that an insecure page planted."""
    return "__Secure-motcua-refresh" if settings.cookie_secure else "motcua-refresh"


def cookie(settings: GatewaySettings, value: str, seconds: float, name: str = "") -> str:
    """The Set-Cookie of a refresh token, or of that name; an empty value deletes it."""
    jar: SimpleCookie = SimpleCookie()
    name = name or cookie_name(settings)
    jar[name] = value
    morsel = jar[name]
    morsel["path"] = COOKIE_PATH
    morsel["httponly"] = True
    morsel["samesite"] = "Strict"
    morsel["max-age"] = str(max(0, int(seconds)) if value else 0)
    if settings.cookie_secure:
        morsel["secure"] = True
    return morsel.OutputString()


def device_cookie_name(settings: GatewaySettings) -> str:
    """The cookie by which a device that signed in before is known."""
    return "__Secure-motcua-device" if settings.cookie_secure else "motcua-device"


def origin_allowed(settings: GatewaySettings, headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something, or opens a socket, may come from where it says it comes from.

    Programs send no Origin; a browser sends one with every such request, and `Sec-Fetch-Site` with most.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    if origin in settings.origins:
        return True
    if settings.public_url:
        return origin == settings.public_url
    host = headers.get("host", "")
    return host != "" and origin in (f"http://{host}", f"https://{host}")


class Browser:
    """The outermost layer: refuses cross-site requests, answers preflights, adds the security headers, and
    sends clients elsewhere when we leave."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, leaving: Leaving) -> None:
        self._app = app
        self._settings = settings
        self._leaving = leaving
        self._headers = [
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        ]
        if settings.environment == "production":
            self._headers.append((b"strict-transport-security", b"max-age=63072000; includeSubDomains"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        shared = origin if origin in self._settings.origins else None
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
                added = MutableHeaders(raw=message["headers"])
                if self._leaving.begun:
                    added["connection"] = "close"
                if "content-security-policy" not in added:
                    added["content-security-policy"] = "default-src 'none'; frame-ancestors 'none'"
                if self._settings.origins:
                    added.add_vary_header("Origin")
                if shared is not None:
                    added["access-control-allow-origin"] = shared
                    added["access-control-allow-credentials"] = "true"
                    added["access-control-expose-headers"] = _EXPOSE_HEADERS
            await send(message)

        if preflight:
            response = Response(status_code=204 if shared else 403)
            if shared:
                response.headers["access-control-allow-methods"] = "GET, POST, HEAD, PATCH, DELETE, OPTIONS"
                response.headers["access-control-allow-headers"] = _ALLOW_HEADERS
                response.headers["access-control-max-age"] = "600"
            await response(scope, receive, answer)
        elif scope["method"] not in _SAFE and not origin_allowed(self._settings, headers):
            await PlainTextResponse("cross-site request refused", 403)(scope, receive, answer)
        else:
            await self._app(scope, receive, answer)
