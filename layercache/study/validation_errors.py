"""Errors of pydantic about a study file in the words of its reader: table, key, expected, got."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import ErrorDetails

from layercache.errors import LayercacheError, OptionError, UnknownNameError
from layercache.probing.heads.spec import HEADS
from layercache.study.schema import TABLES, NoiseTable, StudyTable

TITLES = {"heads": "[[heads]]", "model": "[model.NAME]", "dataset": "[dataset.NAME]"}
"""Key of the file -> title of its tables, if it is not [KEY]."""
EXPECTED = {
    "string_type": "a text in quotes",
    "string_too_short": "a text in quotes",
    "path_type": "a text in quotes",
    "int_type": "a whole number",
    "greater_than_equal": "a whole number of at least {ge}",
    "float_type": "a number",
    "bool_type": "true or false",
    "literal_error": "{expected}",
    "list_type": 'a list, as in ["a", "b"]',
    "too_short": "a list of at least one entry",
    "model_type": "a table of keys and values",
    "dict_type": "a table of keys and values",
}
"""Type of an error of pydantic -> the expected value in words."""
EXPECTED_OF_KEY = {
    "models": 'a list of models, as in ["vit_s16", "vit_b16"]',
    "datasets": 'a list of datasets, as in ["pets", "flowers"]',
    "heads": "tables [[heads]], one per column",
    "head": f"one of {', '.join(HEADS)}",
    "noise": "a table such as { std = 0.05, probability = 0.5 }, or false",
}
"""Key -> the expected value in words, if it is missing or no list or table."""


def raise_faults(faults: Sequence[LayercacheError], where: str) -> None:
    """Raise the only fault, or an OptionError with a line for each of several.

    Args:
        faults: The faults of a file.
        where: Name of the file.
    """
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = [f"  {fault}" for fault in faults]
        raise OptionError("\n".join([f"{where}: {len(faults)} faults:", *lines]))


def fault_of(error: ErrorDetails, study: type[StudyTable], where: str) -> LayercacheError:
    """Return an error of pydantic in words.

    Args:
        error: One error of a ValidationError.
        study: Model of the whole file.
        where: Name of the file.
    """
    match error["loc"]:
        case ["heads", int(number), *keys]:
            place, table = f"{where}: [[heads]] number {number + 1}", TABLES["heads"]
        case [("model" | "dataset") as name, str(of), *keys]:
            place, table = f"{where}: [{name}.{of}]", TABLES[name]
        case [str(name), *keys] if name in TABLES and name not in TITLES:
            place, table = f"{where}: [{name}]", TABLES[name]
        case [*keys]:
            place, table = where, study
    if keys[:1] == ["noise"] and len(keys) > 1:
        place, table, keys = f"{place}: noise", NoiseTable, keys[1:]
    kind, context = error["type"], error.get("ctx", {})
    key = next((str(key) for key in keys), "")  # after it: the number of an entry
    if kind == "extra_forbidden":
        if key in table.spellings():
            return OptionError(f"{place}: {key}: given twice, also by another spelling")
        homes = [name for name, other in TABLES.items() if key in other.spellings()]
        words = " or ".join(TITLES.get(name, f"[{name}]") for name in homes)
        hint = f"(it belongs to {words})" if homes else ""
        return UnknownNameError(f"key in {place}", key, table.spellings(), hint=hint)
    if kind == "unknown_name":
        return UnknownNameError(f"{key} in {place}", **context)
    place = f"{place}: {key}" if key else place
    if kind == "value_error":
        return OptionError(f"{place}: {context['error']}")
    expected = EXPECTED.get(kind, error["msg"]).format(**context)
    if kind in ("missing", "list_type", "model_type", "too_short"):
        expected = EXPECTED_OF_KEY.get(key, expected)
    if kind == "missing":
        return OptionError(f"{place} is missing: expected {expected}")
    return OptionError(f"{place}: expected {expected}, got {error['input']!r}")
