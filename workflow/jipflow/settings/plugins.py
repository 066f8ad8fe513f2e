"""Engines and analyses, found by the name of their folder or file.

This is the one place that reaches up the house: what an engine or an analysis declares of its own
settings stands with it, and nothing else names it. To add one is to add its folder or file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import isabstract
from types import ModuleType
from typing import Annotated, Any, TypeVar, Union

from pydantic import Field

from jipflow.settings.part import Part

ENGINES = "jipflow.segment.engines"
ANALYSES = "jipflow.analyses"

P = TypeVar("P", bound=Part)
T = TypeVar("T")


@cache
def engine_names() -> tuple[str, ...]:
    """Return the names of the engines: the packages of ``segment/engines``."""
    return tuple(name for name, is_package in _below(ENGINES) if is_package)


def engine_settings(base: type[P]) -> list[type[P]]:
    """Return what each engine's ``settings.py`` declares that derives from a base, by name."""
    modules = (import_module(f"{ENGINES}.{name}.settings") for name in engine_names())
    return [found for module in modules for found in _declared(module, base)]


def analysis_settings(base: type[P]) -> list[type[P]]:
    """Return the class of settings that each analysis declares, by name."""
    modules = (import_module(f"{ANALYSES}.{name}") for name, _ in _below(ANALYSES))
    return [found for module in modules for found in _declared(module, base)]


@cache
def analysis_classes(base: type[T]) -> Mapping[str, type[T]]:
    """Return the class that each analysis derives from a base, by the name of its module."""
    modules = {name: import_module(f"{ANALYSES}.{name}") for name, _ in _below(ANALYSES)}
    return {name: found for name, module in modules.items() for found in _declared(module, base)}


def one_of(classes: list[type[P]], key: str) -> Any:
    """Return the type of a value that is of one of the classes, as a key of it says."""
    if len(classes) == 1:
        return classes[0]
    return Annotated[Union[tuple(classes)], Field(discriminator=key)]  # noqa: UP007


def _below(package: str) -> Iterator[tuple[str, bool]]:
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for found in sorted(pkgutil.iter_modules(folders), key=lambda module: module.name):
        yield found.name, found.ispkg


def _declared(module: ModuleType, base: type[T]) -> Iterator[type[T]]:
    """Yield the classes that a module itself defines and that derive from a base.

    One that is abstract is what several kinds have in common.
    """
    for value in vars(module).values():
        own = isinstance(value, type) and value.__module__ == module.__name__
        if own and value is not base and issubclass(value, base) and not isabstract(value):
            yield value
