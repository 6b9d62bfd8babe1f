"""A model hub on loopback that takes what huggingface_hub sends to make a repository and to commit files to it."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_of_the_test"


class FakeHub:
    """repositories: what was asked for to make each. files: what each has, by path, after the last commit.

    Weights come by Git LFS, all else in the commit. Without the right token every request is refused, as by a hub.
    """

    def __init__(self) -> None:
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.cards: list[str] = []
        self._objects: dict[str, bytes] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
                self.answer(outer.answer(self.path, body) if allowed else None)

            def do_PUT(self) -> None:
                outer._objects[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer({})

            def answer(self, found: Any) -> None:
                text = json.dumps({"error": "Invalid username or password."} if found is None else found).encode()
                self.send_response(401 if found is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str, body: bytes) -> Any:
        if path.endswith("/repos/create"):
            asked = json.loads(body)
            self.repositories.append(asked)
            return {"url": f"{self.url}/{asked['organization']}/{asked['name']}"}
        if path.endswith("/validate-yaml"):
            self.cards.append(json.loads(body)["content"])
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if file.endswith(".safetensors") else "regular" for file in files]
            told = zip(files, modes, strict=True)
            return {"files": [{"path": file, "uploadMode": mode, "shouldIgnore": False} for file, mode in told]}
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            places = [{"upload": {"href": f"{self.url}/objects/{each['oid']}"}} for each in wanted]
            return {"objects": [{**each, "actions": place} for each, place in zip(wanted, places, strict=True)]}
        repository = path.removeprefix("/api/models/").partition("/commit/")[0]
        lines = [json.loads(line) for line in body.splitlines()]
        sent = {line["value"]["path"]: line["value"] for line in lines if line["key"] in ("file", "lfsFile")}
        self.files[repository] = {
            name: self._objects[value["oid"]] if "oid" in value else base64.b64decode(value["content"])
            for name, value in sent.items()
        }
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.url}/{repository}/commit/{'0' * 40}"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve a hub, and have huggingface_hub ask it as HF_ENDPOINT would."""
    import huggingface_hub
    from huggingface_hub import constants

    served = FakeHub()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    huggingface_hub.close_session()
    yield served
    served.server.shutdown()
    served.server.server_close()
    huggingface_hub.close_session()
