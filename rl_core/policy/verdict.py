"""The evaluator's verdict: the file by which the deployer learns whether to promote."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rl_core.errors import DataError
from rl_core.files import write_atomically

VERDICT = "verdict.json"


class Verdict(BaseModel):
    """Whether to promote, one sentence why, and the numbers it stands on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    promote: bool
    reason: str
    champion: str | None
    rows: int
    metrics: dict[str, float]

    def save(self, folder: Path) -> None:
        """Write `verdict.json` into the folder, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / VERDICT, self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Verdict:
        """Read the verdict in the folder. Raises DataError where there is none."""
        file = folder / VERDICT
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
            raise DataError(f"{file}: not a verdict ({reason}); run the evaluator again") from error
