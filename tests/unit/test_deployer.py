"""The deployer: what the verdict says happens once, and whatever fails, the champion stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Exclusion, PolicyRegistry
from rl_core.backends.contracts.store import Window
from rl_core.backends.local.endpoint import LocalEndpoint
from rl_core.bandit.blocks import Meaning, combine, make_block
from rl_core.config import Agent, Bandit, Settings
from rl_core.errors import ConfigError, DataError, EndpointError, PolicyError, PromotionConflict
from rl_core.policy.artefact import STATISTICS, write_artefact
from rl_core.policy.verdict import Verdict
from rl_core.policy.windows import new_windows
from rl_core.problem_config import Problem
from rl_core.stages import deployer
from rl_core.stages.deployer import Deployment
from tests.harness.patience import patient, until

AGENT = Agent(agent_alpha=0.2, tikhonov_weight=0.01)


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    problem = Problem(
        observation_dim=3,
        observation_version="users-v1",
        actions=("a", "b", "c"),
        action_set_version="letters-v1",
        reward_min=-5,
        reward_max=5,
        reward_default=0,
    )
    return movielens.model_copy(update={"problem": problem})


@pytest.fixture
def registry(bandit: Bandit, settings: Settings) -> PolicyRegistry:
    return open_backend(bandit, settings).registry()


class Job:
    """What trainer and evaluator leave for the deployer, for one window after another."""

    def __init__(self, bandit: Bandit, settings: Settings, scratch: Path) -> None:
        self.bandit, self.settings, self.scratch = bandit, settings, scratch
        self.code_digest = "c0de"

    def artefact(self, window: Window, champion: str | None, anew: bool = False) -> Path:
        rng = np.random.default_rng(window)
        n = window[1] - window[0]
        block = make_block(
            rng.standard_normal((n, 3)),
            rng.integers(0, 3, n),
            rng.standard_normal(n),
            np.arange(window[0] + 1, window[1] + 1),
            rng.integers(0, 5, n),
            window,
            AGENT.half_life,
            num_actions=3,
            meaning=Meaning("users-v1", self.bandit.problem.actions),
        )
        registry = open_backend(self.bandit, self.settings).registry()
        inherited = registry.lineage(champion).windows if champion and not anew else ()
        out = self.scratch / f"policy-{window[1]}"
        statistics = combine([block], window[1])
        write_artefact(
            out,
            self.bandit.problem,
            AGENT,
            statistics,
            [block],
            parent=champion,
            inherited=inherited,
            code_digest=self.code_digest,
        )
        return out

    def deploy(
        self, window: Window, champion: str | None, promote: bool = True, key: str = "", anew: bool = False
    ) -> Deployment:
        verdict = Verdict(promote=promote, reason="said so", champion=champion, rows=9, metrics={"difference_dr": 0.5})
        verdict.save(self.scratch / "verdict")
        artefact = self.artefact(window, champion, anew)
        job_id = key or f"job-{window[1]}"
        return deployer.run(self.bandit, self.settings, artefact, self.scratch / "verdict", champion, "sensor", job_id)


@pytest.fixture
def job(bandit: Bandit, settings: Settings, tmp_path: Path) -> Job:
    return Job(bandit, settings, tmp_path)


class TestAPromotion:
    def test_of_the_first_policy_makes_it_champion(self, job: Job, registry: PolicyRegistry) -> None:
        deployment = job.deploy((0, 200), None)
        assert deployment.promoted
        assert registry.alias("champion") == deployment.version
        assert "no prediction server runs" in deployment.reason
        (window,) = registry.lineage(deployment.version).windows
        assert (window.seq_low, window.seq_high) == (0, 200)
        assert registry.block_path(window.block).exists()

    def test_extends_the_lineage_of_the_champion(self, job: Job, registry: PolicyRegistry) -> None:
        first = job.deploy((0, 200), None)
        second = job.deploy((200, 300), first.version)
        lineage = registry.lineage(second.version)
        assert lineage.parent == first.version
        assert [(ref.seq_low, ref.seq_high) for ref in lineage.windows] == [(0, 200), (200, 300)]
        assert registry.alias("champion") == second.version

    def test_does_not_need_the_older_ones(self, job: Job, settings: Settings, registry: PolicyRegistry) -> None:
        """Somebody removed them, for what their sums hold of a person, or a disk did."""
        first = job.deploy((0, 200), None)
        second = job.deploy((200, 300), first.version)
        shutil.rmtree(registry.path(first.version))
        third = job.deploy((300, 400), second.version)
        assert third.promoted
        assert registry.alias("champion") == third.version

    def test_is_recorded_once_with_its_numbers(self, job: Job, registry: PolicyRegistry) -> None:
        assert job.deploy((0, 200), None) == job.deploy((0, 200), None)
        (attempt,) = registry.attempts()
        assert (attempt.key, attempt.verdict, attempt.trigger) == ("job-200", "promoted", "sensor")
        assert attempt.windows == ((0, 200),)
        assert attempt.metrics == {"difference_dr": 0.5}
        assert len(registry.versions()) == 1

    @pytest.mark.parametrize("step", ["promote", "record"])
    def test_that_is_killed_at_any_step_is_recorded_if_and_only_if_it_has_a_champion(
        self, job: Job, registry: PolicyRegistry, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(type(registry), step, killed)
            job.deploy((0, 200), None)
        assert (registry.alias("champion") is None) == (registry.attempts() == [])
        deployment = job.deploy((0, 200), None)
        assert registry.alias("champion") == deployment.version
        assert len(registry.versions()) == len(registry.attempts()) == 1

    @pytest.mark.parametrize("code_digest", ["c0de", "of newer code"])
    def test_is_not_done_again_by_a_second_try_after_a_person_rolled_it_back(
        self, job: Job, registry: PolicyRegistry, code_digest: str
    ) -> None:
        first = job.deploy((0, 200), None).version
        second = job.deploy((200, 300), first, key="job-a0").version
        registry.promote(first, expected_champion=second)
        job.code_digest = code_digest
        again = job.deploy((200, 300), first, key="job-a1")
        assert registry.alias("champion") == first
        assert (again.version, again.promoted) == (second, False)
        assert again.reason.endswith(f"; {first} is the champion since")
        assert [attempt.key for attempt in registry.attempts()] == ["job-200", "job-a0"]

    def test_against_another_champion_than_expected_is_refused(self, job: Job, registry: PolicyRegistry) -> None:
        first = job.deploy((0, 200), None)
        second = job.deploy((200, 300), first.version)
        with pytest.raises(PromotionConflict):
            job.deploy((300, 400), first.version)
        assert registry.alias("champion") == second.version
        assert [attempt.key for attempt in registry.attempts()] == ["job-200", "job-300"]


class TestARejection:
    def test_leaves_the_champion_and_counts_as_an_attempt(self, job: Job, registry: PolicyRegistry) -> None:
        first = job.deploy((0, 200), None)
        rejected = job.deploy((200, 300), first.version, promote=False)
        assert not rejected.promoted
        assert registry.alias("champion") == first.version
        assert registry.attempts()[-1].verdict == "rejected"
        assert new_windows(registry, head=310) == [(300, 310)]

    def test_excludes_its_window_from_every_later_policy(self, job: Job, registry: PolicyRegistry) -> None:
        champion = job.deploy((0, 200), None).version
        job.deploy((200, 300), champion, promote=False)
        champion = job.deploy((300, 400), champion).version
        job.deploy((400, 500), champion, promote=False)
        champion = job.deploy((500, 600), champion).version
        lineage = registry.lineage(champion)
        assert [(e.seq_low, e.seq_high, e.reason) for e in lineage.excluded] == [
            (200, 300, "said so"),
            (400, 500, "said so"),
        ]
        assert [(ref.seq_low, ref.seq_high) for ref in lineage.windows] == [(0, 200), (300, 400), (500, 600)]


def test_the_window_of_a_policy_that_was_rolled_back_is_in_no_later_policy(job: Job, registry: PolicyRegistry) -> None:
    first = job.deploy((0, 200), None).version
    second = job.deploy((200, 300), first).version
    registry.promote(first, expected_champion=second)
    lineage = registry.lineage(job.deploy((300, 400), first).version)
    assert [(ref.seq_low, ref.seq_high) for ref in lineage.windows] == [(0, 200), (300, 400)]
    assert [(e.seq_low, e.seq_high, e.reason) for e in lineage.excluded] == [(200, 300, f"{second} was rolled back")]


class TestAPolicyStartedAnew:
    """`replace_champion`: its parent is the champion that it was judged against, its windows are its own."""

    @pytest.fixture
    def replaced(self, job: Job) -> tuple[str, str]:
        first = job.deploy((0, 200), None).version
        return first, job.deploy((5200, 5400), first, anew=True).version

    def test_excludes_what_its_parent_held_and_says_why(
        self, registry: PolicyRegistry, replaced: tuple[str, str]
    ) -> None:
        first, second = replaced
        lineage = registry.lineage(second)
        assert [(ref.seq_low, ref.seq_high) for ref in lineage.windows] == [(5200, 5400)]
        assert lineage.excluded == (Exclusion(0, 200, f"{first} was replaced by a policy started anew"),)

    def test_leaves_the_interactions_in_between_to_the_next_retrain(
        self, job: Job, registry: PolicyRegistry, replaced: tuple[str, str]
    ) -> None:
        assert new_windows(registry, head=5400) == [(200, 5200)]
        third = job.deploy((200, 5200), replaced[1]).version
        assert [(r.seq_low, r.seq_high) for r in registry.lineage(third).windows] == [(200, 5200), (5200, 5400)]
        assert new_windows(registry, head=5400) == []

    def test_may_hold_a_part_of_an_excluded_window_and_excludes_the_rest(
        self, job: Job, registry: PolicyRegistry, replaced: tuple[str, str]
    ) -> None:
        anew = job.deploy((100, 5000), replaced[1], anew=True).version
        assert [(e.seq_low, e.seq_high) for e in registry.lineage(anew).excluded] == [(0, 100), (5200, 5400)]


class TestWhatIsDamaged:
    def test_a_policy_is_not_registered(
        self, job: Job, bandit: Bandit, settings: Settings, registry: PolicyRegistry, tmp_path: Path
    ) -> None:
        artefact = job.artefact((0, 200), None)
        (artefact / STATISTICS).write_bytes(b"")
        with pytest.raises(PolicyError, match=r"statistics\.npz"):
            deployer.run(bandit, settings, artefact, tmp_path, None, "manual", "job")
        assert registry.versions() == []

    def test_a_verdict_stops_it(
        self, job: Job, bandit: Bandit, settings: Settings, registry: PolicyRegistry, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="not a verdict"):
            deployer.run(bandit, settings, job.artefact((0, 200), None), tmp_path, None, "manual", "job")
        assert registry.alias("champion") is None

    def test_a_trigger_is_refused(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="'cron'; it must be one of startup, sensor, manual"):
            deployer.run(bandit, settings, tmp_path, tmp_path, None, "cron", "job")


SERVE = """
import sys
from rl_core.config import Bandit, Settings
from rl_core.serving.server import main
main(Bandit.from_json(sys.argv[1]), Settings.from_environment(), 0)
"""


@pytest.fixture
def serve(settings: Settings, repo: Path) -> Iterator[Callable[[Bandit], None]]:
    """Starts a prediction server for a bandit and waits until it listens; gone after the test."""
    servers: list[subprocess.Popen[bytes]] = []

    def start(bandit: Bandit) -> None:
        environment = os.environ | {"BANDIT_HOME": str(settings.home)}
        servers.append(subprocess.Popen([sys.executable, "-c", SERVE, bandit.job_json()], cwd=repo, env=environment))
        announced = settings.state_dir(bandit) / "endpoint" / "endpoint.json"
        until(lambda: announced.exists() or servers[-1].poll() is not None, "the server to listen")
        assert servers[-1].poll() is None, "the server ended"

    yield start
    for server in servers:
        server.kill()
        server.wait(patient(10))


class TestWithAServer:
    def test_a_promotion_returns_when_the_server_answers_with_it(
        self, job: Job, bandit: Bandit, settings: Settings, serve: Callable[[Bandit], None]
    ) -> None:
        serve(bandit)
        for champion, window in ((None, (0, 200)), ("movielens-v1-0001", (200, 300))):
            deployment = job.deploy(window, champion)
            assert deployment.reason == "said so"
            assert open_backend(bandit, settings).endpoint().state()["champion"] == deployment.version

    def test_a_policy_that_the_server_refuses_is_not_promoted(
        self, job: Job, bandit: Bandit, registry: PolicyRegistry, serve: Callable[[Bandit], None]
    ) -> None:
        first = job.deploy((0, 200), None)
        problem = bandit.problem.model_copy(update={"observation_version": "users-v2"})
        serve(bandit.model_copy(update={"problem": problem}))
        with pytest.raises(PolicyError, match="refused movielens-v1-0002"):
            job.deploy((200, 300), first.version)
        assert registry.alias("champion") == first.version
        assert [attempt.key for attempt in registry.attempts()] == ["job-200"]

    def test_a_server_that_never_answers_with_it_gets_its_champion_back(
        self,
        job: Job,
        bandit: Bandit,
        registry: PolicyRegistry,
        serve: Callable[[Bandit], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        serve(bandit)
        first = job.deploy((0, 200), None)

        def hangs(*_: object) -> None:
            raise EndpointError("not served within 30 s")

        with monkeypatch.context() as patch:
            patch.setattr(LocalEndpoint, "serve", hangs)
            with pytest.raises(EndpointError, match="not served"):
                job.deploy((200, 300), first.version)
        assert registry.alias("champion") == first.version
        assert [attempt.key for attempt in registry.attempts()] == ["job-200"]
        assert job.deploy((200, 300), first.version).promoted

    def test_a_server_that_never_answers_with_the_first_policy_leaves_no_champion_and_no_attempt(
        self,
        job: Job,
        bandit: Bandit,
        registry: PolicyRegistry,
        serve: Callable[[Bandit], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        serve(bandit)

        def hangs(*_: object) -> None:
            raise EndpointError("not served within 30 s")

        with monkeypatch.context() as patch:
            patch.setattr(LocalEndpoint, "serve", hangs)
            with pytest.raises(EndpointError, match="not served"):
                job.deploy((0, 200), None)
        assert (registry.alias("champion"), registry.attempts()) == (None, [])
        assert job.deploy((0, 200), None).promoted

    def test_a_server_that_died_stops_the_promotion(
        self,
        job: Job,
        bandit: Bandit,
        settings: Settings,
        registry: PolicyRegistry,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(LocalEndpoint, "load", partialmethod(LocalEndpoint.load, timeout_s=0.5))
        first = job.deploy((0, 200), None)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        announcement = settings.state_dir(bandit) / "endpoint" / "endpoint.json"
        announcement.parent.mkdir(parents=True)
        announcement.write_text(f'{{"url": "http://127.0.0.1:9", "pid": {gone.pid}, "started_at": "then"}}')
        with pytest.raises(EndpointError, match="is gone"):
            job.deploy((200, 300), first.version)
        assert registry.alias("champion") == first.version
