"""The page's addresses: itself, its style and script, the last picture, live events, and signing in."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

from edgeloop_agent import page
from edgeloop_agent.local_api.access import Door
from edgeloop_agent.local_api.connection import RETRY_AFTER_SECONDS, Refusal, Request, Response
from edgeloop_agent.page.live_view import LiveView

__all__ = ["OPEN_PATHS", "PATHS", "PageRoutes"]

READ, SEND = ("GET", "HEAD"), ("POST",)
ASSETS = {"/page/page.css": ("page.css", "text/css; charset=utf-8"), "/page/page.js": ("page.js", "text/javascript; charset=utf-8")}
PATHS = dict.fromkeys(("/", *ASSETS, "/page/picture", "/page/events"), READ) | {"/page/sign-in": SEND}
OPEN_PATHS = frozenset(("/", *ASSETS, "/page/sign-in"))  # they say nothing of the device, or ask for the token themselves
HTML = "text/html; charset=utf-8"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}  # fmt: skip
WRONG = b'<p role="alert">This is not the token.</p>'


class PageRoutes:
    def __init__(self, view: LiveView, door: Door) -> None:
        self._view, self._door = view, door
        folder = Path(str(page.__file__)).parent / "assets"
        self._files = {name: (folder / name).read_bytes() for name in ("index.html", "page.css", "page.js", "sign-in.html")}

    def answer(self, request: Request) -> Response:
        """Raises Refusal."""
        if request.path == "/page/sign-in":
            return self._sign_in(request)
        if request.path in ASSETS:
            name, kind = ASSETS[request.path]
            return Response(self._files[name], kind, headers=HEADERS)
        if request.path == "/":
            if not self._door.lets_in(request):
                return self._asks(b"")
            return Response(self._files["index.html"], HTML, headers=HEADERS)
        if request.path == "/page/picture":
            if not (content := self._view.picture()):
                raise Refusal(404, "there is no picture")
            return Response(content, "image/jpeg", headers=HEADERS)
        if request.method == "HEAD":
            return Response(b"", "text/event-stream", headers=HEADERS)
        if not self._view.begin():
            raise Refusal(503, "too many look at this page", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        return Response(content_type="text/event-stream", headers=HEADERS, stream=self._view.events())

    def _asks(self, why: bytes) -> Response:
        return Response(self._files["sign-in.html"].replace(b"<!-- why -->", why), HTML, 401, HEADERS)

    def _sign_in(self, request: Request) -> Response:
        given = parse_qs(request.body.decode("utf-8", "replace"), max_num_fields=10).get("token", [""])[0]
        if not self._door.knows(given.strip().encode()):
            return self._asks(WRONG)
        return Response(b"", HTML, 303, {**HEADERS, "Location": "/", "Set-Cookie": self._door.cookie()})
