"""What the policy registry stands on: one object that changes hands by its generation."""

from __future__ import annotations

import time

from google.api_core.exceptions import NotFound, NotModified, PreconditionFailed
from google.cloud.storage.retry import DEFAULT_RETRY

from stand_ins.beliefs.scratch import Belief, Scratch


def one_of_two_creators_wins(scratch: Scratch) -> str | None:
    scratch.bucket.blob("created").upload_from_string("first", if_generation_match=0)
    try:
        scratch.bucket.blob("created").upload_from_string("second", if_generation_match=0)
    except PreconditionFailed:
        assert scratch.bucket.blob("created").download_as_bytes() == b"first"
        return None
    raise AssertionError("if_generation_match=0 replaced an object")


def a_write_over_a_generation_that_has_passed_is_refused(scratch: Scratch) -> str | None:
    blob = scratch.bucket.blob("swapped")
    blob.upload_from_string("1", if_generation_match=0)
    first = blob.generation
    scratch.bucket.blob("swapped").upload_from_string("2", if_generation_match=first)
    try:
        scratch.bucket.blob("swapped").upload_from_string("3", if_generation_match=first)
    except PreconditionFailed as error:
        assert error.code == 412
    else:
        raise AssertionError("a stale generation was written over")
    read = scratch.bucket.blob("swapped")
    assert read.download_as_bytes() == b"2", "a read after the write sees it"
    read.reload()
    assert read.generation > first, f"generations rise: {first} to {read.generation}"
    return None


def a_read_of_a_known_generation_is_not_sent_again(scratch: Scratch) -> str | None:
    blob = scratch.bucket.blob("read")
    blob.upload_from_string("1")
    try:
        scratch.bucket.blob("read").download_as_bytes(if_generation_not_match=blob.generation)
    except NotModified as error:
        assert error.code == 304
    else:
        raise AssertionError("a known generation was sent again")
    read = scratch.bucket.blob("read")
    read.download_as_bytes()
    assert read.generation == blob.generation, "a download names its generation"
    return None


def what_is_not_there_is_404(scratch: Scratch) -> str | None:
    try:
        scratch.bucket.blob("absent").download_as_bytes()
    except NotFound:
        return None
    raise AssertionError("an object that is not there was read")


def a_listing_sees_what_was_written_before(scratch: Scratch) -> str | None:
    for number in range(3):
        scratch.bucket.blob(f"listed/{number}").upload_from_string(str(number))
    found = [blob.name for blob in scratch.clients.storage.list_blobs(scratch.bucket.name, prefix="listed/")]
    assert found == ["listed/0", "listed/1", "listed/2"], f"names ascend: {found}"
    return None


def ten_swaps_within_a_second_or_two_all_land(scratch: Scratch) -> str | None:
    """Of one object a write each second is promised; beyond it 429, which the client's own retries outlast."""
    blob = scratch.bucket.blob("hurried")
    blob.upload_from_string("0", if_generation_match=0)
    began = time.perf_counter()
    for number in range(1, 11):
        blob.upload_from_string(
            str(number), if_generation_match=blob.generation, retry=DEFAULT_RETRY.with_timeout(30.0)
        )
    assert scratch.bucket.blob("hurried").download_as_bytes() == b"10"
    return f"{time.perf_counter() - began:.1f} s"


BELIEFS = (
    Belief(
        "storage", "ten swaps of one object at once all land, slowed down", ten_swaps_within_a_second_or_two_all_land
    ),
    Belief("storage", "of two that create an object, one gets 412", one_of_two_creators_wins),
    Belief(
        "storage",
        "a write over a generation that has passed gets 412",
        a_write_over_a_generation_that_has_passed_is_refused,
    ),
    Belief("storage", "a read of a known generation is 304", a_read_of_a_known_generation_is_not_sent_again),
    Belief("storage", "an object that is not there is 404", what_is_not_there_is_404),
    Belief("storage", "a listing is strongly consistent, in order of names", a_listing_sees_what_was_written_before),
)
