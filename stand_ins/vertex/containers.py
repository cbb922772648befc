"""The containers of deployed models: processes of this machine's Python with a container's variables, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
import httpx
from google.cloud import aiplatform_v1 as v1

from stand_ins.free_port import free_port
from stand_ins.grpc_service import ApiError

_REPOSITORY = Path(__file__).resolve().parents[2]
_ENDS_WITHIN_S = 10.0


class Container:
    """One replica. Its image is not looked at: the code is this checkout's; command and environment are the model's.

    Args:
        folder: its home and log.
        environment: of the world that the stand-ins make up; goes before the model's own.
    """

    def __init__(self, model: v1.Model, folder: Path, environment: Mapping[str, str]) -> None:
        spec = model.container_spec
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "container.log"
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._routes = {"health": spec.health_route or "/health", "predict": spec.predict_route or "/predict"}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BANDIT_", "AIP_"))}
        variables = {
            **inherited,
            **{one.name: one.value for one in spec.env},
            **environment,
            "BANDIT_HOME": str(folder / "home"),
            "PYTHONPATH": str(_REPOSITORY),
            "AIP_HTTP_PORT": str(port),
            "AIP_HEALTH_ROUTE": self._routes["health"],
            "AIP_PREDICT_ROUTE": self._routes["predict"],
            **({"AIP_STORAGE_URI": model.artifact_uri} if model.artifact_uri else {}),
        }
        command = [sys.executable if word == "python" else word for word in (*spec.command, *spec.args)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_healthy(self, within_s: float) -> None:
        """Raises ApiError where it ends, or does not answer its health route with 200 in time."""
        deadline = time.monotonic() + within_s
        with httpx.Client(trust_env=False, verify=False, timeout=2.0) as client:  # noqa: S501  plain HTTP
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    if client.get(self._url + self._routes["health"]).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(0.05)
        said = self._log.read_text(errors="replace")[-2000:]
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"Model server never became ready: {said}")

    def predict(self, body: bytes, content_type: str) -> httpx.Response:
        with httpx.Client(trust_env=False, verify=False, timeout=30.0) as client:  # noqa: S501  60 ms less
            return client.post(
                self._url + self._routes["predict"], content=body, headers={"content-type": content_type}
            )

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
