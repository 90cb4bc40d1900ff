"""Access control: a request's API key, its `Host`, and the origin of the page that sent it."""

import hmac
import re

from starlette.requests import HTTPConnection

from serving.http.api import ApiError
from serving.http.service import ServerSettings

_LOCAL_HOST = re.compile(r"(localhost|[\d.]+|\[[\da-fA-F:.]+\])(:\d+)?", re.IGNORECASE)
SUBPROTOCOL = "token"  # by which pages, which can't set a WebSocket's headers, send the key: "token, KEY"


def check_access(connection: HTTPConnection, settings: ServerSettings) -> None:
    """Raises ApiError for a request, or a WebSocket's, that may not ask for anything."""
    headers = connection.headers
    if settings.api_key:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token"):
            protocol, _, key = headers.get("sec-websocket-protocol", "").partition(",")
            key = key if protocol.strip() == SUBPROTOCOL else ""
        if not hmac.compare_digest(key.strip().encode(), settings.api_key.encode()):
            raise ApiError(401, "give the server's API key, as in Authorization: Bearer KEY", code="invalid_api_key")
        return
    # A page of another site whose name points at this machine would be of the same origin to a browser.
    host = headers.get("host", "")
    if settings.local_only and not _LOCAL_HOST.fullmatch(host):
        message = f"Host {host!r}: without an API key this server answers as localhost or by an IP address only"
        raise ApiError(403, message, code="unknown_host")
    # Browsers don't ask before a page of another site opens a WebSocket.
    origin = headers.get("origin")
    if connection.scope["type"] == "websocket" and origin is not None:
        own = origin.partition("://")[2] == host
        if not own and not {origin, "*"} & set(settings.origins):
            raise ApiError(403, f"Origin {origin!r}: see --allow-origin", code="unknown_origin")
