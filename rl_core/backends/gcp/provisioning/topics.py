"""Pub/Sub topics. Their subscriptions are Eventarc's: made and deleted with the functions."""

from __future__ import annotations

from typing import Any

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.resource import Found, Owned, Site

RETENTION_DAYS = 7
"""Messages can be delivered anew for that long, after an outage of the logger function."""


class Topic(Owned):
    """A Pub/Sub topic."""

    part: Part = "messaging"
    role = "roles/pubsub.admin on the project"

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self.name = name

    def describe(self) -> str:
        return f"topic {self.name.rpartition('/')[2]}"

    def exists(self) -> Found:
        from google.api_core.exceptions import NotFound

        try:
            topic: Any = self._site.clients.publisher.get_topic(topic=self.name)
        except NotFound:
            return Found.ABSENT
        return self._site.owner(topic.labels)

    def create(self) -> None:
        from datetime import timedelta

        from google.pubsub_v1 import Topic as Message

        names = self._site.names
        topic = Message(
            name=self.name,
            labels=names.labels,
            message_retention_duration=timedelta(days=RETENTION_DAYS),
            kms_key_name=names.google.kms_key or "",
        )
        self._site.clients.publisher.create_topic(topic)

    def _remove(self) -> None:
        self._site.clients.publisher.delete_topic(topic=self.name)
