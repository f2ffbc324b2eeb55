"""The commands that look into a cluster: arguments in, text and exit code out.

What they need is imported when one is called: `headrace validate` and `run` must not wait for a Kubernetes client.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from headrace_cli import names

if TYPE_CHECKING:
    from headrace_cli.cluster import Cluster


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class Target(NamedTuple):
    """Which cluster, as the user named it."""

    kubeconfig: str | None
    context: str | None


Task = Annotated[str, typer.Argument(metavar="TASK", help="Name, or NAMESPACE/NAME.", callback=names.task)]
Tasks = Annotated[list[str], typer.Argument(metavar="TASK…", help="Names, or NAMESPACE/NAME.", callback=names.tasks)]
Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="Absent: the kubeconfig's.")]
Kubeconfig = Annotated[str | None, typer.Option(help="File; absent: KUBECONFIG, then ~/.kube/config.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Output = Annotated[Format, typer.Option("-o", "--output", help="What to print.")]
Reason = Annotated[
    str | None,
    typer.Option(
        help="Only those whose own reason, such as BackoffLimitExceeded, or whose last attempt's, such as EngineLost, "
        "is this.",
        callback=names.reason,
    ),
]

dlq = typer.Typer(no_args_is_help=True, help="Dead letters: tasks that Failed, to be looked at and replayed.")


def why(
    task: Task,
    namespace: Namespace = None,
    facade: Annotated[
        str | None, typer.Option(envvar="HEADRACE_FACADE", help="URL of the facade, which knows places in queues.")
    ] = None,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Tell why a task is waiting: what keeps it, from its quota to its model's pods, and what to do.

    The facade is asked with the kubeconfig's token, or with that in HEADRACE_TOKEN.
    """
    from headrace_cli.why_command import why as tell

    async def told(cluster: "Cluster") -> int:
        where, name = _named(cluster, task, namespace)
        sys.stdout.write(
            await tell(cluster, where, name, facade=facade, token=os.environ.get("HEADRACE_TOKEN"), output=output.value)
        )
        return 0

    in_cluster(Target(kubeconfig, context), told)


def cancel(
    tasks: Tasks,
    namespace: Namespace = None,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """End tasks as Cancelled, with the text generated so far. It cannot be taken back."""
    _change("cancel", tasks, namespace, output, Target(kubeconfig, context))


def suspend(
    tasks: Tasks,
    namespace: Namespace = None,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Take tasks out of the queue, or off their runners, until they are resumed. Deadlines stand still."""
    _change("suspend", tasks, namespace, output, Target(kubeconfig, context))


def resume(
    tasks: Tasks,
    namespace: Namespace = None,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Put suspended tasks back."""
    _change("resume", tasks, namespace, output, Target(kubeconfig, context))


@dlq.command("list")
def dlq_list(
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Of every namespace.")] = False,
    reason: Reason = None,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List the tasks that Failed."""
    from headrace_cli.dlq_command import failed_tasks, letter, listing

    async def listed(cluster: "Cluster") -> int:
        where = None if all_namespaces else namespace or cluster.namespace
        letters = [letter(body) async for body in failed_tasks(cluster, where, reason)]
        if output is Format.JSON:
            print_json(letters)
        elif letters:
            sys.stdout.write(listing(letters))
        else:
            print(f"no Failed task in {where or 'any namespace'}" + (f" with reason {reason}" if reason else ""))
        return 0

    in_cluster(Target(kubeconfig, context), listed)


@dlq.command("show")
def dlq_show(
    task: Task,
    namespace: Namespace = None,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show how a task failed: its attempts, and its replays."""
    from headrace_cli.dlq_command import show, showing

    async def shown(cluster: "Cluster") -> int:
        told = await show(cluster, *_named(cluster, task, namespace))
        print_json(told) if output is Format.JSON else sys.stdout.write(showing(told))
        return 0

    in_cluster(Target(kubeconfig, context), shown)


@dlq.command("replay")
def dlq_replay(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="TASK…", help="Names, or NAMESPACE/NAME.", callback=names.tasks)
    ] = None,
    namespace: Namespace = None,
    every: Annotated[bool, typer.Option("--all", help="Every Failed task of the namespace.")] = False,
    reason: Reason = None,
    again: Annotated[bool, typer.Option(help="Also what has been replayed before.")] = False,
    priority: Annotated[
        int | None, typer.Option(min=-100, max=100, help="Absent: the failed task's; a lowered ceiling may refuse it.")
    ] = None,
    output: Output = Format.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Create <name>-replay-<n> with the same spec.

    Exit code: 1 when one was refused, or was named and replayed before.
    """
    from headrace_cli.dlq_command import Replaying, failed_tasks

    if bool(tasks) == (every or reason is not None):
        raise typer.BadParameter("name tasks, or choose them by --all or --reason")

    async def replayed(cluster: "Cluster") -> int:
        where = namespace or cluster.namespace
        # Read to the end first: a replay that fails must not be replayed by the same command.
        chosen = tasks or [body["metadata"]["name"] async for body in failed_tasks(cluster, where, reason)]
        told, code = await _each(cluster, chosen, namespace, Replaying(cluster, again=again, priority=priority).replay)
        if not chosen and output is Format.TEXT:
            print(f"nothing to replay in {where}" + (f" with reason {reason}" if reason else ""))
        _print_told(told, output)
        # Chosen by a filter, what has been replayed before is left out; named, it is refused.
        return 1 if tasks and not all(each["created"] for each in told) else code

    in_cluster(Target(kubeconfig, context), replayed)


def register(app: typer.Typer) -> None:
    for command in (why, cancel, suspend, resume):
        app.command()(command)
    app.add_typer(dlq, name="dlq")


def _change(verb: str, tasks: list[str], namespace: str | None, output: Format, target: Target) -> None:
    from headrace_cli.change_command import change

    async def changed(cluster: "Cluster") -> int:
        async def one(where: str, name: str) -> dict[str, Any]:
            return await change(cluster, verb, where, name)

        told, code = await _each(cluster, tasks, namespace, one)
        _print_told(told, output)
        return code

    in_cluster(target, changed)


async def _each(
    cluster: "Cluster",
    tasks: list[str],
    namespace: str | None,
    work: Callable[[str, str], Awaitable[dict[str, Any]]],
) -> tuple[list[dict[str, Any]], int]:
    """What was done, and the exit code: one that fails does not keep the others from being done."""
    from headrace_cli.cluster import ClusterError

    told, code = [], 0
    for task in tasks:
        try:
            told.append(await work(*_named(cluster, task, namespace)))
        except ClusterError as error:
            print(f"headrace: {error}", file=sys.stderr)
            code = 1
    return told, code


def _named(cluster: "Cluster", task: str, namespace: str | None) -> tuple[str, str]:
    within, slash, name = task.partition("/")
    return (within, name) if slash else (namespace or cluster.namespace, task)


def _print_told(told: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        print_json(told)
        return
    for each in told:
        print(f"llmtask {each['namespace']}/{each['name']}: {each['message']}")


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def in_cluster(target: Target, work: Callable[["Cluster"], Awaitable[int]]) -> None:
    """Exit code: the work's, or 1 with the reason on stderr."""
    from headrace_cli.cluster import Cluster, ClusterError

    async def run() -> int:
        try:
            async with Cluster.connect(target.kubeconfig, target.context) as cluster:
                return await work(cluster)
        except ClusterError as error:
            print(f"headrace: {error}", file=sys.stderr)
            return 1

    raise typer.Exit(asyncio.run(run()))
