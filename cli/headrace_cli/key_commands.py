"""`headrace key create`, `list` and `revoke`: arguments in, text and exit code out."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli.cluster_commands import Context, Format, Kubeconfig, Output, Target, in_cluster, print_json

if TYPE_CHECKING:
    from headrace_cli.cluster import Cluster

key = typer.Typer(no_args_is_help=True, help="API keys of the facade: made, listed and revoked.")

KeysNamespace = Annotated[
    str,
    typer.Option(
        "--keys-namespace",
        envvar="HEADRACE_KEYS_NAMESPACE",
        help="Where keys lie: the chart's facade.apiKeys.namespace.",
    ),
]
DEFAULT_NAMESPACE = "headrace-system-keys"


@key.command("create")
def create(
    namespace: Annotated[str, typer.Argument(metavar="NAMESPACE", help="The tenant that the key makes calls for.")],
    models: Annotated[
        str | None, typer.Option(help="NAMESPACE/NAME, comma-separated: those alone. Absent: what the tenant may use.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="30m, 12h or 90d from now. Absent: never.")] = None,
    keys_namespace: KeysNamespace = DEFAULT_NAMESPACE,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Make a key and show it, this once: what is kept is its SHA-256. On stdout there is the key and nothing else."""
    from headrace_cli import key_command

    tenant, named, ends = key_command.tenant(namespace), key_command.models(models), key_command.expiry(expires)

    async def made(cluster: "Cluster") -> int:
        told = await key_command.create(cluster, keys_namespace, tenant, named, ends)
        if output is Format.JSON:
            print_json(told)
        else:
            print(told["key"])
            print(f"key {told['id']} of namespace {tenant}; it is not shown again", file=sys.stderr)
        return 0

    in_cluster(Target(kubeconfig, context), made)


@key.command("list")
def list_keys(
    namespace: Annotated[str | None, typer.Option("-n", "--namespace", help="Of this tenant; absent: all.")] = None,
    keys_namespace: KeysNamespace = DEFAULT_NAMESPACE,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List keys by their ids. The keys themselves are nowhere."""
    from headrace_cli import key_command

    async def listed(cluster: "Cluster") -> int:
        rows = await key_command.listed(cluster, keys_namespace, namespace)
        if output is Format.JSON:
            print_json(rows)
        elif rows:
            sys.stdout.write(key_command.listing(rows))
        else:
            print(f"no API key in namespace {keys_namespace}" + (f" of tenant {namespace}" if namespace else ""))
        return 0

    in_cluster(Target(kubeconfig, context), listed)


@key.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `headrace key list` shows it.")],
    keys_namespace: KeysNamespace = DEFAULT_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Delete a key. Every facade refuses it within five seconds; calls under way end as they would have."""
    from headrace_cli import key_command

    revoked = key_command.key_id(key_id)

    async def done(cluster: "Cluster") -> int:
        await key_command.revoke(cluster, keys_namespace, revoked)
        print(f"key {revoked}: revoked")
        return 0

    in_cluster(Target(kubeconfig, context), done)


def register(app: typer.Typer) -> None:
    app.add_typer(key, name="key")
