"""MemSeg: surface defects found after seeing only good products

The front door: `from memseg_nb import Detector, train, evaluate, load_recipe`. What is asked for is imported then.
"""
from importlib import import_module

__version__ = "0.1.0"
__all__ = ["Detector", "evaluate", "load_recipe", "train"]
_HOME = {"Detector": "deployment.detector", "evaluate": "evaluation.evaluate", "load_recipe": "recipe",
         "train": "training.train"}


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module 'memseg_nb' has no attribute {name!r}")
    return getattr(import_module(f"memseg_nb.{_HOME[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])
