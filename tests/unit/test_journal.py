"""The journal's groups and segments: what was appended is found again, whatever lies around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_core.backends.local.journal import Journal
from rl_core.backends.local.journal_group import (
    Place,
    Record,
    State,
    encode_group,
    encode_record,
    groups_in,
)
from rl_core.backends.local.sqlite_errors import JournalDamage
from rl_core.clock import Reading

NEW = State("bus-1", (0, 0), (0, 0), Reading(5, 6, "boot"), 1, Place(1, 0))

records = st.builds(
    Record,
    topic=st.sampled_from(["decisions", "rewards"]),
    offset=st.integers(1, 2**62),
    key=st.text(max_size=40),
    payload=st.binary(max_size=200),
    stamp_us=st.integers(0, 2**62),
    gone=st.booleans(),
)
groups = st.lists(st.lists(records, max_size=4), min_size=1, max_size=5)


def encoded(some: list[Record], state: State = NEW) -> bytes:
    return encode_group(state, map(encode_record, some))


def taken_apart(content: bytes) -> list[list[Record]]:
    found = [group for _, group, _ in groups_in(content)]
    assert all(group.state == NEW for group in found)
    assert all(sum(group.counts) == len(group.records) for group in found)
    return [group.records for group in found]


def decision(offset: int, payload: bytes = b"payload") -> Record:
    return Record("decisions", offset, f"key-{offset}", payload, 7)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    yield journal
    journal.close()


class TestGroups:
    @settings(deadline=None)
    @given(groups)
    def test_come_back_as_they_were_written(self, written: list[list[Record]]) -> None:
        content = b"".join(map(encoded, written)) + bytes(100)
        assert taken_apart(content) == written

    @settings(deadline=None)
    @given(groups, st.data())
    def test_survive_the_damage_of_another_one(self, written: list[list[Record]], data: st.DataObject) -> None:
        parts = [encoded(some) for some in written]
        number = data.draw(st.integers(0, len(parts) - 1))
        start = data.draw(st.integers(0, len(parts[number]) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=len(parts[number]) - start))
        damaged = parts[number][:start] + noise + parts[number][start + len(noise) :]
        if damaged == parts[number]:
            return
        content = b"".join([*parts[:number], damaged, *parts[number + 1 :]])
        assert taken_apart(content) == written[:number] + written[number + 1 :]

    @settings(deadline=None)
    @given(st.binary(max_size=2000))
    def test_are_not_found_in_noise(self, noise: bytes) -> None:
        assert list(groups_in(noise)) == []

    @settings(deadline=None)
    @given(groups, st.integers(0, 3000))
    def test_that_were_cut_off_are_none(self, written: list[list[Record]], length: int) -> None:
        whole = [*map(encoded, written)]
        content = b"".join(whole)[:length]
        found = taken_apart(content)
        assert found == written[: len(found)]
        assert sum(map(len, whole[: len(found)])) <= length


class TestSegments:
    def fill(self, journal: Journal, count: int, size: int = 1000) -> State:
        state = NEW._replace(place=Place(0, 0))
        for offset in range(1, count + 1):
            now = state._replace(heads=(offset, 0))
            end = journal.append(encoded([decision(offset, b"-" * size)], now), state.place)
            state = now._replace(place=end)
        return state

    def test_are_begun_as_they_fill_up_and_read_in_order(self, journal: Journal) -> None:
        state = self.fill(journal, 600)
        assert len(journal.segments()) == 2
        found = [(group.records[0].offset, end) for group, end in journal.groups(Place(0, 0))]
        assert [offset for offset, _ in found] == list(range(1, 601))
        assert found[-1][1] == state.place
        assert [group.records[0].offset for group, _ in journal.following(Place(1, 0))] == list(range(1, 601))
        journal.audit(state)

    @pytest.mark.parametrize("lost", [1, 4, 77, 260, 599, 600])
    def test_that_lack_a_record_are_called_damaged(self, journal: Journal, lost: int) -> None:
        state = self.fill(journal, 600, size=900)
        for segment in journal.segments():
            file = journal.path(segment)
            file.write_bytes(file.read_bytes().replace(b"key-%d" % lost + b"-" * 900, b"!" * 900))
        with pytest.raises(JournalDamage):
            journal.audit(state)

    def test_what_was_withdrawn_is_not_found(self, journal: Journal) -> None:
        state = self.fill(journal, 3)
        journal.append(encoded([decision(4)]), state.place)
        assert len(list(journal.following(state.place))) == 1
        journal.withdraw(state.place)
        assert list(journal.following(state.place)) == []
        assert len(list(journal.groups(Place(0, 0)))) == 3

    def test_written_anew_they_hold_what_they_were_given(self, journal: Journal) -> None:
        state = self.fill(journal, 600)._replace(floors=(100, 0))
        first = max(journal.segments()) + 1
        anew = journal.write_anew(state, (decision(offset) for offset in range(101, 601)))
        assert (anew.first, anew.heads) == (first, (600, 0))
        journal.drop(range(1, first))
        journal.audit(anew)
        found = [record.offset for group, _ in journal.groups(Place(0, 0)) for record in group.records]
        assert found == list(range(101, 601))

    def test_behind_the_end_of_a_shorter_file_are_damaged(self, journal: Journal) -> None:
        state = self.fill(journal, 10)
        journal.path(1).write_bytes(b"")
        with pytest.raises(JournalDamage, match="ends before the place that was reached"):
            list(journal.following(state.place))
