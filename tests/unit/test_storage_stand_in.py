"""The stand-in for Cloud Storage, asked by the real client for what we rely on in the real one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from stand_ins.faults import Fault, Faults
from stand_ins.serving import served
from stand_ins.storage import StorageStandIn
from tests.harness.patience import patient

MIB = 1 << 20


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def opened(tmp_path: Path, faults: Faults) -> Iterator[Callable[[], Any]]:
    """Another stand-in over the same folder each time, and a client of it."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    with ExitStack() as handles:

        def client() -> Any:
            stand_in = handles.enter_context(StorageStandIn(tmp_path / "storage", faults))
            url = handles.enter_context(served(stand_in.app))
            made = storage.Client("p", AnonymousCredentials(), client_options={"api_endpoint": url})
            handles.callback(made.close)
            return made

        yield client


@pytest.fixture
def client(opened: Callable[[], Any]) -> Any:
    made = opened()
    made.create_bucket("b", location="europe-west1")
    return made


class TestWrites:
    @pytest.mark.parametrize(("size", "chunk"), [(300_001, None), (3 * MIB + 7, MIB)])
    def test_happen_only_at_the_generation_that_is_expected(self, client: Any, size: int, chunk: int | None) -> None:
        from google.api_core.exceptions import PreconditionFailed

        content = os.urandom(size) + b"\r\n\r"
        made = client.bucket("b").blob("folder/a b.bin", chunk_size=chunk)
        made.upload_from_string(content, if_generation_match=0)
        assert client.bucket("b").blob("folder/a b.bin").download_as_bytes() == content
        for generation in (0, made.generation + 1):
            with pytest.raises(PreconditionFailed):
                client.bucket("b").blob("folder/a b.bin", chunk_size=chunk).upload_from_string(
                    content, if_generation_match=generation
                )
        again = client.bucket("b").blob("folder/a b.bin", chunk_size=chunk)
        again.upload_from_string(b"new", if_generation_match=made.generation)
        assert again.generation > made.generation
        with pytest.raises(PreconditionFailed):
            again.delete(if_generation_match=made.generation)

    def test_outlive_the_process(self, client: Any, opened: Callable[[], Any]) -> None:
        client.bucket("b").blob("a").upload_from_string("kept")
        other = opened().bucket("b")
        assert (other.blob("a").download_as_bytes(), other.exists()) == (b"kept", True)


class TestReads:
    def test_of_a_known_generation_are_304(self, client: Any) -> None:
        from google.api_core.exceptions import NotModified

        blob = client.bucket("b").blob("a")
        blob.upload_from_string("one")
        with pytest.raises(NotModified):
            client.bucket("b").blob("a").download_as_bytes(if_generation_not_match=blob.generation)
        read = client.bucket("b").blob("a")
        assert read.download_as_bytes(if_generation_not_match=blob.generation - 1) == b"one"
        assert read.generation == blob.generation

    def test_of_a_part_or_of_nothing(self, client: Any) -> None:
        from google.api_core.exceptions import NotFound

        client.bucket("b").blob("a").upload_from_string("0123456789")
        assert client.bucket("b").blob("a").download_as_bytes(start=3, end=5) == b"345"
        with pytest.raises(NotFound, match="no-such"):
            client.bucket("b").blob("no-such").download_as_bytes()
        with pytest.raises(NotFound, match="elsewhere"):
            list(client.list_blobs("elsewhere"))
        assert client.bucket("b").get_blob("no-such") is None

    def test_of_a_list_come_in_pages(self, client: Any) -> None:
        names = [f"l/{n}/x" for n in range(5)]
        for name in [*names, "m"]:
            client.bucket("b").blob(name).upload_from_string(name)
        assert [blob.name for blob in client.list_blobs("b", prefix="l/", page_size=2)] == names
        below = client.list_blobs("b", delimiter="/")
        assert ([blob.name for blob in below], below.prefixes) == (["m"], {"l/"})


class TestABucket:
    def test_keeps_what_it_was_made_with(self, client: Any) -> None:
        from google.api_core.exceptions import Conflict

        bucket = client.bucket("c")
        bucket.labels = {"banditloop": "x", "more": "y"}
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.create(location="europe-west1")
        bucket.labels = {"banditloop": "x"}
        bucket.patch()
        found = client.get_bucket("c")
        assert (found.location.lower(), found.labels) == ("europe-west1", {"banditloop": "x"})
        assert found.iam_configuration.uniform_bucket_level_access_enabled
        with pytest.raises(Conflict):
            client.create_bucket("c")

    def test_has_a_policy(self, client: Any) -> None:
        policy = client.bucket("b").get_iam_policy()
        policy.bindings.append({"role": "roles/storage.objectUser", "members": {"serviceAccount:s@p"}})
        client.bucket("b").set_iam_policy(policy)
        assert client.bucket("b").get_iam_policy().bindings == policy.bindings


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "body", "says"),
        [
            ("GET", "/storage/v1/b/b?nonsense=1", None, "Unknown name 'nonsense'"),
            ("PATCH", "/storage/v1/b/b", {"labls": {}}, "Unknown name 'labls'"),
            ("PATCH", "/storage/v1/b/b", {"iamConfiguration": {"x": 1}}, "Unknown name 'iamConfiguration.x'"),
        ],
    )
    def test_of_what_the_api_does_not_know(self, client: Any, method: str, path: str, body: Any, says: str) -> None:
        answer = httpx.request(method, client._connection.API_BASE_URL + path, json=body, timeout=patient(30))
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]

    def test_that_were_asked_for(self, client: Any, faults: Faults) -> None:
        from google.api_core.exceptions import Forbidden, PreconditionFailed

        faults.add(Fault("storage.objects.get", code="403"))
        with pytest.raises(Forbidden, match="a fault that was asked for"):
            client.bucket("b").blob("a").reload()
        faults.add(Fault("storage.objects.insert", drop=True, after=True))
        with pytest.raises(PreconditionFailed):  # the client's own second try, after the lost answer to the first
            client.bucket("b").blob("a").upload_from_string("one", if_generation_match=0)
