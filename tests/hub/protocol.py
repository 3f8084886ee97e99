"""The Hub's HTTP protocol: routes a request to the function that answers it, and checks the token."""

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.hub import reading, writing
from tests.hub.store import HubError

if TYPE_CHECKING:
    from tests.hub.server import HubServer

WRITE_TOKEN, READ_TOKEN = "hf_local_write", "hf_local_read"
_RATE_LIMIT = {"RateLimit": '"api";r=499;t=300', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}


class Handler(BaseHTTPRequestHandler):
    """One request to the Hub, or to the storage of its large files."""

    hub: "HubServer"
    is_content_origin = False  # True: this is the storage that large files are redirected to
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet; `HubServer.requests` has the record."""

    def handle_one(self) -> None:
        # The store names a dataset's repository datasets/owner/name, and a model's owner/name.
        path = urlsplit(self.path).path.replace("/api/datasets/", "/api/models/datasets/", 1)
        (self.hub.content_requests if self.is_content_origin else self.hub.requests).append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.fault and self.hub.fault(self):
            return
        try:
            for route in (*reading.ROUTES, *writing.ROUTES):
                method, pattern, answer = route
                if (method == self.command) and (match := re.fullmatch(pattern, path)):
                    if new := self.hub.store.renames.get(match.groupdict().get("repo_id", "")):
                        moved = self.path.replace(match["repo_id"].removeprefix("datasets/"), new, 1)
                        self.reply({"error": "moved"}, 307, Location=moved)
                        return
                    self.authorise(writes=route in writing.ROUTES)
                    answer(self, **{key: unquote(value) for key, value in match.groupdict().items() if value})
                    return
            raise HubError(404, f"this server does not know {self.command} {path}")
        except HubError as error:
            code = {"X-Error-Code": error.code} if error.code else {}
            headers = {"X-Error-Message": error.message, **code, **error.headers}
            self.reply({"error": error.message}, error.status, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def authorise(self, writes: bool) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.is_content_origin:
            self.known = True  # the address is signed
            if token:
                raise HubError(400, "Only one auth mechanism allowed")
            return
        if token and token not in (WRITE_TOKEN, READ_TOKEN):
            raise HubError(401, "Invalid credentials in Authorization header")
        self.known = bool(token)
        # The upload link is signed by itself on the Hub, and comes without a token.
        if writes and self.command != "PUT":
            if not token:
                raise HubError(401, "Invalid username or password.")
            if token == READ_TOKEN:
                raise HubError(403, "This token has no write permission")

    def reply(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send(json.dumps(value).encode(), status, **{"Content-Type": "application/json", **headers})

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        limits = {} if self.is_content_origin else _RATE_LIMIT
        for name, value in {"Content-Length": str(len(content)), **limits, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def find(self, repo_id: str, revision: str = "main") -> tuple[dict[str, Any], str]:
        repo = self.hub.store.repo(repo_id, may_see_private=self.known)
        return repo, self.hub.store.resolve(repo, revision)

    def reply_page(self, items: list[Any]) -> None:
        """Answer with one page of a list, and the address of the next one in a Link header."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        start = int(query.pop("cursor", ["0"])[0])
        end = start + self.hub.page_size
        more = {**query, "cursor": [str(end)]}
        link = f'<{self.hub.endpoint}{url.path}?{urlencode(more, doseq=True)}>; rel="next"'
        self.reply(items[start:end], **({"Link": link} if end < len(items) else {}))
