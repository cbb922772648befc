"""The bucket: registry, pipeline root, artefacts, source of the functions."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.resource import Found, Site
from rl_core.errors import ProvisioningError


class Bucket:
    """The bandit's bucket, perhaps shared (`google.bucket`): of one that is not ours, only our folder is ever deleted.

    Uniform access and public access prevention, so that only IAM speaks. No soft delete: the registry document is
    rewritten all the time, and every older copy would be paid for.
    """

    part: Part = "storage"
    role = "roles/storage.admin on the project"

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> str:
        return f"bucket {self._site.names.bucket}"

    def exists(self) -> Found:
        """Look for the bucket. Raises ProvisioningError for one that lies elsewhere than `google.location` says."""
        bucket = self._look()
        if bucket is None:
            return Found.ABSENT
        location = self._site.names.location
        if str(bucket.location).lower() != location.lower():
            raise ProvisioningError(
                f"bucket {bucket.name} lies in {bucket.location}, google.location (or google.region) says {location}; "
                "correct the setting, or name another bucket in google.bucket"
            )
        return self._site.owner(bucket.labels)

    def create(self) -> None:
        names = self._site.names
        bucket = self._site.clients.storage.bucket(names.bucket)
        bucket.labels = names.labels
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        bucket.soft_delete_policy.retention_duration_seconds = 0
        if names.google.kms_key is not None:
            bucket.default_kms_key_name = names.google.kms_key
        self._site.clients.storage.create_bucket(bucket, location=names.location)

    def delete(self) -> Found:
        """Delete our folder; and the bucket itself where we made it and nothing of anybody else lies in it."""
        client, bucket = self._site.clients.storage, self._look()
        if bucket is None:
            return Found.ABSENT
        for blob in client.list_blobs(bucket, prefix=self._site.names.folder):
            _delete_if_there(blob)
        if self._site.owner(bucket.labels) is Found.FOREIGN:
            return Found.FOREIGN
        others = next(iter(client.list_blobs(bucket, max_results=1)), None)
        if others is not None:
            raise ProvisioningError(
                f"bucket {bucket.name} is kept: {others.name} in it is not ours; move it and run this again"
            )
        _delete_if_there(bucket)
        return Found.OURS

    def _look(self) -> Any:
        return self._site.clients.storage.lookup_bucket(self._site.names.bucket)


def _delete_if_there(thing: Any) -> None:
    from google.api_core.exceptions import NotFound

    with suppress(NotFound):
        thing.delete()
