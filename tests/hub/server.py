"""A small server that speaks the Hugging Face Hub's HTTP protocol on loopback, for the real client.

It has repositories with commits, branches and tags; lists in pages with Link headers; RateLimit headers; redirects for
renamed repositories; Xet headers and tokens; and the Hub's error codes. A repository's .gitattributes and the size
decide which files are large; these lie behind a 302 to another origin, which refuses tokens. Everything is stored
under one folder and outlives the process.
`python -m tests.hub.server --root DIR` prints the environment to set.

Differences from the Hub:
- There is no Xet content server; `HubServer.xet` is the address of one to offer to clients.
- A large file is uploaded by a single PUT.
- Commits are not git objects, so their ids are digests of something else.
- Signed addresses never expire, and no rate is limited unless a fault says so.
- Pull requests, discussions, gated repositories, organisations and LFS locks do not exist.
- Pages are short, so that even a small repository has several.
"""

import argparse
import contextlib
import tempfile
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.hub.protocol import WRITE_TOKEN, Handler
from tests.hub.store import Store


class HubServer:
    """The server in a thread; a context manager.

    Attributes:
        requests: (method, path) of every request so far; `content_requests` has those to the content origin.
        xet: The address of the Xet content server that large files refer to, as on the Hub; None serves plain HTTP.
        fault: Called with the handler before an answer; True says that it answered (or hung up) itself.
    """

    def __init__(self, root: Path, port: int = 0) -> None:
        self.store = Store(root)
        self.requests: list[tuple[str, str]] = []
        self.content_requests: list[tuple[str, str]] = []
        self.xet: str | None = None
        self.fault: Callable[[Handler], bool] | None = None
        self.page_size = 3
        self.server = self._listen(port)
        self.content_server = self._listen(0, is_content_origin=True)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.content_endpoint = f"http://127.0.0.1:{self.content_server.server_port}"

    def _listen(self, port: int, **attributes: object) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"hub": self, **attributes}))
        server.daemon_threads = True
        return server

    def __enter__(self) -> "HubServer":
        for server in (self.server, self.content_server):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.server, self.content_server):
            server.shutdown()
            server.server_close()

    def environment(self, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Variables that make huggingface_hub talk to this server, and to nobody else."""
        variables = {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {**variables, **({"HF_TOKEN": token} if token else {})}

    def commits(self, repo_id: str) -> list[str]:
        """Titles of main's commits, oldest first."""
        repo = self.store.repo(repo_id)
        titles, sha = [], repo["branches"]["main"]
        while sha:
            titles.append(repo["commits"][sha]["title"])
            sha = repo["commits"][sha]["parent"]
        return titles[::-1]

    def flip_byte(self, repo_id: str, path: str, revision: str = "main", offset: int = -1) -> None:
        """Damage the stored bytes of a file; size, digest and ETag stay as declared."""
        repo = self.store.repo(repo_id)
        blob = self.store.blob(self.store.entry(repo, self.store.resolve(repo, revision), path)["sha256"])
        content = bytearray(blob.read_bytes())
        content[offset] ^= 1
        blob.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--root", type=Path, help="where repositories are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as temporary,
        HubServer(arguments.root or Path(temporary), arguments.port) as hub,
    ):
        for name, value in hub.environment().items():
            print(f"{name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
