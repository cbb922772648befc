"""Errors in the shape of Google's REST services. https://cloud.google.com/apis/design/errors"""

from __future__ import annotations

from typing import Any

_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}
_STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED", 429: "UNAVAILABLE"}


class RestError(Exception):
    def __init__(self, status: str, message: str, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status = status if not status.isdigit() else _STATUS.get(int(status), "UNAVAILABLE")
        self.code = int(status) if status.isdigit() else _CODES[status]
        self.details = details or []

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": str(self), "status": self.status}
        return {"error": {**error, "details": self.details} if self.details else error}


def invalid(message: str) -> RestError:
    return RestError("INVALID_ARGUMENT", message)


def denied(permission: str, resource: str) -> RestError:
    return RestError("PERMISSION_DENIED", f"Permission '{permission}' denied on resource '{resource}'.")


def disabled(service: str, number: str) -> RestError:
    link = f"https://console.developers.google.com/apis/api/{service}/overview?project={number}"
    return RestError(
        "PERMISSION_DENIED",
        f"{service} has not been used in project {number} before or it is disabled. Enable it by visiting {link}",
        [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SERVICE_DISABLED",
                "domain": "googleapis.com",
            }
        ],
    )
