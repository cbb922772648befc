"""The time of Cloud Storage's servers: what a lease and a report's age are measured by, whoever measures.

Two workers whose clocks differ by minutes must agree on when a lease has ended; both ask the one place they share.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from rl_core.google_cloud.clients import GoogleClients

_ASKED_EVERY_S = 300.0


class ServerClock:
    """The servers' clock; within a process it never runs backwards.

    Exact to about a second, the resolution of HTTP's Date header.
    """

    def __init__(self, clients: GoogleClients) -> None:
        self._clients = clients
        self._known: tuple[float, datetime] | None = None

    def now(self) -> datetime:
        """Return the time, UTC. Asked anew every few minutes; in between this machine's monotonic clock counts on."""
        if self._known is None or time.monotonic() - self._known[0] > _ASKED_EVERY_S:
            asked = self._asked()
            self._known = time.monotonic(), asked if self._known is None else max(asked, self._counted(self._known))
        return self._counted(self._known)

    def _counted(self, known: tuple[float, datetime]) -> datetime:
        return known[1] + timedelta(seconds=time.monotonic() - known[0])

    def _asked(self) -> datetime:
        """Any answer will do: also that there is no such object. Where there is none, this machine's clock serves."""
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import AuthorizedSession
        from requests.exceptions import RequestException

        names = self._clients.names
        base = self._clients.settings.google_endpoint or "https://storage.googleapis.com"
        url = f"{base}/storage/v1/b/{names.bucket}/o/clock?fields=name"
        try:
            with AuthorizedSession(self._clients.credentials) as session:
                answer = session.get(url, timeout=5.0)
            return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
        except (RequestException, GoogleAuthError, KeyError, ValueError):
            return datetime.now(UTC)
