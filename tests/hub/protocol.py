"""The Hub's HTTP protocol, request by request: what `server` answers from its store."""

import base64
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import yaml

from tests.hub.store import HubError

if TYPE_CHECKING:
    from tests.hub.server import HubServer

WRITE_TOKEN, READ_TOKEN = "hf_local_write", "hf_local_read"
USER = "tester"
LFS_SIZE = 10 << 20


class Handler(BaseHTTPRequestHandler):
    """One method per kind of request, found by `ROUTES`."""

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
            for method, pattern, name in ROUTES:
                if (method == self.command) and (match := re.fullmatch(pattern, path)):
                    if new := self.hub.store.renames.get(match.groupdict().get("repo_id", "")):
                        moved = self.path.replace(match["repo_id"].removeprefix("datasets/"), new, 1)
                        self.reply({"error": "moved"}, 307, Location=moved)
                        return
                    self.authorise(writes=method in ("POST", "PUT", "DELETE") and name not in READS_BY_POST)
                    getattr(self, name)(**{key: unquote(value) for key, value in match.groupdict().items() if value})
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

    def whoami(self) -> None:
        if not self.known:
            raise HubError(401, "Invalid username or password.")
        self.reply({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        kind = "datasets/" if wanted.get("type") == "dataset" else ""
        repo_id = f"{kind}{wanted.get('organization') or USER}/{wanted['name']}"
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        url = f"{self.hub.endpoint}/{repo_id}"
        if repo_id in self.hub.store.repos:
            self.reply({"error": "You already created this model repo", "url": url}, 409)
            return
        self.hub.store.create(repo_id, private)
        self.reply({"url": url, "name": repo_id})

    def info(self, repo_id: str, revision: str = "main") -> None:
        repo, sha = self.find(repo_id, revision)
        siblings = [{"rfilename": path} for path in repo["commits"][sha]["files"]]
        self.reply({"id": repo_id, "modelId": repo_id, "sha": sha, "private": repo["private"], "siblings": siblings})

    def models(self) -> None:
        self.reply(
            [{"id": name, "modelId": name} for name, repo in self.hub.store.repos.items() if not repo["private"]]
        )

    def paths_info(self, repo_id: str, revision: str) -> None:
        repo, sha = self.find(repo_id, revision)
        paths = parse_qs(self.body.decode())["paths"]
        files = repo["commits"][sha]["files"]
        entries = [file_entry(path, files[path]) for path in paths if path in files]
        folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
        self.reply(entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])

    def tree(self, repo_id: str, revision: str, folder: str = "") -> None:
        repo, sha = self.find(repo_id, revision)
        files = {p: e for p, e in repo["commits"][sha]["files"].items() if not folder or p.startswith(f"{folder}/")}
        if folder and not files:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        entries, folders = [], set()
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        for path, entry in files.items():
            below = path.removeprefix(f"{folder}/").split("/")
            parents = {path.removesuffix("/".join(below)) + "/".join(below[:i]) for i in range(1, len(below))}
            folders |= parents if recursive else {min(parents)} if parents else set()
            entries += [file_entry(path, entry)] if recursive or not parents else []
        self.reply_page(entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)])

    def reply_page(self, items: list[Any]) -> None:
        """Answer with one page of a list, and the address of the next one in a Link header."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        start = int(query.pop("cursor", ["0"])[0])
        end = start + self.hub.page_size
        more = {**query, "cursor": [str(end)]}
        link = f'<{self.hub.endpoint}{url.path}?{urlencode(more, doseq=True)}>; rel="next"'
        self.reply(items[start:end], **({"Link": link} if end < len(items) else {}))

    def history(self, repo_id: str, revision: str) -> None:
        repo, sha = self.find(repo_id, revision)
        commits = []
        while sha:
            commit = repo["commits"][sha]
            commits.append(
                {
                    "id": sha,
                    "title": commit["title"],
                    "message": "",
                    "authors": [{"user": USER}],
                    "date": commit["date"],
                }
            )
            sha = commit["parent"]
        self.reply_page(commits)

    def refs(self, repo_id: str) -> None:
        repo, _ = self.find(repo_id)
        kinds = {
            kind: [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in repo[kind].items()
            ]
            for kind in ("branches", "tags")
        }
        self.reply({**kinds, "converts": []})

    def tag(self, repo_id: str, revision: str) -> None:
        repo, sha = self.find(repo_id, revision)
        name = json.loads(self.body)["tag"]
        with self.hub.store.lock:
            if name in repo["tags"]:
                raise HubError(409, "Tag reference exists already")
            repo["tags"][name] = sha
            self.hub.store.save(repo_id)
        self.reply({})

    def make_branch(self, repo_id: str, revision: str) -> None:
        repo, _ = self.find(repo_id)
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        with self.hub.store.lock:
            if revision in repo["branches"]:
                raise HubError(409, "Reference already exists")
            repo["branches"][revision] = self.hub.store.resolve(repo, start)
            self.hub.store.save(repo_id)
        self.reply({})

    def delete_branch(self, repo_id: str, revision: str) -> None:
        repo, _ = self.find(repo_id)
        with self.hub.store.lock:
            if repo["branches"].pop(revision, None) is None:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            self.hub.store.save(repo_id)
        self.reply({})

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
        try:
            sound = match is None or isinstance(yaml.safe_load(match[1]), dict)
        except yaml.YAMLError:
            sound = False
        errors = [] if sound else [{"message": "the metadata is not a YAML mapping"}]
        warnings = [] if match else [{"message": "empty or missing yaml metadata in repo card"}]
        self.reply({"errors": errors, "warnings": warnings}, 200 if sound else 400)

    def xet_token(self, repo_id: str, revision: str) -> None:
        self.find(repo_id, revision)
        if not self.hub.xet:
            raise HubError(404, "Xet is not enabled for this repository")
        access = {"casUrl": self.hub.xet, "accessToken": "xet", "exp": int(time.time()) + 900}
        headers = {
            "X-Xet-Cas-Url": self.hub.xet,
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": str(access["exp"]),
        }
        self.reply(access, **headers)

    def preupload(self, repo_id: str, revision: str) -> None:
        repo, sha = self.find(repo_id, revision)
        files = []
        for wanted in json.loads(self.body)["files"]:
            path = wanted["path"]
            lfs = self.hub.store.is_large(repo, sha, path) or wanted["size"] > LFS_SIZE
            there = repo["commits"][sha]["files"].get(path)
            oid = there and there["sha256" if there["lfs"] else "oid"]
            mode = "lfs" if lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply({"files": files})

    def lfs_batch(self, repo_id: str) -> None:
        self.find(repo_id)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"}
            there = self.hub.store.blob(wanted["oid"]).exists()
            actions = {"upload": upload, "verify": {"href": f"{self.hub.endpoint}/lfs/verify"}}
            objects.append({**wanted, **({} if there else {"actions": actions})})
        self.reply({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the bytes are not those announced")
        self.hub.store.add_blob(self.body)
        self.reply({})

    def lfs_verify(self) -> None:
        wanted = json.loads(self.body)
        blob = self.hub.store.blob(wanted["oid"])
        if not blob.exists() or blob.stat().st_size != wanted["size"]:
            raise HubError(404, "the upload did not arrive")
        self.reply({})

    def commit(self, repo_id: str, revision: str) -> None:
        self.find(repo_id, revision)
        header: dict[str, Any] = {}
        added: dict[str, Any] = {}
        deleted = []
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = value
            elif key == "file":
                added[value["path"]] = {
                    **self.hub.store.add_blob(base64.b64decode(value["content"])),
                    "lfs": False,
                }
            elif key == "lfsFile":
                blob = self.hub.store.blob(value["oid"])
                if not blob.exists():
                    raise HubError(400, f"LFS object {value['oid']} was not uploaded")
                pointer = hashlib.sha1(value["oid"].encode()).hexdigest()
                size = blob.stat().st_size
                added[value["path"]] = {"oid": pointer, "sha256": value["oid"], "size": size, "lfs": True}
            else:
                deleted.append(value["path"])
        title, parent = header["summary"], header.get("parentCommit", "")
        sha = self.hub.store.commit(repo_id, revision, title, added, deleted, parent)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{sha}"
        self.reply({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def download(self, repo_id: str, revision: str, path: str) -> None:
        repo, sha = self.find(repo_id, revision)
        entry = self.hub.store.entry(repo, sha, path)
        content = self.hub.store.blob(entry["sha256"]).read_bytes()
        etag = f'"{entry["sha256" if entry["lfs"] else "oid"]}"'
        headers = {
            "ETag": etag,
            "X-Repo-Commit": sha,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if entry["lfs"]:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry["size"])}
            if self.hub.xet:
                route = f"{self.hub.endpoint}/api/models/{repo_id}/xet-read-token/{sha}"
                headers |= {"X-Xet-Hash": entry["sha256"], "X-Xet-Refresh-Route": route}
            if not self.is_content_origin:
                location = f"{self.hub.content_endpoint}/{repo_id}/resolve/{sha}/{path}?signature=x"
                self.send(b"", 302, **headers, Location=location)
                return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.send(content, **headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if first > last:
            raise HubError(416, "range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self.send(content[first : last + 1], 206, **headers)


def file_entry(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    lfs = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    plain = {"type": "file", "path": path, "oid": entry["oid"], "size": entry["size"]}
    return {**plain, **({"lfs": lfs} if entry["lfs"] else {})}


_RATE_LIMIT = {"RateLimit": '"api";r=499;t=300', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
_REPO = r"(?P<repo_id>(datasets/)?[^/]+/[^/]+)"
_MODEL = rf"/api/models/{_REPO}"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET", r"/api/models", "models"),
    ("GET", rf"{_MODEL}(/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", rf"{_MODEL}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", rf"{_MODEL}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "tree"),
    ("GET", rf"{_MODEL}/commits/(?P<revision>[^/]+)", "history"),
    ("GET", rf"{_MODEL}/refs", "refs"),
    ("POST", rf"{_MODEL}/tag/(?P<revision>[^/]+)", "tag"),
    ("GET", rf"{_MODEL}/xet-(read|write)-token/(?P<revision>[^/]+)", "xet_token"),
    ("POST", rf"{_MODEL}/branch/(?P<revision>[^/]+)", "make_branch"),
    ("DELETE", rf"{_MODEL}/branch/(?P<revision>[^/]+)", "delete_branch"),
    ("POST", rf"{_MODEL}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"{_MODEL}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "download"),
    ("HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "download"),
]
READS_BY_POST = ("validate_yaml", "paths_info")
