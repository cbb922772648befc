"""The registry in Cloud Storage beyond the contract: races, lost answers, outages, and a mirror that lags."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rl_core.backends.contracts.registry import Attempt, Lineage
from rl_core.backends.gcp.artefacts import download
from rl_core.backends.gcp.clients import GoogleClients
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.backends.gcp.server_clock import ServerClock
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, LeaseHeld, PromotionConflict, RegistryError
from stand_ins.cloud import Cloud
from stand_ins.faults import Fault
from tests.harness.patience import patient

REPOSITORY = Path(__file__).parents[2]
FIRST = Lineage(None, ())

PROMOTE = """
import sys
from pathlib import Path
from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.gcp.clients import GoogleClients
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.backends.gcp.server_clock import ServerClock
from rl_core.config import Bandit, Settings
from rl_core.errors import LeaseHeld, PromotionConflict

settings = Settings.from_environment()
registry = VertexRegistry(GoogleClients(settings.bandit(None), settings))
version = registry.register(Path(sys.argv[1]), Lineage(None, ()))
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.promote(version, None)
    print("won", version)
except PromotionConflict:
    print("lost", version)
"""


class World:
    """A project with a bucket. Each registry has clients of its own, as in another process."""

    def __init__(self, folder: Path, bandit: Bandit) -> None:
        self.folder = folder
        self.bandit = bandit
        self.cloud = Cloud(folder / "cloud")
        self.faults = self.cloud.faults
        self._opened: list[GoogleClients] = []

    def clients(self) -> GoogleClients:
        rest = self.cloud.environment("rest", "vertex")["BANDIT_GOOGLE_ENDPOINT"]
        home = self.folder / f"home-{len(self._opened)}"
        self._opened.append(GoogleClients(self.bandit, Settings(home=home, google_endpoint=rest)))
        return self._opened[-1]

    def registry(self) -> VertexRegistry:
        return VertexRegistry(self.clients())

    def artefact(self, name: str) -> Path:
        made = self.folder / f"artefact-{name}"
        (made / "saved_model").mkdir(parents=True, exist_ok=True)
        (made / "manifest.json").write_text(name)
        (made / "saved_model" / "weights").write_text(f"weights of {name}")
        return made

    def mirrored(self) -> dict[str, set[str]]:
        """The aliases of each version in Vertex Model Registry, by policy version."""
        found = self.cloud.vertex.models.versions(self._opened[0].names.model)
        return {
            one.labels["policy_version"]: set(one.version_aliases) - {"default", one.labels["policy_version"]}
            for one in found
        }

    def close(self) -> None:
        for clients in self._opened:
            clients.close()


@pytest.fixture
def world(tmp_path: Path, cloud_movielens: Bandit) -> Iterator[World]:
    world = World(tmp_path, cloud_movielens)
    with world.cloud:
        world.clients().bucket.create(location="europe-west1")
        yield world
        world.close()


def attempt(key: str, version: str) -> Attempt:
    return Attempt(key, ((0, 200),), "promoted", version, "manual", "better", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.process
class TestRacingProcesses:
    def test_get_distinct_versions_and_one_of_them_is_promoted(self, world: World) -> None:
        environment = {
            **world.cloud.environment("rest", "vertex"),
            "BANDIT_DEFINITION": world.bandit.model_dump_json(),
            "PYTHONPATH": str(REPOSITORY),
        }
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", PROMOTE, str(world.artefact(str(i)))],
                env=environment | {"BANDIT_HOME": str(world.folder / f"racer-{i}")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(3)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        ends = [racer.communicate(timeout=patient(60))[0].split() for racer in racers]
        registry = world.registry()
        assert sorted(version for _, version in ends) == registry.versions()
        assert registry.versions() == [f"movielens-v1-000{n}" for n in (1, 2, 3)]
        assert [version for end, version in ends if end == "won"] == [registry.alias("champion")]
        champion = registry.alias("champion")
        assert world.mirrored() == {v: {"champion"} if v == champion else set() for v in registry.versions()}


class TestAWriteWhoseAnswerIsLost:
    @pytest.mark.parametrize("lost", [{"code": "503"}, {"drop": True}])
    def test_is_recognised_and_not_made_twice(self, world: World, lost: dict[str, Any]) -> None:
        registry = world.registry()
        one, two = registry.register(world.artefact("a"), FIRST), registry.register(world.artefact("b"), FIRST)
        registry.promote(one, None)
        world.faults.add(Fault("storage.objects.insert", after=True, **lost))
        registry.promote(two, one, attempt("job", two))
        other = world.registry()
        assert (other.alias("champion"), other.attempts()) == (two, [attempt("job", two)])

    def test_is_recognised_although_another_wrote_since(self, world: World) -> None:
        """The conflict that the newest document would show is not one: our promotion came first."""
        registry, other = world.registry(), world.registry()
        one, two = registry.register(world.artefact("a"), FIRST), registry.register(world.artefact("b"), FIRST)
        swapped = registry._swapped

        def overtaken(*args: object, **kwargs: object) -> bool | None:
            swapped(*args, **kwargs)  # type: ignore[arg-type]
            other.promote(two, one)
            return None

        registry._swapped = overtaken  # type: ignore[method-assign]
        registry.promote(one, None)
        assert world.registry().alias("champion") == two

    def test_of_an_artefact_is_recognised_by_its_checksum(self, world: World) -> None:
        registry = world.registry()
        world.faults.add(Fault("storage.objects.insert", code="503", after=True, times=2))
        version = registry.register(world.artefact("a"), FIRST)
        assert (world.registry().path(version) / "saved_model" / "weights").read_text() == "weights of a"


class TestOutages:
    def test_short_ones_are_ridden_out(self, world: World) -> None:
        registry = world.registry()
        version = registry.register(world.artefact("a"), FIRST)
        world.faults.add(Fault("storage.objects.get", code="503"))
        assert world.registry().versions() == [version]

    def test_a_killed_registration_leaves_nothing_but_files_that_the_next_one_uses(self, world: World) -> None:
        registry, artefact = world.registry(), world.artefact("a")
        registry._take_in(artefact, "movielens-v1-0001", "ignored")
        assert world.registry().versions() == []
        version = registry.register(artefact, FIRST)
        assert registry.path(version).is_dir()

    def test_files_of_other_content_are_never_replaced(self, world: World) -> None:
        registry, artefact = world.registry(), world.artefact("a")
        registry.register(artefact, FIRST)
        (artefact / "saved_model" / "weights").write_text("other weights")
        with pytest.raises(RegistryError, match=r"weights holds other content .*; artefacts are never replaced"):
            registry.register(artefact, Lineage("movielens-v1-0001", ()))
        assert registry.versions() == ["movielens-v1-0001"]

    def test_what_is_wrong_for_good_is_said_with_the_setting_or_the_role(self, world: World) -> None:
        world.faults.add(Fault("storage.objects.get", code="403"))
        with pytest.raises(RegistryError, match=r"permission denied .*roles/storage\.objectUser on the bucket"):
            world.registry().alias("champion")
        google = world.bandit.google
        assert google is not None
        elsewhere = world.bandit.model_copy(update={"google": google.model_copy(update={"bucket": "no-such-bucket"})})
        with (
            closing(GoogleClients(elsewhere, world.clients().settings)) as clients,
            pytest.raises(RegistryError, match=r"no-such-bucket.*not found .*run the DAG …_provision"),
        ):
            VertexRegistry(clients).versions()

    def test_a_damaged_document_is_named(self, world: World) -> None:
        blob = world.clients().bucket.blob("movielens-v1/registry/registry.json")
        blob.upload_from_string("{")
        with pytest.raises(RegistryError, match=r"gs://.*/registry\.json is damaged .*; restore it from a copy"):
            world.registry().versions()


class TestTheCache:
    def test_fetches_a_version_once(self, world: World) -> None:
        version = world.registry().register(world.artefact("a"), FIRST)
        registry = world.registry()
        path = registry.path(version)
        world.faults.add(Fault("storage.objects.list", code="403"))
        assert registry.path(version) == path
        assert {file.name for file in path.rglob("*") if file.is_file()} == {"manifest.json", "weights"}

    def test_forgets_a_version_of_a_registry_that_stood_there_before(self, world: World) -> None:
        registry = world.registry()
        version = registry.register(world.artefact("a"), FIRST)
        (registry.path(version) / "manifest.json").write_text("of a project that was torn down")
        assert (registry.path(version) / "manifest.json").read_text() == "a"

    def test_an_unchanged_document_is_not_sent_again(self, world: World) -> None:
        registry = world.registry()
        registry.register(world.artefact("a"), FIRST)
        assert registry.versions() == registry.versions()
        before = registry._state()
        assert registry._state() is before

    def test_a_folder_where_nothing_lies_is_an_error(self, world: World, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match="gs://test-project-movielens-v1/nothing: nothing lies there"):
            download(world.clients(), "gs://test-project-movielens-v1/nothing", tmp_path / "into")
        assert not (tmp_path / "into").exists()


class TestTheLease:
    def test_ends_by_the_clock_of_the_servers(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """This machine's is an hour slow: a lease that it counted by itself would have ended when it was given."""
        asked = ServerClock._asked
        monkeypatch.setattr(ServerClock, "_asked", lambda clock: asked(clock) + timedelta(hours=1))
        world.registry().lease("run-1", ttl_s=600)
        with pytest.raises(LeaseHeld, match="'run-1' holds the training lease until") as held:
            world.registry().lease("run-2", ttl_s=600)
        until = datetime.fromisoformat(str(held.value).partition("until ")[2].partition(";")[0])
        assert timedelta(minutes=69) < until - datetime.now(UTC) < timedelta(minutes=71)


