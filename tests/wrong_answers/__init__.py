"""Typical wrong answers to the exercises, and right ones that are unusual: a module for each room.

Each wrong answer has words that the hint to it must hold, and what somebody who answers so has in mind; the tests
run them all. To read those of an exercise before a lab, in the folder `tests`:

    from wrong_answers import wrong_answers
    for answer, hint, why in wrong_answers()["perlin.1"]: print(why, "->", hint)
"""
import importlib
import pkgutil
from typing import NamedTuple


class Wrong(NamedTuple):
    "A typical wrong answer"
    answer: object   # a function or a value
    hint: str        # words of the hint that it must get
    why: str         # what somebody who answers so has in mind


WRONG: dict[str, tuple[Wrong, ...]] = {}  # by the exercise's key; the modules fill it
# right answers that aren't the solution: another way, another rounding
RIGHT: dict[str, tuple] = {}


def _load():
    for module in pkgutil.iter_modules(__path__): importlib.import_module(f"{__name__}.{module.name}")


def wrong_answers() -> dict[str, tuple[Wrong, ...]]:
    "By the exercise's key"
    _load()
    return WRONG


def right_answers() -> dict[str, tuple]:
    "Right answers beside the solution, by the exercise's key; not every exercise has some"
    _load()
    return RIGHT
