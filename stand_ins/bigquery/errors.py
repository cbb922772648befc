"""An error in the shape in which BigQuery answers it. https://cloud.google.com/bigquery/docs/error-messages"""

from __future__ import annotations

from typing import Any, NoReturn

REASONS = {
    400: "invalid",
    403: "accessDenied",
    404: "notFound",
    409: "duplicate",
    429: "rateLimitExceeded",
    500: "internalError",
    502: "backendError",
    503: "backendError",
}


class BigQueryError(Exception):
    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or REASONS.get(status, "backendError")

    def body(self) -> dict[str, Any]:
        """Of the HTTP answer."""
        first = {"message": str(self), "domain": "global", "reason": self.reason}
        return {"error": {"code": self.status, "message": str(self), "errors": [first]}}

    def result(self) -> dict[str, str]:
        """As `status.errorResult` of a job."""
        return {"reason": self.reason, "message": str(self)}


def not_found(kind: str, name: str, where: str = "") -> NoReturn:
    raise BigQueryError(404, f"Not found: {kind} {name}{where}")


def invalid_query(message: str) -> NoReturn:
    raise BigQueryError(400, message, "invalidQuery")
