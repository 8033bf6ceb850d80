"""MemSeg, notebook first: `Detector`, `train`, `evaluate` and `load_recipe`, each imported when it is first used"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .deployment.detector import Detector
    from .evaluation.evaluate import evaluate
    from .recipe import load_recipe
    from .training.train import train

__version__ = "0.1.0"
__all__ = ["Detector", "evaluate", "load_recipe", "train"]
_HOME = {"Detector": "deployment.detector", "evaluate": "evaluation.evaluate", "load_recipe": "recipe",
         "train": "training.train"}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
