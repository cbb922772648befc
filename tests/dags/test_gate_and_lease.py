"""What gate, lease and rollback decide, over a real registry and a real log; Airflow's context is a stub."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from bandit_ops.job_identity import JobIdentity
from bandit_ops.runners.job_folder import MARK, JobFolder
from bandit_ops.runners.local import LocalRunner
from rl_core.backends import open_backend
from rl_core.backends.contracts.bus import Message
from rl_core.backends.contracts.registry import Attempt, Lineage, PolicyRegistry, WindowRef
from rl_core.backends.local.registry import FolderRegistry
from rl_core.config import Bandit, Settings
from rl_core.errors import LeaseHeld
from rl_core.stages import generator

if TYPE_CHECKING:
    from airflow.sdk import Context

pytestmark = pytest.mark.usefixtures("airflow_home")

FORM = {"skip_gate": False, "full_retrain": False, "min_new_interactions": 30, "version": "previous"}


def context(run_type: str = "scheduled", first_look: datetime | None = None, queued: int = 0, **form: Any) -> Context:
    """Of a run of `movielens_retrain`; its task has looked since `first_look`, and `queued` runs wait behind it."""
    from collections import defaultdict

    remembered: dict[str, Any] = {"memory-0": {"first_look": first_look.isoformat()}} if first_look else {}
    ti = SimpleNamespace(
        dag_id="movielens_retrain",
        run_id=f"{run_type}__1",
        map_index=-1,
        get_dr_count=lambda **_: queued,
        get_first_reschedule_date=lambda _: None,
    )
    run = SimpleNamespace(run_type=run_type, clear_number=0)
    events: Any = defaultdict(SimpleNamespace)
    kept = SimpleNamespace(get=remembered.get, set=remembered.__setitem__)
    given = {"ti": ti, "dag_run": run, "params": {**FORM, **form}, "outlet_events": events, "task_state_store": kept}
    return cast("Context", given)


def one_look(sensor: Any) -> Callable[[Context], Any]:
    """What it does without sleeping in its worker until the next look."""
    sensor.mode = "reschedule"
    return cast("Callable[[Context], Any]", sensor.execute)


@contextmanager
def job_process(folder: Path, **outputs: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is a running job to whoever looks into the folder: it is marked, and holds the folder's lock."""
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"state": "RUNNING", "message": "", "outputs": outputs}))
    with JobFolder(folder).locked() as lock:
        assert lock is not None
        process = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: str(folder)}, pass_fds=[lock])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def expiry(bandit: Bandit, settings: Settings) -> datetime:
    state = json.loads((settings.state_dir(bandit) / "registry" / "registry.json").read_bytes())
    return datetime.fromisoformat(state["lease"]["until"])


def vital_signs_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of JSON that say them, among all that was logged."""
    lines = [json.loads(message) for message in caplog.messages if message.startswith("{")]
    return [line for line in lines if line["event"] == "banditloop_vital_signs"]


def long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def registry(movielens: Bandit, settings: Settings) -> FolderRegistry:
    return cast(FolderRegistry, open_backend(movielens, settings).registry())


@pytest.fixture
def born(registry: FolderRegistry, movielens: Bandit, settings: Settings, tmp_path: Path) -> FolderRegistry:
    """A champion trained on the 20 interactions that are in the log."""
    windows = generator.run(movielens, settings, rounds=20, seed=1)
    add_version(registry, tmp_path, None)
    registry.promote("movielens-v1-0001", None)
    registry.record(Attempt("job", tuple(windows), "promoted", "movielens-v1-0001", "startup", "", datetime.now(UTC)))
    return registry


def add_version(registry: PolicyRegistry, folder: Path, parent: str | None) -> None:
    artefact = folder / f"artefact-of-{parent}"
    artefact.mkdir()
    (artefact / "manifest.json").write_text(f'{{"parent": "{parent}"}}')
    (artefact / "block").write_text("block")
    registry.register(artefact, Lineage(parent, (WindowRef(0, 20, registry.put_block(artefact / "block")),)))


class TestTheGate:
    @pytest.fixture
    def look(self, movielens: Bandit) -> Callable[[Context], Any]:
        from bandit_ops.sensors import InteractionSensor

        return one_look(InteractionSensor(task_id="gate", bandit=movielens))

    @pytest.fixture
    def log(self, movielens: Bandit, settings: Settings) -> Callable[[int], None]:
        return lambda rounds: print(generator.run(movielens, settings, rounds=rounds, seed=2))

    def test_waits_and_says_how_many_of_how_many_are_new(
        self,
        born: FolderRegistry,
        look: Callable[[Context], Any],
        log: Callable[[int], None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from airflow.sdk.exceptions import AirflowRescheduleException

        log(12)
        with pytest.raises(AirflowRescheduleException):
            look(context(min_new_interactions=3000))
        assert "12 of 3,000 new interactions" in capsys.readouterr().out

    def test_logs_the_vital_signs_with_its_first_look(
        self,
        born: FolderRegistry,
        look: Callable[[Context], Any],
        log: Callable[[int], None],
        movielens: Bandit,
        settings: Settings,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        from airflow.sdk.exceptions import AirflowRescheduleException

        log(12)
        bus = open_backend(movielens, settings).bus()
        bus.publish([Message("rewards", "a", b"{}")])
        bus.close()
        caplog.set_level(logging.INFO)
        with pytest.raises(AirflowRescheduleException):
            look(context(min_new_interactions=3000))
        (line,) = vital_signs_of(caplog)
        assert (line["bandit"], line["severity"], line["champion"]) == ("movielens-v1", "INFO", "movielens-v1-0001")
        assert (line["head"], line["new_interactions"], line["last_attempt"]) == (32, 12, "promoted")
        assert (line["acknowledged"], line["stored"], line["missing"]) == (1, 0, 1), "no logger has carried it"
        assert 0 <= line["watermark_lag_s"] < 60
        moments_ago = datetime.now(UTC) - timedelta(seconds=10)
        with pytest.raises(AirflowRescheduleException):
            look(context(min_new_interactions=3000, first_look=moments_ago))
        assert len(vital_signs_of(caplog)) == 1, "once per run, not with every look"

    def test_opens_all_the_same_where_the_vital_signs_can_not_be_measured(
        self,
        born: FolderRegistry,
        look: Callable[[Context], Any],
        log: Callable[[int], None],
        movielens: Bandit,
        settings: Settings,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        log(30)
        (settings.state_dir(movielens) / "bus").write_text("no folder, so no bus can be opened")
        assert look(context())["count"] == 30
        assert "no vital signs: " in caplog.text
        assert vital_signs_of(caplog) == []

    def test_opens_with_count_and_head_and_tells_the_asset(
        self, born: FolderRegistry, look: Callable[[Context], Any], log: Callable[[int], None]
    ) -> None:
        log(30)
        given = context()
        assert look(given) == {"head": 50, "count": 30}
        assert [event.extra for event in cast(Any, given["outlet_events"]).values()] == [{"head": 50}]

    def test_skips_once_it_has_waited_long_enough(
        self, born: FolderRegistry, look: Callable[[Context], Any], log: Callable[[int], None]
    ) -> None:
        from airflow.sdk.exceptions import AirflowSkipException

        log(12)
        with pytest.raises(AirflowSkipException, match="12 of 30 new interactions after 120 s"):
            look(context(first_look=long_ago()))

    def test_gives_way_to_a_run_that_is_queued_behind_a_scheduled_one(
        self, born: FolderRegistry, look: Callable[[Context], Any], log: Callable[[int], None]
    ) -> None:
        from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

        with pytest.raises(AirflowSkipException, match="gives way"):
            look(context(queued=1))
        with pytest.raises(AirflowRescheduleException):
            look(context("manual", queued=1))

    def test_can_be_skipped_where_anything_is_new(
        self, born: FolderRegistry, look: Callable[[Context], Any], log: Callable[[int], None]
    ) -> None:
        log(1)
        assert look(context("manual", skip_gate=True))["count"] == 1

    def test_skips_a_manual_run_for_which_nothing_is_new(
        self, born: FolderRegistry, look: Callable[[Context], Any]
    ) -> None:
        from airflow.sdk.exceptions import AirflowSkipException

        with pytest.raises(AirflowSkipException, match="none of the log's 20 interactions is new"):
            look(context("manual", skip_gate=True))

    def test_stays_shut_until_something_new_may_train(
        self,
        born: FolderRegistry,
        look: Callable[[Context], Any],
        log: Callable[[int], None],
        movielens: Bandit,
        settings: Settings,
    ) -> None:
        from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

        log(30)
        store = open_backend(movielens, settings).store()
        store.forget([], store.interactions((20, 50), ["event_id"])["event_id"].to_pylist())
        with pytest.raises(AirflowRescheduleException):
            look(context())
        with pytest.raises(AirflowSkipException, match="30 of 30 new interactions, but none may train"):
            look(context("manual", skip_gate=True))
        log(1)
        assert look(context()) == {"head": 51, "count": 31}

    def test_counts_what_a_startup_that_replaced_the_champion_left_behind(
        self, born: FolderRegistry, look: Callable[[Context], Any], log: Callable[[int], None]
    ) -> None:
        log(40)
        at = datetime.now(UTC)
        born.record(Attempt("anew", ((50, 60),), "promoted", "movielens-v1-0001", "startup", "", at))
        assert look(context()) == {"head": 60, "count": 30}

    def test_opens_for_a_full_retrain_without_anything_new(
        self, born: FolderRegistry, look: Callable[[Context], Any]
    ) -> None:
        assert look(context("manual", full_retrain=True))["count"] == 0

    def test_without_a_champion_counts_from_the_first_row_for_the_first_policy(
        self, registry: FolderRegistry, look: Callable[[Context], Any], log: Callable[[int], None]
    ) -> None:
        from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

        with pytest.raises(AirflowRescheduleException):
            look(context())
        log(12)
        with pytest.raises(AirflowRescheduleException):
            look(context("manual"))
        with pytest.raises(AirflowSkipException, match="12 of 30 new interactions for the first policy after 120 s"):
            look(context(first_look=long_ago()))
        assert look(context("manual", skip_gate=True)) == {"head": 12, "count": 12}
        log(18)
        assert look(context()) == {"head": 30, "count": 30}

    def test_does_not_count_a_rejected_first_try_again(
        self, registry: FolderRegistry, look: Callable[[Context], Any], log: Callable[[int], None]
    ) -> None:
        from airflow.sdk.exceptions import AirflowSkipException

        log(30)
        registry.record(Attempt("job", ((0, 30),), "rejected", None, "sensor", "", datetime.now(UTC)))
        with pytest.raises(AirflowSkipException, match="0 of 30 new interactions for the first policy after 120 s"):
            look(context(first_look=long_ago()))
        log(31)
        assert look(context()) == {"head": 61, "count": 31}

    @pytest.mark.parametrize("switch", ["skip_gate", "full_retrain"])
    def test_without_a_champion_and_a_log_skips_a_manual_run_with_what_to_do(
        self, registry: FolderRegistry, look: Callable[[Context], Any], switch: str
    ) -> None:
        from airflow.sdk.exceptions import AirflowSkipException

        form: dict[str, Any] = {switch: True}
        with pytest.raises(AirflowSkipException, match="ask the server for decisions, or run movielens_startup"):
            look(context("manual", **form))


class TestTheLease:
    @pytest.fixture
    def take(self, movielens: Bandit, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        from bandit_ops import lease

        monkeypatch.setattr(lease, "meant_to_run", lambda context: True)

        def execute(given: Context, planner: Any = lambda at: {"manual": at.manual}) -> Any:
            return one_look(lease.TakeLease(task_id="take_lease", bandit=movielens, planner=planner))(given)

        return execute

    @pytest.fixture
    def give_back(self, movielens: Bandit) -> Callable[[], None]:
        from bandit_ops.lease import ReleaseLease
        from bandit_ops.pipeline_tasks import CancelIfActive

        cancel = CancelIfActive(task_id="train.cancel_if_active", bandit=movielens)
        return lambda: ReleaseLease(task_id="release_lease", bandit=movielens, after=cancel).execute(context("manual"))

    def test_is_taken_with_a_plan_and_given_back(
        self, registry: FolderRegistry, take: Callable[..., Any], give_back: Callable[[], None]
    ) -> None:
        assert take(context("manual")) == {"manual": True}
        assert take(context("manual")) == {"manual": True}  # a retry renews
        give_back()
        registry.lease("another", 60)

    def test_outlives_the_replacement_of_a_killed_worker_and_no_more(
        self, registry: FolderRegistry, movielens: Bandit, settings: Settings, take: Callable[..., Any]
    ) -> None:
        from airflow.sdk.configuration import conf

        take(context())
        left = expiry(movielens, settings) - datetime.now(UTC)
        noticed_after = conf.getint("scheduler", "task_instance_heartbeat_timeout")
        assert timedelta(seconds=1.5 * noticed_after) < left < timedelta(minutes=11)

    def test_that_another_training_took_meanwhile_ends_the_run_for_good(
        self, registry: FolderRegistry, movielens: Bandit
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        from bandit_ops.lease import TakeLease, renew_lease
        from bandit_ops.plans import retrain_plan

        registry.lease("movielens_startup/manual__0", 60)
        with pytest.raises(AirflowFailException, match=r"lost the lease .*'movielens_startup/manual__0' holds"):
            renew_lease(TakeLease(task_id="take_lease", bandit=movielens, planner=retrain_plan), context())

    def test_is_kept_while_a_job_of_the_run_is_alive(
        self,
        registry: FolderRegistry,
        movielens: Bandit,
        settings: Settings,
        take: Callable[..., Any],
        give_back: Callable[[], None],
    ) -> None:
        from airflow.sdk.exceptions import AirflowException

        take(context("manual"))
        job_id = JobIdentity.of(movielens.id, "movielens_retrain", "manual__1", "train").job_id
        with (
            job_process(settings.state_dir(movielens) / "runs" / job_id),
            pytest.raises(AirflowException, match=rf"{job_id} is still active, .* 10 minutes at most"),
        ):
            give_back()
        with pytest.raises(LeaseHeld):
            registry.lease("another", 60)

    def test_is_given_back_while_the_job_exports_and_the_next_training_lets_it(
        self,
        registry: FolderRegistry,
        movielens: Bandit,
        settings: Settings,
        take: Callable[..., Any],
        give_back: Callable[[], None],
    ) -> None:
        take(context("manual"))
        job_id = JobIdentity.of(movielens.id, "movielens_retrain", "manual__1", "train").job_id
        with job_process(settings.state_dir(movielens) / "runs" / job_id, version="v", promoted=True) as exporting:
            give_back()
            take(context("scheduled"))
            assert exporting.poll() is None

    def test_of_another_run_is_left_alone(self, registry: FolderRegistry, give_back: Callable[[], None]) -> None:
        registry.lease("another", 60)
        give_back()
        with pytest.raises(LeaseHeld):
            registry.lease("a third", 60)

    def test_held_by_another_is_waited_for(self, registry: FolderRegistry, take: Callable[..., Any]) -> None:
        from airflow.sdk.exceptions import AirflowRescheduleException

        registry.lease("movielens_startup/manual__0", 60)
        with pytest.raises(AirflowRescheduleException):
            take(context())

    @pytest.mark.parametrize(
        ("run_type", "ending"), [("scheduled", "AirflowSkipException"), ("manual", "AirflowFailException")]
    )
    def test_held_for_too_long_skips_a_scheduled_run_and_fails_a_manual_one_naming_the_holder(
        self, registry: FolderRegistry, take: Callable[..., Any], run_type: str, ending: str
    ) -> None:
        from airflow.sdk import exceptions

        registry.lease("movielens_startup/manual__0", 60)
        with pytest.raises(getattr(exceptions, ending), match="'movielens_startup/manual__0' holds the training lease"):
            take(context(run_type, first_look=long_ago()))

    def test_once_taken_ends_what_an_earlier_run_left_active_and_nothing_that_others_started(
        self, registry: FolderRegistry, movielens: Bandit, settings: Settings, take: Callable[..., Any]
    ) -> None:
        runs = settings.state_dir(movielens) / "runs"
        left = JobIdentity.of(movielens.id, "movielens_retrain", "manual__0", "train").job_id
        with job_process(runs / left) as ours, job_process(runs / "by-hand") as others:
            take(context("manual"))
            assert ours.wait(10) != 0
            assert others.poll() is None
        assert LocalRunner(movielens, settings).active() == []

    def test_is_not_kept_by_a_run_that_is_refused_or_has_nothing_to_do(
        self, registry: FolderRegistry, take: Callable[..., Any]
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

        from bandit_ops.plans import NothingToDo, Refused

        for error, ending in ((Refused, AirflowFailException), (NothingToDo, AirflowSkipException)):

            def planner(at: Any, error: type[Exception] = error) -> Any:
                raise error("for this reason")

            with pytest.raises(ending, match="for this reason"):
                take(context("manual"), planner)
            registry.lease("another", 60)
            registry.release("another")

    def test_is_not_kept_by_a_task_that_was_stopped_meanwhile(
        self, registry: FolderRegistry, take: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        from bandit_ops import lease

        monkeypatch.setattr(lease, "meant_to_run", lambda context: False)
        with pytest.raises(AirflowFailException, match="stopped"):
            take(context("manual"))
        registry.lease("another", 60)


class TestRollback:
    @pytest.fixture
    def promote(self, movielens: Bandit) -> Callable[[Context], str]:
        from bandit_ops.rollback import PromoteVersion

        return PromoteVersion(task_id="promote", bandit=movielens).execute

    @pytest.fixture
    def grown(self, born: FolderRegistry, tmp_path: Path) -> FolderRegistry:
        add_version(born, tmp_path, "movielens-v1-0001")
        born.promote("movielens-v1-0002", "movielens-v1-0001")
        return born

    def test_goes_back_to_the_parent_and_announces_it(
        self, grown: FolderRegistry, promote: Callable[[Context], str]
    ) -> None:
        given = context("manual")
        assert promote(given) == "movielens-v1-0001"
        assert grown.alias("champion") == "movielens-v1-0001"
        assert [e.extra for e in cast(Any, given["outlet_events"]).values()] == [{"version": "movielens-v1-0001"}]

    def test_goes_to_a_version_by_name(self, grown: FolderRegistry, promote: Callable[[Context], str]) -> None:
        promote(context("manual"))
        assert promote(context("manual", version="movielens-v1-0002")) == "movielens-v1-0002"

    def test_of_the_first_policy_is_refused(self, born: FolderRegistry, promote: Callable[[Context], str]) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        with pytest.raises(AirflowFailException, match="no parent to go back to"):
            promote(context("manual"))

    def test_to_an_unknown_version_lists_the_latest(
        self, grown: FolderRegistry, promote: Callable[[Context], str]
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        with pytest.raises(AirflowFailException, match="the latest are movielens-v1-0001, movielens-v1-0002"):
            promote(context("manual", version="movielens-v1-0009"))
