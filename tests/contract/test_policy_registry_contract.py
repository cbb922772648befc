"""What every policy registry promises."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from rl_core.backends.contracts.registry import Attempt, Exclusion, Lineage, PolicyRegistry, WindowRef
from rl_core.backends.contracts.store import Window
from rl_core.errors import LeaseHeld, PromotionConflict, RegistryError

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

BACKENDS = ("gcp", "local")
MakeArtefact = Callable[[str], Path]
FIRST = Lineage(None, ())


@pytest.fixture
def make_artefact(tmp_path: Path) -> MakeArtefact:
    def make(name: str) -> Path:
        folder = tmp_path / "made" / name
        (folder / "saved_model").mkdir(parents=True)
        (folder / "manifest.json").write_text(f'{{"name": "{name}"}}')
        (folder / "saved_model" / "weights").write_bytes(name.encode())
        return folder

    return make


@pytest.fixture
def block(tmp_path: Path, registry: PolicyRegistry) -> str:
    source = tmp_path / "block-0-10.npz"
    source.write_bytes(b"sums")
    return registry.put_block(source)


def attempt(
    key: str, *windows: Window, verdict: Literal["promoted", "rejected"] = "promoted", version: str | None = None
) -> Attempt:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    return Attempt(key, windows, verdict, version, "sensor", "better by a lot", at, {"gap": 0.25})


class TestAnEmptyRegistry:
    def test_knows_nothing_and_says_so(self, registry: PolicyRegistry) -> None:
        assert (registry.versions(), registry.attempts()) == ([], [])
        assert registry.alias("champion") is registry.alias("challenger") is None
        with pytest.raises(RegistryError, match="no version 'movielens-v1-0001'; the versions are none yet: startup"):
            registry.path("movielens-v1-0001")


class TestBlocks:
    def test_are_found_by_their_content(self, registry: PolicyRegistry, block: str, tmp_path: Path) -> None:
        assert block == sha256(b"sums").hexdigest()
        assert registry.block_path(block).read_bytes() == b"sums"
        assert registry.put_block(tmp_path / "block-0-10.npz") == block

    def test_that_are_missing_are_named(self, registry: PolicyRegistry, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match="no block 'beef'"):
            registry.block_path("beef")
        with pytest.raises(RegistryError, match=r"nothing\.npz can't be read: No such file"):
            registry.put_block(tmp_path / "nothing.npz")


class TestRegister:
    def test_numbers_versions_and_keeps_the_artefact(
        self, backend: Backend, registry: PolicyRegistry, make_artefact: MakeArtefact, block: str
    ) -> None:
        one = registry.register(make_artefact("a"), FIRST)
        lineage = Lineage(one, (WindowRef(0, 10, block),), (Exclusion(10, 20, "worse"),))
        two = registry.register(make_artefact("b"), lineage)
        assert registry.versions() == [one, two] == ["movielens-v1-0001", "movielens-v1-0002"]
        other = backend.open_registry()
        assert other.lineage(two) == lineage
        assert (other.path(two) / "saved_model" / "weights").read_bytes() == b"b"

    def test_the_same_artefact_and_lineage_is_the_same_version(
        self, registry: PolicyRegistry, make_artefact: MakeArtefact, block: str
    ) -> None:
        artefact = make_artefact("a")
        one = registry.register(artefact, FIRST)
        assert registry.register(artefact, FIRST) == one
        assert registry.register(artefact, Lineage(None, (WindowRef(0, 10, block),))) != one

    def test_a_folder_without_manifest_is_refused(self, registry: PolicyRegistry, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=r"is not a policy artefact: manifest\.json: No such file"):
            registry.register(tmp_path, FIRST)

    @pytest.mark.parametrize(
        ("windows", "excluded", "says"),
        [
            ([(0, 10), (5, 20)], [], r"\(0, 10\] and \(5, 20\] overlap"),
            ([(0, 10)], [(9, 20)], r"\(0, 10\] and \(9, 20\] overlap"),
            ([(10, 10)], [], r"\(10, 10\] is none"),
        ],
    )
    def test_no_interaction_counts_twice(
        self,
        registry: PolicyRegistry,
        make_artefact: MakeArtefact,
        block: str,
        windows: list[Window],
        excluded: list[Window],
        says: str,
    ) -> None:
        refs = tuple(WindowRef(low, high, block) for low, high in windows)
        lineage = Lineage(None, refs, tuple(Exclusion(low, high, "worse") for low, high in excluded))
        with pytest.raises(RegistryError, match=says):
            registry.register(make_artefact("a"), lineage)
        assert registry.versions() == []

    def test_parent_and_blocks_must_be_there(self, registry: PolicyRegistry, make_artefact: MakeArtefact) -> None:
        with pytest.raises(RegistryError, match="no version 'movielens-v1-0009'"):
            registry.register(make_artefact("a"), Lineage("movielens-v1-0009", ()))
        with pytest.raises(RegistryError, match=r"block beef of \(0, 10\] is not stored; put_block it first"):
            registry.register(make_artefact("b"), Lineage(None, (WindowRef(0, 10, "beef"),)))


class TestAnExport:
    @pytest.fixture
    def version(self, registry: PolicyRegistry, make_artefact: MakeArtefact) -> str:
        return registry.register(make_artefact("a"), FIRST)

    @staticmethod
    def export(folder: Path, content: str) -> Path:
        (folder / "saved_model").mkdir(parents=True, exist_ok=True)
        (folder / "saved_model" / "weights").write_text(content)
        (folder / "encoder.json").write_text("{}")
        return folder

    def test_is_kept_beside_the_artefact_which_stays_as_it_was(
        self, backend: Backend, registry: PolicyRegistry, version: str, tmp_path: Path
    ) -> None:
        before = {file: file.read_bytes() for file in registry.path(version).rglob("*") if file.is_file()}
        registry.attach(version, self.export(tmp_path / "export", "new"))
        other = backend.open_registry()
        kept = other.exported(version)
        assert kept is not None
        assert (kept / "saved_model" / "weights").read_text() == "new"
        assert (kept / "encoder.json").read_text() == "{}"
        assert {file: file.read_bytes() for file in registry.path(version).rglob("*") if file.is_file()} == before

    def test_is_attached_once(self, registry: PolicyRegistry, version: str, tmp_path: Path) -> None:
        for content in ("first", "second"):
            registry.attach(version, self.export(tmp_path / "export", content))
        kept = registry.exported(version)
        assert kept is not None
        assert (kept / "saved_model" / "weights").read_text() == "first"

    def test_of_a_policy_of_before_is_in_its_artefact(self, registry: PolicyRegistry, version: str) -> None:
        assert registry.exported(version) == registry.path(version)

    def test_is_none_where_there_is_none(self, registry: PolicyRegistry, tmp_path: Path) -> None:
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare" / "manifest.json").write_text("{}")
        assert registry.exported(registry.register(tmp_path / "bare", FIRST)) is None

    def test_that_was_altered_is_refused(self, registry: PolicyRegistry, version: str, tmp_path: Path) -> None:
        registry.attach(version, self.export(tmp_path / "export", "new"))
        kept = registry.exported(version)
        assert kept is not None
        (kept / "encoder.json").write_text("{ }")
        with pytest.raises(RegistryError, match="is not what was exported; restore it from a copy"):
            registry.exported(version)

    def test_of_an_unknown_version_is_refused(self, registry: PolicyRegistry, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match="no version 'movielens-v1-0009'"):
            registry.attach("movielens-v1-0009", self.export(tmp_path / "export", "new"))


class TestPromote:
    def test_moves_the_champion_from_whom_the_caller_expected(
        self, registry: PolicyRegistry, make_artefact: MakeArtefact
    ) -> None:
        one, two = (registry.register(make_artefact(name), FIRST) for name in "ab")
        registry.promote(one, None)
        registry.promote(two, one)
        assert registry.alias("champion") == two

    def test_from_anyone_else_is_a_conflict_and_changes_nothing(
        self, registry: PolicyRegistry, make_artefact: MakeArtefact
    ) -> None:
        one, two, three = (registry.register(make_artefact(name), FIRST) for name in "abc")
        registry.promote(one, None)
        registry.promote(two, one)
        with pytest.raises(PromotionConflict, match=f"champion is {two}, expected {one}"):
            registry.promote(three, one)
        with pytest.raises(PromotionConflict, match="expected none"):
            registry.promote(three, None)
        assert registry.alias("champion") == two

    def test_of_the_champion_is_success(self, registry: PolicyRegistry, make_artefact: MakeArtefact) -> None:
        one = registry.register(make_artefact("a"), FIRST)
        registry.promote(one, None)
        registry.promote(one, None)
        assert registry.alias("champion") == one

    def test_of_the_challenger_ends_the_challenge(self, registry: PolicyRegistry, make_artefact: MakeArtefact) -> None:
        one = registry.register(make_artefact("a"), FIRST)
        registry.stage(one)
        assert registry.alias("challenger") == one
        registry.promote(one, None)
        assert registry.alias("challenger") is None

    def test_unknown_versions_name_the_known(self, registry: PolicyRegistry, make_artefact: MakeArtefact) -> None:
        one = registry.register(make_artefact("a"), FIRST)
        for change in (registry.stage, lambda version: registry.promote(version, None)):
            with pytest.raises(RegistryError, match=f"no version 'v9'; the versions are {one}"):
                change("v9")


class TestPromoteWithItsAttempt:
    """Swap and record are one step: a champion that is not recorded, or the reverse, is never seen."""

    def test_records_the_attempt_of_a_swap(self, registry: PolicyRegistry, make_artefact: MakeArtefact) -> None:
        one = registry.register(make_artefact("a"), FIRST)
        registry.promote(one, None, attempt("a", (0, 200), version=one))
        assert registry.attempts() == [attempt("a", (0, 200), version=one)]

    def test_records_nothing_of_a_conflict(self, registry: PolicyRegistry, make_artefact: MakeArtefact) -> None:
        one, two = (registry.register(make_artefact(name), FIRST) for name in "ab")
        registry.promote(one, None)
        with pytest.raises(PromotionConflict):
            registry.promote(two, None, attempt("a", (0, 200), version=two))
        assert registry.attempts() == []

    def test_is_undone_by_restoring_the_champion_before(
        self, backend: Backend, registry: PolicyRegistry, make_artefact: MakeArtefact
    ) -> None:
        one, two = (registry.register(make_artefact(name), FIRST) for name in "ab")
        tries = attempt("a", version=one), attempt("b", version=two)
        registry.promote(one, None, tries[0])
        registry.promote(two, one, tries[1])
        registry.restore(one, two, tries[1])
        assert (registry.alias("champion"), registry.attempts()) == (one, [tries[0]])
        registry.restore(None, one, tries[0])
        assert (backend.open_registry().alias("champion"), registry.attempts()) == (None, [])

    def test_is_not_undone_once_another_is_champion(
        self, registry: PolicyRegistry, make_artefact: MakeArtefact
    ) -> None:
        one, two = (registry.register(make_artefact(name), FIRST) for name in "ab")
        registry.promote(one, None, attempt("a", version=one))
        registry.promote(two, one)
        with pytest.raises(PromotionConflict, match=f"champion is {two}, expected {one}"):
            registry.restore(None, one, attempt("a", version=one))
        assert (registry.alias("champion"), len(registry.attempts())) == (two, 1)


class TestAttempts:
    def test_are_kept_in_order_whatever_their_verdict(self, backend: Backend, registry: PolicyRegistry) -> None:
        made = [attempt("a", (0, 200), version="v1"), attempt("b", (200, 500), verdict="rejected")]
        for one in made:
            registry.record(one)
        assert backend.open_registry().attempts() == made

    def test_are_recorded_once_under_their_key(self, registry: PolicyRegistry) -> None:
        registry.record(attempt("a", (0, 200)))
        registry.record(attempt("a", (0, 300), verdict="rejected"))
        assert registry.attempts() == [attempt("a", (0, 200))]

    def test_figures_that_are_no_numbers_survive(self, registry: PolicyRegistry) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        registry.record(Attempt("a", ((0, 1),), "rejected", None, "manual", "?", at, {"ess": float("inf")}))
        assert registry.attempts()[0].metrics == {"ess": float("inf")}


class TestTheLease:
    def test_is_held_by_one_who_may_renew_it(self, backend: Backend) -> None:
        one, other = backend.open_registry(), backend.open_registry()
        one.lease("run-1", ttl_s=60)
        one.lease("run-1", ttl_s=60)
        with pytest.raises(LeaseHeld, match="'run-1' holds the training lease until 20"):
            other.lease("run-2", ttl_s=60)

    def test_is_free_after_release_or_expiry(self, registry: PolicyRegistry) -> None:
        registry.lease("run-1", ttl_s=60)
        registry.release("run-1")
        registry.lease("run-2", ttl_s=0.05)
        time.sleep(0.06)
        registry.lease("run-3", ttl_s=60)

    def test_is_not_released_by_others(self, registry: PolicyRegistry) -> None:
        registry.lease("run-1", ttl_s=60)
        registry.release("run-2")
        with pytest.raises(LeaseHeld):
            registry.lease("run-2", ttl_s=60)
