"""Turns Google's errors into ours, which name the setting to mend or the role to give; knows which of them may pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rl_core.errors import BanditError
from rl_core.google_cloud.names import Names

_TRANSIENT_CODES = {408, 429, 500, 502, 503, 504}


def transient(error: BaseException) -> bool:
    """Tell whether the same call may succeed a little later: throttling, outages, timeouts and broken connections."""
    from google.api_core import exceptions as google
    from google.auth.exceptions import TransportError
    from requests import exceptions as http

    if isinstance(error, google.RetryError):
        return error.cause is None or transient(error.cause)
    if isinstance(error, google.GoogleAPICallError):
        return error.code in _TRANSIENT_CODES or isinstance(error, google.Aborted | google.Unknown)
    return isinstance(error, ConnectionError | TimeoutError | http.ConnectionError | http.Timeout | TransportError)


def patiently(timeout_s: float = 60.0) -> Any:
    """Make a google.api_core Retry for calls that may be repeated: reads, and writes that say the same again."""
    from google.api_core.retry import Retry

    return Retry(predicate=transient, initial=0.2, maximum=5.0, timeout=timeout_s)


@contextmanager
def explained(kind: type[BanditError], what: str, names: Names, role: str) -> Iterator[None]:
    """Turn what Google raises inside into `kind`.

    Args:
        what: what was tried and on which resource, e.g. "append to p.movielens_v1.decisions".
        role: the IAM role that allows it, and on what, e.g. "roles/bigquery.dataEditor on the dataset".
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAPICallError, RetryError, GoogleAuthError, RequestException) as error:
        raise kind(f"{what}: {_advice(error, names, role)}") from error


def _advice(error: Exception, names: Names, role: str) -> str:
    from google.api_core import exceptions as google
    from google.auth.exceptions import GoogleAuthError

    place = f"google.project={names.project}, google.region={names.region}"
    said = " ".join(str(getattr(error, "message", None) or error).split())
    if isinstance(error, google.PermissionDenied | google.Forbidden):
        return f"permission denied ({said}); give the acting account {role}, or correct {place}"
    if isinstance(error, google.Unauthenticated | google.Unauthorized | GoogleAuthError):
        return f"not authenticated ({said}); check gcp_conn_id and impersonation_chain, or the process's own account"
    if isinstance(error, google.NotFound):
        return f"not found ({said}); run the DAG …_provision, or correct {place}; the acting account needs {role}"
    if isinstance(error, google.InvalidArgument | google.BadRequest | google.FailedPrecondition):
        return f"refused ({said}); correct the setting it names"
    if transient(error):
        return f"not answered ({said}); try again later"
    return said
