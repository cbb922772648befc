"""How a long play says where it is."""

from __future__ import annotations

import time

from rich.console import Console

_LINE_EVERY_S = 10.0


class Progress:
    """One line that changes on a terminal. Elsewhere a line for each step, and figures every ten seconds.

    Figures are what begins with a digit.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._begun, self._said = console, time.monotonic(), 0.0
        self._status = console.status("") if console.is_terminal else None
        if self._status:
            self._status.start()

    def tell(self, text: str) -> None:
        now = time.monotonic()
        line = f"{now - self._begun:5.0f} s  {text}"
        if self._status:
            self._status.update(line)
        elif not text[0].isdigit() or now - self._said > _LINE_EVERY_S:
            self._said = now
            self._console.print(line, soft_wrap=True)

    def stop(self) -> None:
        if self._status:
            self._status.stop()
