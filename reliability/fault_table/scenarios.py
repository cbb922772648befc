"""The faults. Each happens to a run, whose jobs are released afterwards; what ours must make of it stands beside."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reliability.fault_table.world import DEFERRABLE, OURS, FaultWorld, Outcome, Run, System
from rl_core.errors import BanditError
from stand_ins.faults import Fault


@dataclass(frozen=True)
class Scenario:
    """Args:
    act: what happens to one run.
    to_all: what happens to everything that runs, once every run waits for its job.
    jobs: how the jobs of our run end, in order.
    run: how our run ends.
    before: faults that are there when the run begins.
    not_for: systems to which it can't happen.
    alone: its fault would hit other runs too, so there is no other.
    released: whether jobs that somebody asks for succeed afterwards; else they run until they are cancelled.
    """

    name: str
    act: Callable[[Run], None] | None = None
    to_all: Callable[[FaultWorld], None] | None = None
    jobs: tuple[str, ...] = ("SUCCEEDED",)
    run: str = "success"
    before: tuple[Fault, ...] = ()
    not_for: tuple[System, ...] = ()
    alone: bool = False
    released: bool = True


def play(world: FaultWorld, system: System, scenario: Scenario) -> Outcome:
    return play_all(world, [system], scenario)[system]


def play_all(world: FaultWorld, systems: Sequence[System], scenario: Scenario) -> dict[System, Outcome]:
    """The same fault to several systems at once; one after the other where they would disturb each other."""
    chosen = [system for system in systems if system not in scenario.not_for]
    if scenario.alone and len(chosen) > 1:
        return {system: play(world, system, scenario) for system in chosen}
    with ThreadPoolExecutor(max_workers=max(1, len(chosen))) as pool:
        runs = list(pool.map(lambda system: world.begin(system, scenario.before), chosen))
        list(pool.map(lambda run: _attempt(scenario.act or nothing, run), runs))
        if scenario.to_all is not None:
            scenario.to_all(world)
        for run in runs if scenario.released else ():
            run.release()
        return dict(zip(chosen, pool.map(lambda run: run.end(), runs), strict=True))


def _attempt(act: Callable[[Run], None], run: Run) -> None:
    """A system may do something else than the scenario waits for; how it ends is seen all the same. Not ours."""
    try:
        act(run)
    except BanditError as error:
        if run.system is OURS or "in vain" not in str(error):
            raise
        print(f"{run.system.name}, {run.run_id}: {error}", file=sys.stderr)


def nothing(run: Run) -> None:
    run.until_waiting()


def killed_with_the_answer_on_its_way(run: Run) -> None:
    run.signal_worker(run.system.submit, signal.SIGKILL, with_task=True, once=run.jobs)
    run.until(lambda: run.tries(run.system.submit) > 1 or run.ended(), "a retry")


def killed_while_it_waits(run: Run) -> None:
    run.until_waiting()
    run.signal_worker(run.system.wait, signal.SIGKILL, with_task=True)
    run.until(lambda: run.tries(run.system.wait) > 1 or run.ended(), "a retry")


def terminated_while_it_waits(run: Run) -> None:
    run.until_waiting()
    run.signal_worker(run.system.wait, signal.SIGTERM, with_task=False)
    with contextlib.suppress(BanditError):  # a task that ignores it is not tried again
        run.until(lambda: run.tries(run.system.wait) > 1 or run.ended(), "a retry", 20)


def airflow_restarted(world: FaultWorld) -> None:
    world.stack.stop(grace_s=3)
    world.stack.start()


def api_server_restarted(world: FaultWorld) -> None:
    world.stack.restart("api-server")


def half_closed(world: FaultWorld) -> None:
    with world.stand_in.proxy.half_closed():
        time.sleep(8)


def submitted(run: Run) -> None:
    with contextlib.suppress(BanditError):
        run.until(lambda: run.jobs() or run.ended(), "a job", 45)


def polling_answers(code: str, times: int = 2) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        run.until_waiting()
        fault = Fault("GetPipelineJob", code, times=times, match=run.prefix)
        run.world.faults.add(fault)
        run.until(lambda: not fault.times or run.ended(), "the faults to be over")

    return act


def job_paused(run: Run) -> None:
    job_id = run.until_waiting()
    run.pipelines.play(job_id, "PAUSED")
    looks = run.looks()
    run.until(lambda: run.looks() >= looks + 2 or run.ended(), "two more looks")
    with contextlib.suppress(BanditError):
        run.until(run.ended, "an end that should not be", 3)


def job_becomes(state: str) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        run.pipelines.play(run.until_waiting(), state)

    return act


def cleared(run: Run) -> None:
    run.until_waiting()
    run.api.clear(run.system.dag_id, run.run_id, [run.system.submit])
    run.until(lambda: len(run.jobs()) > 1 or run.ended(), "a second job")


def marked_failed(run: Run) -> None:
    run.until_waiting()
    run.api.set_task_state(run.system.dag_id, run.run_id, run.system.wait, "failed")


def marked_failed_while_it_submits(run: Run) -> None:
    run.until_job()
    run.api.set_task_state(run.system.dag_id, run.run_id, run.system.submit, "failed")


_SLOW_ANSWER = Fault("CreatePipelineJob", after=True, delay_s=9)
_LOST_ANSWER = Fault("CreatePipelineJob", drop=True, after=True)

SCENARIOS = (
    Scenario("none", nothing),
    Scenario(
        "worker killed after submit, before the id is stored", killed_with_the_answer_on_its_way, before=(_SLOW_ANSWER,)
    ),
    Scenario("worker killed while it waits", killed_while_it_waits, not_for=(DEFERRABLE,)),
    Scenario("worker gets SIGTERM while it waits", terminated_while_it_waits, not_for=(DEFERRABLE,)),
    Scenario("Airflow stopped and started again", to_all=airflow_restarted),
    Scenario("API server restarted", to_all=api_server_restarted),
    Scenario("503 to submit", submitted, before=(Fault("CreatePipelineJob", "UNAVAILABLE"),)),
    Scenario("429 to submit", submitted, before=(Fault("CreatePipelineJob", "RESOURCE_EXHAUSTED"),)),
    Scenario("answer to submit lost, connection reset", submitted, before=(_LOST_ANSWER,), alone=True),
    Scenario("503 while polling, twice", polling_answers("UNAVAILABLE")),
    Scenario("429 while polling, twice", polling_answers("RESOURCE_EXHAUSTED")),
    Scenario("deadline exceeded while polling, twice", polling_answers("DEADLINE_EXCEEDED")),
    Scenario("connections half-closed while polling", to_all=half_closed),
    Scenario("job PAUSED, later resumed", job_paused),
    Scenario("job FAILED once", job_becomes("FAILED"), jobs=("FAILED", "SUCCEEDED")),
    Scenario("job cancelled by a person", job_becomes("CANCELLED"), jobs=("CANCELLED",), run="failed"),
    Scenario("task cleared while its job runs", cleared, jobs=("CANCELLED", "SUCCEEDED")),
    Scenario("task marked failed while its job runs", marked_failed, jobs=("CANCELLED",), run="failed", released=False),
    Scenario(
        "task marked failed while it submits",
        marked_failed_while_it_submits,
        jobs=("CANCELLED",),
        run="failed",
        before=(_SLOW_ANSWER,),
        released=False,
    ),
)
