"""When a DAG runs: checks a schedule where it is written, for Airflow would say it late, and names no bandit.

Airflow's own library for it, croniter, is not where the server is.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

PRESETS = ("@continuous", "@once", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
_FIELDS = (  # what it is called, smallest, largest, its names from the smallest on
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of the week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART = re.compile(r"(?:\*|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>[1-9]\d{0,2}))?", re.ASCII)


def check_schedule(text: str) -> str:
    """Return the schedule. Raises ValueError, with the rule, unless it is a preset or five fields of cron."""
    if text in PRESETS:
        return text
    fields = text.lower().split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            "write five fields of cron (minute, hour, day of the month, month, day of the week), as in '*/10 * * * *', "
            f"or one of {', '.join(PRESETS)}"
        )
    _, _, days, months, _ = (_values(given, *field) for given, field in zip(fields, _FIELDS, strict=True))
    if fields[4] == "*" and min(days) > max(_LONGEST[month - 1] for month in months):
        raise ValueError(f"day {min(days)} never comes in month {fields[3]}")
    return text


def _values(given: str, called: str, least: int, most: int, names: tuple[str, ...]) -> set[int]:
    """Return the numbers that one field stands for. Raises ValueError."""
    known = {f"{n:0{width}}": n for n in range(least, most + 1) for width in (1, 2)}
    known |= {name: n for n, name in enumerate(names, least)}
    values: set[int] = set()
    for part in given.split(","):
        found = _PART.fullmatch(part)
        if found is None or not {found["low"], found["high"]} <= {None, *known}:
            spelt = f" or {names[0]}..{names[-1]}" if names else ""
            raise ValueError(
                f"the {called} is {given!r}; write *, n, a-b, */step or a-b/step, of {least}..{most}{spelt}"
            )
        low = known[found["low"]] if found["low"] else least
        high = known[found["high"]] if found["high"] else low if found["low"] and not found["step"] else most
        around = [*range(low, most + 1), *range(least, low)]  # fri-mon, too
        values.update(around[: around.index(high) + 1 : int(found["step"] or 1)])
    return values


Schedule = Annotated[str, AfterValidator(check_schedule)]
