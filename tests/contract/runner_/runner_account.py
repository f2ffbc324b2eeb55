"""A service account that may do what a runner may and nothing else."""

from pathlib import Path

import yaml

from tests.contract.api_server import ApiServer


def runner_account(api_server: ApiServer, kubeconfig: str, namespace: str, folder: Path) -> Path:
    """Make it and give its kubeconfig, in this folder."""
    core, rbac = f"/api/v1/namespaces/{namespace}", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rule = {"apiGroups": ["headrace.dev"], "resources": ["llmtasks/status"], "verbs": ["patch"]}
    binding = {
        "metadata": {"name": "runner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "runner"},
        "subjects": [{"kind": "ServiceAccount", "name": "headrace-smol", "namespace": namespace}],
    }
    for path, body in (
        (f"{core}/serviceaccounts", {"metadata": {"name": "headrace-smol"}}),
        (f"{rbac}/roles", {"metadata": {"name": "runner"}, "rules": [rule]}),
        (f"{rbac}/rolebindings", binding),
        (f"{core}/serviceaccounts/headrace-smol/token", {"spec": {}}),
    ):
        status, answer = api_server.request("POST", path, body)
        assert status == 201, answer
    admin = yaml.safe_load(Path(kubeconfig).read_text())
    admin["users"] = [{"name": admin["users"][0]["name"], "user": {"token": answer["status"]["token"]}}]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(admin))
    return path
