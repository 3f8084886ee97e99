"""Requests that change a repository, one function each."""

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.hub.reading import MODEL, REPO, USER
from tests.hub.store import HubError

if TYPE_CHECKING:
    from tests.hub.protocol import Handler

LFS_SIZE = 10 << 20


def create(handler: "Handler") -> None:
    wanted = json.loads(handler.body)
    kind = "datasets/" if wanted.get("type") == "dataset" else ""
    repo_id = f"{kind}{wanted.get('organization') or USER}/{wanted['name']}"
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    url = f"{handler.hub.endpoint}/{repo_id}"
    if repo_id in handler.hub.store.repos:
        handler.reply({"error": "You already created this model repo", "url": url}, 409)
        return
    handler.hub.store.create(repo_id, private)
    handler.reply({"url": url, "name": repo_id})


def tag(handler: "Handler", repo_id: str, revision: str) -> None:
    repo, sha = handler.find(repo_id, revision)
    name = json.loads(handler.body)["tag"]
    with handler.hub.store.lock:
        if name in repo["tags"]:
            raise HubError(409, "Tag reference exists already")
        repo["tags"][name] = sha
        handler.hub.store.save(repo_id)
    handler.reply({})


def make_branch(handler: "Handler", repo_id: str, revision: str) -> None:
    repo, _ = handler.find(repo_id)
    start = json.loads(handler.body or b"{}").get("startingPoint") or "main"
    with handler.hub.store.lock:
        if revision in repo["branches"]:
            raise HubError(409, "Reference already exists")
        repo["branches"][revision] = handler.hub.store.resolve(repo, start)
        handler.hub.store.save(repo_id)
    handler.reply({})


def delete_branch(handler: "Handler", repo_id: str, revision: str) -> None:
    repo, _ = handler.find(repo_id)
    with handler.hub.store.lock:
        if repo["branches"].pop(revision, None) is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        handler.hub.store.save(repo_id)
    handler.reply({})


def preupload(handler: "Handler", repo_id: str, revision: str) -> None:
    repo, sha = handler.find(repo_id, revision)
    files = []
    for wanted in json.loads(handler.body)["files"]:
        path = wanted["path"]
        lfs = handler.hub.store.is_large(repo, sha, path) or wanted["size"] > LFS_SIZE
        there = repo["commits"][sha]["files"].get(path)
        oid = there and there["sha256" if there["lfs"] else "oid"]
        mode = "lfs" if lfs else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    handler.reply({"files": files})


def lfs_batch(handler: "Handler", repo_id: str) -> None:
    handler.find(repo_id)
    objects = []
    for wanted in json.loads(handler.body)["objects"]:
        upload = {"href": f"{handler.hub.endpoint}/lfs/{wanted['oid']}"}
        there = handler.hub.store.blob(wanted["oid"]).exists()
        actions = {"upload": upload, "verify": {"href": f"{handler.hub.endpoint}/lfs/verify"}}
        objects.append({**wanted, **({} if there else {"actions": actions})})
    handler.reply({"transfer": "basic", "objects": objects})


def lfs_put(handler: "Handler", oid: str) -> None:
    if hashlib.sha256(handler.body).hexdigest() != oid:
        raise HubError(400, "the bytes are not those announced")
    handler.hub.store.add_blob(handler.body)
    handler.reply({})


def lfs_verify(handler: "Handler") -> None:
    wanted = json.loads(handler.body)
    blob = handler.hub.store.blob(wanted["oid"])
    if not blob.exists() or blob.stat().st_size != wanted["size"]:
        raise HubError(404, "the upload did not arrive")
    handler.reply({})


def commit(handler: "Handler", repo_id: str, revision: str) -> None:
    handler.find(repo_id, revision)
    header: dict[str, Any] = {}
    added: dict[str, Any] = {}
    deleted = []
    for line in handler.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            header = value
        elif key == "file":
            added[value["path"]] = {
                **handler.hub.store.add_blob(base64.b64decode(value["content"])),
                "lfs": False,
            }
        elif key == "lfsFile":
            blob = handler.hub.store.blob(value["oid"])
            if not blob.exists():
                raise HubError(400, f"LFS object {value['oid']} was not uploaded")
            pointer = hashlib.sha1(value["oid"].encode()).hexdigest()
            size = blob.stat().st_size
            added[value["path"]] = {"oid": pointer, "sha256": value["oid"], "size": size, "lfs": True}
        else:
            deleted.append(value["path"])
    title, parent = header["summary"], header.get("parentCommit", "")
    sha = handler.hub.store.commit(repo_id, revision, title, added, deleted, parent)
    url = f"{handler.hub.endpoint}/{repo_id}/commit/{sha}"
    handler.reply({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


ROUTES = [
    ("POST", r"/api/repos/create", create),
    ("POST", rf"{MODEL}/tag/(?P<revision>[^/]+)", tag),
    ("POST", rf"{MODEL}/branch/(?P<revision>[^/]+)", make_branch),
    ("DELETE", rf"{MODEL}/branch/(?P<revision>[^/]+)", delete_branch),
    ("POST", rf"{MODEL}/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", rf"{MODEL}/commit/(?P<revision>[^/]+)", commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", r"/lfs/verify", lfs_verify),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
]
