"""A pipeline of one step that sleeps and adds one. Without postponed annotations: kfp reads them."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl


def add_one(number: int, seconds: int) -> int:
    import time

    time.sleep(seconds)
    return number + 1


def spec(image: str) -> dict[str, Any]:
    """The compiled pipeline. `image` needs a Python with kfp, if the step is to run."""
    step: Any = dsl.component(add_one, base_image=image, install_kfp_package=False)

    @dsl.pipeline(name="smoke")  # type: ignore[untyped-decorator]
    def smoke(number: int, seconds: int) -> int:
        answer: int = step(number=number, seconds=seconds).output
        return answer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "smoke.yaml")
        compiler.Compiler().compile(smoke, str(path))
        loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded
