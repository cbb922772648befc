"""Writes every local pipeline run as a TensorBoard log: its parameters, what it measured, how it ended.

    tensorboard --logdir var/movielens-v1/experiments

One folder per run. Whoever executes the run writes parameters and end, the deployer what was measured; each writes a
file of its own, anew where it is asked twice. Parameters and metrics meet in TensorBoard's tab HParams.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_core.files import write_atomically
from rl_core.framing import framed

EXPERIMENTS = "experiments"
_LONGEST = 200  # characters of a parameter; the bandit's own JSON is in no column


def begin(run: Path, pipeline: str, parameters: Mapping[str, Any]) -> None:
    """Write the run's parameters into its folder `run`, `<state>/experiments/<job_id>`."""
    from google.protobuf.struct_pb2 import Value
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    shown = {name: value for name, value in parameters.items() if len(str(value)) <= _LONGEST and name != "job_id"}
    start = SessionStartInfo(group_name=run.name, start_time_secs=time.time())
    for name, value in {"pipeline": pipeline, **shown}.items():
        start.hparams[name].CopyFrom(_value(Value, value))
    _write(run, "1.parameters", _hparams(metadata.SESSION_START_INFO_TAG, session_start_info=start))


def measured(run: Path, metrics: Mapping[str, float], step: int) -> None:
    """Write the metrics of a run that has begun here; of a run that is executed elsewhere, nothing.

    Args:
        step: the last `seq` that the policy knows: so the runs' points stand in the order of the log.
    """
    if not run.is_dir():
        return
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items() if math.isfinite(value)]
    _write(run, "2.metrics", Summary(value=values), step)


def end(run: Path, *, succeeded: bool) -> None:
    """Write how the run ended."""
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    ended = SessionEndInfo(status=status, end_time_secs=time.time())
    _write(run, "3.end", _hparams(metadata.SESSION_END_INFO_TAG, session_end_info=ended))


def _hparams(tag: str, **info: Any) -> Any:
    """A summary that carries a message for the tab HParams; tensorboard's own writer would import TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData(**info)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data))])


def _value(kind: Any, value: Any) -> Any:
    if isinstance(value, bool):
        return kind(bool_value=value)
    return kind(number_value=value) if isinstance(value, int | float) else kind(string_value=str(value))


def _write(run: Path, part: str, summary: Any, step: int = 0) -> None:
    """An event file: TensorBoard knows it by "tfevents" in its name, and reads a folder's files in order of names."""
    from tensorboard.compat.proto.event_pb2 import Event

    now = time.time()
    events = (Event(wall_time=now, file_version="brain.Event:2"), Event(wall_time=now, step=step, summary=summary))
    run.mkdir(parents=True, exist_ok=True)
    content = b"".join(framed(event.SerializeToString()) for event in events)
    write_atomically(run / f"events.out.tfevents.{part}", content)