class TestTheMirror:
    def test_shows_versions_aliases_labels_and_where_they_lie(self, world: World) -> None:
        registry = world.registry()
        one = registry.register(world.artefact("a"), FIRST)
        registry.promote(one, None, attempt("job", one))
        two = registry.register(world.artefact("b"), Lineage(one, ()))
        registry.stage(two)
        assert world.mirrored() == {one: {"champion"}, two: {"challenger"}}
        clients = world.clients()
        found = list(clients.models.list_model_versions(name=clients.names.model))
        labels = {"banditloop": "movielens-v1", "pipe_version": "v1"}
        assert [dict(one.labels) for one in found] == [
            {**labels, "policy_version": one, "parent": "none", "verdict": "promoted"},
            {**labels, "policy_version": two, "parent": one, "verdict": "none"},
        ]
        assert found[0].artifact_uri == registry.artefact_uri(registry.digest(one))
        registry.promote(two, one)
        assert world.mirrored() == {one: set(), two: {"champion"}}
        registry.restore(one, two)
        assert world.mirrored() == {one: {"champion"}, two: set()}

    def test_that_can_not_be_reached_lags_with_a_warning_and_is_repaired_by_the_next_write(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry = world.registry()
        one = registry.register(world.artefact("a"), FIRST)
        world.faults.add(Fault("UploadModel", code="UNAVAILABLE"))
        with caplog.at_level(logging.WARNING, logger="rl_core"):
            two = registry.register(world.artefact("b"), FIRST)
        assert "models/movielens-v1 lags behind the registry until its next write" in caplog.text
        assert (registry.versions(), set(world.mirrored())) == ([one, two], {one})
        registry.promote(two, None)
        assert world.mirrored() == {one: set(), two: {"champion"}}

    def test_is_repaired_after_a_crash_between_document_and_mirror(self, world: World) -> None:
        registry = world.registry()
        one, two = registry.register(world.artefact("a"), FIRST), registry.register(world.artefact("b"), FIRST)
        registry.promote(one, None)
        super(VertexRegistry, registry).promote(two, one)
        assert world.mirrored()[one] == {"champion"}
        world.registry().promote(two, one)
        assert world.mirrored() == {one: set(), two: {"champion"}}

    def test_that_is_forbidden_stops_a_registration_and_never_a_promotion(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry = world.registry()
        one = registry.register(world.artefact("a"), FIRST)
        world.faults.add(Fault("ListModelVersions", code="PERMISSION_DENIED", times=2))
        with pytest.raises(RegistryError, match=r"permission denied .*roles/aiplatform\.user on the project"):
            registry.register(world.artefact("b"), FIRST)
        registry.promote(one, None)
        assert registry.alias("champion") == one
        assert "the registry's own document is right" in caplog.text

    def test_without_an_image_lags(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        google = world.bandit.google
        assert google is not None
        world.bandit = world.bandit.model_copy(update={"google": google.model_copy(update={"image": None})})
        with caplog.at_level(logging.WARNING, logger="rl_core"):
            world.registry().register(world.artefact("a"), FIRST)
        assert "google.image is empty" in caplog.text
        assert world.mirrored() == {}


def test_a_conflict_is_the_state_s_and_not_the_race_s(world: World) -> None:
    registry = world.registry()
    one, two = registry.register(world.artefact("a"), FIRST), registry.register(world.artefact("b"), FIRST)
    world.registry().promote(one, None)
    with pytest.raises(PromotionConflict, match=f"champion is {one}, expected none"):
        registry.promote(two, None)


def test_a_name_that_does_not_fit_google_s_ids_is_refused(world: World) -> None:
    bandit = world.bandit.model_copy(update={"prefix": "a" * 40, "pipe_version": "b" * 10})
    with pytest.raises(ConfigError, match=r"has 51 letters; .* at most 49 together"):
        GoogleClients(bandit, Settings())


def test_a_bucket_name_that_is_too_long_is_refused(world: World) -> None:
    google = world.bandit.google
    assert google is not None
    long = world.bandit.model_copy(update={"prefix": "a" * 40})
    named = google.model_copy(update={"project": "p" * 30})
    with pytest.raises(ConfigError, match=r"which has 74 letters and may have 63; set google.bucket"):
        GoogleClients(long.model_copy(update={"google": named}), Settings())
    GoogleClients(long.model_copy(update={"google": named.model_copy(update={"bucket": "mine"})}), Settings()).close()
