"""An answer that its client does not wait for: from the connection that is gone to the training that leaves it out."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx

from rl_core.backends import open_backend
from rl_core.backends.contracts.store import JoinableStore
from rl_core.backends.local.bus.mark import LOCK_FILE
from rl_core.config import Join
from rl_core.dataset.tfrecord import Rows
from rl_core.dataset.trajectories import Dataset
from rl_core.files import PatientLock
from rl_core.joining.event_logger import EventLogger
from rl_core.monitoring.delivery import local_delivery
from rl_core.monitoring.vital_signs import vital_signs
from rl_core.stages import ingester
from tests.harness.patience import patient, until

if TYPE_CHECKING:
    from tests.e2e.conftest import Site


def state(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(site.url() + "/state", trust_env=False, timeout=patient(30)).json()
    return found


def deferred(site: Site, event_id: str) -> dict[str, Any]:
    observation = site.environment.observations_f32[0].tolist()
    instances = [{"observation": observation, "event_id": event_id}]
    return {"instances": instances, "parameters": {"defer_activation": True}}


def ask_and_hang_up(site: Site, event_id: str) -> None:
    """The bus is held, so that the client is gone before its decision is logged."""
    before, body = state(site)["requests"], json.dumps(deferred(site, event_id)).encode()
    with PatientLock(site.state_dir / "bus" / LOCK_FILE, 5):
        with socket.create_connection(("127.0.0.1", site.port), timeout=patient(10)) as connection:
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            until(lambda: state(site)["requests"] > before)
        state(site)  # asked after the connection was closed: the server has seen that when it answers


def test_is_logged_counted_never_activated_and_never_trained(site: Site, tmp_path: Path) -> None:
    site.bandit = site.bandit.model_copy(update={"join": Join(reward_wait_s=60)})
    site.promote(1)
    site.serve(BANDIT_DEFINITION=site.bandit.model_dump_json())
    ask_and_hang_up(site, "lost")
    until(lambda: state(site)["undelivered"] == 1)
    for event_id in ("activated", "rewarded"):
        assert site.post("/predict", deferred(site, event_id)).status_code == 200
    assert site.post("/activate", {"activations": ["activated"]}).status_code == 200
    assert site.post("/reward", {"event_id": "rewarded", "reward": 4}).status_code == 200
    assert (state(site)["undelivered"], state(site)["deferred"]) == (1, 3)

    store = cast(JoinableStore, open_backend(site.bandit, site.settings).store())
    with closing(open_backend(site.bandit, site.settings).bus()) as bus:
        EventLogger(site.bandit, bus, store).run_once()
    assert store.joiner(site.bandit).run(datetime.now(UTC) + timedelta(seconds=61)).head == 3
    rows = {row["event_id"]: row for row in store.interactions((0, 3)).to_pylist()}
    closed = {event_id: (row["closed_by"], row["served"]) for event_id, row in rows.items()}
    assert closed == {"lost": ("unactivated", False), "activated": ("timeout", True), "rewarded": ("reward", True)}
    delivery = local_delivery(site.bandit, site.settings, store)
    assert vital_signs(site.bandit, site.registry, 3, delivery, datetime.now(UTC)).unactivated == 1

    assert ingester.run(site.bandit, site.settings, [(0, 3)], tmp_path / "dataset") == 2
    trained = Rows.concatenated(Dataset.open(tmp_path / "dataset").read())
    assert sorted(trained.seq) == sorted(row["seq"] for row in rows.values() if row["served"])
