"""Calls REST services that have no library of their own in Composer; raises errors as the libraries do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl_core.errors import ProvisioningError
from rl_core.google_cloud.failures import transient
from rl_core.waiting import looks

OPERATION_TIMEOUT_S = 1_200.0
"""A function is built in two to five minutes, a server deployed in ten to twenty."""

_RETRY_S = 60.0
_UNKNOWN, _INTERNAL = 2, 13  # of google.rpc.Code


def call(request: Any) -> dict[str, Any]:
    """Execute a request; ride out throttling, outages and broken connections for a minute.

    Raises:
        GoogleAPICallError: NotFound, Forbidden, Conflict, …
    """
    from google.api_core.retry import Retry

    retry = Retry(predicate=transient, initial=0.2, maximum=10.0, timeout=_RETRY_S)
    answer: dict[str, Any] = retry(_once)(request)
    return answer


def get(request: Any) -> dict[str, Any] | None:
    """Execute a request for a resource; return None where it does not exist."""
    from google.api_core.exceptions import NotFound

    try:
        return call(request)
    except NotFound:
        return None


def wait(operation: dict[str, Any], look: Callable[[str], Any], poll_s: float = 2.0) -> None:
    """Return once the long-running operation is done. Raises GoogleAPICallError, ProvisioningError for a failed build.

    Args:
        look: the request that reads an operation by name.
    """
    from google.api_core import exceptions as google

    name = operation["name"]
    for _ in looks(OPERATION_TIMEOUT_S, 0.05, poll_s):
        if operation.get("done"):
            break
        operation = call(look(name))
    else:
        raise google.DeadlineExceeded(f"{name} is not done after {OPERATION_TIMEOUT_S:.0f} s")
    if "error" in operation:
        error = operation["error"]
        if error.get("code") in (_UNKNOWN, _INTERNAL):  # what a build says; no outage
            raise ProvisioningError(error.get("message", "no reason given"))
        raise google.from_grpc_status(error.get("code", 13), error.get("message", "no reason given"))


def _once(request: Any) -> Any:
    from http.client import HTTPException

    from google.api_core.exceptions import from_http_status
    from googleapiclient.errors import HttpError
    from httplib2 import HttpLib2Error

    try:
        return request.execute()
    except HttpError as error:
        raise from_http_status(int(error.resp.status), str(error.reason), errors=error.error_details or ()) from error
    except (HttpLib2Error, HTTPException) as error:  # HTTPException: an answer that was cut off
        raise ConnectionError(str(error)) from error
