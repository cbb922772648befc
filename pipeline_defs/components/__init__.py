"""One lightweight Python component per stage: its body imports the stage and calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kfp import dsl

IMAGE = "python-banditloop:set-at-submit"
"""Placeholder: the runner puts the job image and its digest here."""


def component(function: Callable[..., Any]) -> Any:
    """Make a component that runs on the job image, which already holds kfp and `rl_core`: a step installs nothing."""
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False)
