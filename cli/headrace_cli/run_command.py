"""``headrace run``: manifests to outcomes without a cluster."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from headrace_cli.control_c import ControlC
from headrace_cli.local_engine import EngineFailed, local_engine
from headrace_cli.local_task import Finished, run_task
from headrace_cli.printing import render
from headrace_cli.progress import Progress
from headrace_cli.sources import SourceError, read_sources
from headrace_cli.weights import Weights, WeightsError
from headrace_crds.engine_settings import engine_environment
from headrace_crds.manifest import Checked, Manifest, Problem, check
from headrace_crds.model import LLMModel
from headrace_crds.task import LLMTask, Outcome
from headrace_runner.engine.client import EngineState
from headrace_runner.validate import Validator

Group = tuple[LLMModel, Mapping[str, Path], list[Manifest]]
"""A model, its files here, and the tasks that name it."""

_CONTROL_C_CODE: Final = 130

Ended = dict[tuple[str, str, str], Finished]
"""By the manifest's key."""


def run(names: Sequence[str], weights: Weights, output: str) -> int:
    """Execute every task; gives the exit code: 0 all Complete, 1 some are not, 2 nothing could be executed.

    130 after Ctrl-C: what had ended is printed, and what was generated of the rest.
    """
    try:
        checked = check(read_sources(names))
        problems = checked.problems or _unresolved(checked)
        for problem in problems:
            print(problem, file=sys.stderr)
        if problems:
            return 2
        groups = _groups(checked, weights)
    except (SourceError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 2
    finished: Ended = {}
    code = 0
    control_c = ControlC()
    try:
        asyncio.run(_run(groups, finished, control_c))
    except asyncio.CancelledError:
        code = _CONTROL_C_CODE
    except EngineFailed as error:
        print(f"the engine does not serve: {error}", file=sys.stderr)
        code = 1
    # In the order of the manifests, whichever came first.
    done = [finished[task.key] for task in _tasks(checked) if task.key in finished]
    if done:
        sys.stdout.write(render(done, output))
    if control_c.pressed:
        return _CONTROL_C_CODE
    return code or int(any(task.outcome is not Outcome.COMPLETE for task in done))


async def _run(groups: Sequence[Group], finished: Ended, control_c: ControlC) -> None:
    progress = Progress()
    with control_c.heard():
        async with Validator() as validator:
            for group in groups:
                if not control_c.pressed:
                    await _run_group(group, validator, progress, finished, control_c)


async def _run_group(
    group: Group, validator: Validator, progress: Progress, finished: Ended, control_c: ControlC
) -> None:
    model, weights, tasks = group
    name, local = model.metadata.name, model.spec.local
    if local is None:
        raise EngineFailed(f"LLMModel {name} is remote: `headrace run` executes local models alone")
    environment = engine_environment(model.spec, local, lambda path: str(weights[path]))
    slots = asyncio.Semaphore(local.parallelism)

    def told(state: EngineState) -> None:
        progress.engine(name, state)

    async with local_engine(environment, told) as engine:

        async def one(task: Manifest) -> None:
            async with slots:
                if control_c.pressed:
                    return
                with control_c.curb() as curb:
                    finished[task.key] = await run_task(task, model, engine, validator, progress, curb)

        await asyncio.gather(*(one(task) for task in tasks))


def _tasks(checked: Checked) -> list[Manifest]:
    return [manifest for manifest in checked.manifests if isinstance(manifest.object, LLMTask)]


def _model_of(task: Manifest, checked: Checked) -> LLMModel | None:
    if not isinstance(task.object, LLMTask):
        return None
    reference = task.object.spec.model_ref
    wanted = (reference.namespace or task.object.metadata.namespace, reference.name)
    models = (manifest.object for manifest in checked.manifests if isinstance(manifest.object, LLMModel))
    return next((each for each in models if (each.metadata.namespace, each.metadata.name) == wanted), None)


def _unresolved(checked: Checked) -> list[Problem]:
    """What a cluster might have and this command does not."""
    tasks = _tasks(checked)
    if not tasks:
        return [Problem("command line", 1, "", "", "no LLMTask among the manifests: there is nothing to run")]
    absent = "no such LLMModel in that namespace among the manifests: name its file with another -f"
    elsewhere = "there are no ConfigMaps without a cluster: put the text into spec.prompt"
    problems = []
    for task in tasks:
        where = (task.source, task.line, f"LLMTask/{task.object.metadata.name}")
        if _model_of(task, checked) is None:
            problems.append(Problem(*where, "spec.modelRef.name", absent))
        if isinstance(task.object, LLMTask) and task.object.spec.input_from is not None:
            problems.append(Problem(*where, "spec.inputFrom", elsewhere))
    return problems


def _groups(checked: Checked, weights: Weights) -> list[Group]:
    groups: dict[tuple[str, str], Group] = {}
    for task in _tasks(checked):
        model = _model_of(task, checked)
        if model is not None:
            key = (model.metadata.namespace, model.metadata.name)
            groups.setdefault(key, (model, weights.find(model), []))[2].append(task)
    return list(groups.values())
