"""The API server and etcd of a control plane that `tests/cluster/up --control-plane-only` started."""

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import yaml

READY_SECONDS: Final = 60.0
TOKEN_SECONDS: Final = 8 * 3600

Body = dict[str, Any]


class ApiError(Exception):
    """The API server refused. `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


class ApiServer:
    """The process alone: etcd goes on while it is away. Its own arguments start it again."""

    def __init__(self, state: Path) -> None:
        self._pid_file = state / "built/apiserver.pid"
        self._log = state / "built/log/apiserver"
        raw = Path(f"/proc/{self._pid}/cmdline").read_bytes()
        self._argv = [part.decode() for part in raw.rstrip(b"\0").split(b"\0")]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _pid(self) -> int:
        return int(self._pid_file.read_text())

    @property
    def etcd_url(self) -> str:
        return self._argv[self._argv.index("--etcd-servers") + 1]

    async def stop(self) -> None:
        """At once, as a crash would."""
        pid = self._pid
        os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        while _lives(pid):  # noqa: ASYNC110  the shell that started it waits for it, not we
            await asyncio.sleep(0.02)

    def start(self) -> None:
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        # `tests/cluster/down` ends what this file names.
        self._pid_file.write_text(f"{self._process.pid}\n")


def _lives(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


class Api:
    """The API server as an administrator sees it."""

    def __init__(self, kubeconfig: Path) -> None:
        self.config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = self.config["clusters"][0]["cluster"], self.config["users"][0]["user"]
        self.url: str = cluster["server"]
        self.authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=self.authority)
        with tempfile.NamedTemporaryFile() as pair:
            for part in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[part]))
            pair.flush()
            context.load_cert_chain(pair.name)
        timeout = aiohttp.ClientTimeout(total=20, connect=2)
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=64), timeout=timeout)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    async def close(self) -> None:
        await self._http.close()

    async def request(self, method: str, path: str, body: Any = None, *, type_: str = "application/json") -> Body:
        """The answer's document. Raises ApiError, and aiohttp.ClientError or TimeoutError where none came."""
        data = None if body is None else json.dumps(body)
        async with self._http.request(method, self.url + path, data=data, headers={"Content-Type": type_}) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise ApiError(answer.status, text)
            document: Body = json.loads(text) if text.startswith("{") else {}
            return document

    async def find(self, path: str) -> Body | None:
        """None for what is not there."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def ready(self) -> bool:
        try:
            await self.request("GET", "/readyz")
        except (ApiError, aiohttp.ClientError, TimeoutError):
            return False
        return True

    async def token(self, namespace: str, account: str) -> str:
        """By the TokenRequest API."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        answer = await self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", asked)
        token: str = answer["status"]["token"]
        return token

    async def kubeconfig(self, namespace: str, account: str, path: Path, *, verified: bool = True) -> None:
        """A kubeconfig with the account's own token. Unverified for a clock that lies before the certificates."""
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        if verified:
            cluster = self.config["clusters"][0]["cluster"]
        user = {"name": self.config["users"][0]["name"], "user": {"token": await self.token(namespace, account)}}
        document = {
            **self.config,
            "clusters": [{"name": self.config["clusters"][0]["name"], "cluster": cluster}],
            "users": [user],
        }
        await asyncio.to_thread(path.write_text, yaml.safe_dump(document))
