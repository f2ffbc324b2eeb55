"""The test control plane over one kept connection: where a kubectl process per judgement would be most of the time."""

import base64
import http.client
import json
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


@dataclass(frozen=True)
class Judgement:
    """What the API server answered; ``message`` is its Status' message."""

    status: int
    message: str

    @property
    def accepted(self) -> bool:
        return 200 <= self.status <= 299


class ApiServer:
    """Requests with the kubeconfig's client certificate."""

    def __init__(self, kubeconfig: str) -> None:
        config = yaml.safe_load(Path(kubeconfig).read_text(encoding="utf-8"))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)
        self._address = urlsplit(cluster["server"]).netloc
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, context=self._tls, timeout=60)

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """A PATCH merges."""
        data = None if body is None else json.dumps(body)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        for again in (True, False):
            try:
                self._connection.request(method, path, data, {"Content-Type": kind})
                answer = self._connection.getresponse()
                return answer.status, json.loads(answer.read())
            except (http.client.HTTPException, OSError):
                # The server closes what was silent for long.
                self._connection.close()
                self._connection = self._connect()
                if not again:
                    raise
        raise AssertionError

    def create(self, namespace: str, manifest: str) -> Judgement:
        """As kubectl create --validate=strict does; of several documents the first refusal."""
        judgement = Judgement(0, "no document")
        for body in yaml.safe_load_all(manifest):
            root = "apis" if "/" in body["apiVersion"] else "api"
            kinds = f"{body['kind'].lower()}s"
            path = f"/{root}/{body['apiVersion']}/namespaces/{namespace}/{kinds}?fieldValidation=Strict"
            status, answer = self.request("POST", path, body)
            judgement = Judgement(status, str(answer.get("message", "")))
            if not judgement.accepted:
                break
        return judgement

    def close(self) -> None:
        self._connection.close()
