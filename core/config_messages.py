"""How `core.config` speaks to people: what a setting must be, what it is, and the mend."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

WANTED = {
    "int_type": "be a whole number",
    "float_type": "be a number",
    "finite_number": "be a finite number",
    "bool_type": "be true or false",
    "string_type": "be a text in quotes",
    "tuple_type": "be a list in square brackets",
    "too_short": "not be empty",
    "string_too_short": "not be empty",
}
_LIMITS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def problems(details: Sequence[ErrorDetails], defaults: Mapping[str, object]) -> list[str]:
    """Pydantic's findings as sentences, at most one for each setting.

    Parameters
    ----------
    details
        What `pydantic.ValidationError.errors` returns for an experiment.
    defaults
        Every known setting under its dotted name, with its default.
    """
    sentences: dict[str, str] = {}
    for detail in details:
        parts = [str(part) for part in detail["loc"]]
        key = ".".join(parts[:2])
        if len(parts) == 1:
            sentence = no_section(key, detail["input"], defaults)
        elif detail["type"] == "extra_forbidden":
            sentence = unknown_key(key, defaults)
        else:
            sentence = _impossible(key, detail, defaults[key])
        # An item that is refused also leaves its list too short: the first finding is the cause.
        sentences.setdefault(key, sentence)
    return list(sentences.values())


def unknown_key(key: str, names: Iterable[str]) -> str:
    """Sentence that refuses a key and offers the known dotted name nearest to it."""
    nearest = _nearest(key, names)
    return f"unknown key {key}; " + (f"did you mean {nearest}?" if nearest else "configs/README.md lists all keys")


def no_section(name: str, given: object, names: Iterable[str]) -> str:
    """Sentence about a top-level name that is no section, or a section that is no table."""
    names = list(names)
    sections = list(dict.fromkeys(known.split(".")[0] for known in names))
    if name in sections:
        return f"{name} is a section, not {written(given)}; write [{name}] and its settings below"
    if not isinstance(given, Mapping):
        return unknown_key(name, names)
    nearest = difflib.get_close_matches(name, sections, n=1)
    return f"unknown section {name}; " + (
        f"did you mean {nearest[0]}?" if nearest else f"the sections are {', '.join(sections)}"
    )


def written(value: object) -> str:
    """Value as it would stand in a TOML file."""
    if isinstance(value, float):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)


def allowed(schema: Mapping[str, Any]) -> str:
    """Choices or limits of one setting, in words, from its JSON schema."""
    if "items" in schema:
        return f"list of: {allowed(schema['items'])}"
    if "enum" in schema:
        return ", ".join(f"`{written(choice)}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{written(schema['const'])}`"
    signs = {"exclusiveMinimum": "> ", "minimum": "≥ ", "exclusiveMaximum": "< ", "maximum": "≤ "}
    # The widest limits only keep a number within 32 bits: no news to a reader.
    limits = [f"{sign}{schema[name]:g}" for name, sign in signs.items() if name in schema and schema[name] < 2**31 - 1]
    kinds = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    return " ".join([kinds[schema["type"]], " and ".join(limits)]).strip()


def _impossible(key: str, detail: ErrorDetails, default: object) -> str:
    """What a known setting must be, what it is, and a value that is right."""
    kind = detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    subject = key if len(detail["loc"]) == 2 else f"each item of {key}"
    given = "" if kind.endswith("too_short") else f", not {written(detail['input'])}"
    mend = f"; choose for instance {f'{default:g}' if isinstance(default, float) else written(default)}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        wanted = f"be {words} {context[name]:g}"
    elif kind == "literal_error":
        wanted, mend = "be " + context["expected"].replace("'", '"'), "; choose one of these"
    elif kind == "value_error":
        wanted = str(context["error"]).removeprefix("must ")
    elif kind == "string_pattern_mismatch" and key == "run.device":
        wanted, mend = "be auto, cpu, cuda or GPUs by number", "; choose for instance cuda:0 or cuda:0,cuda:1"
    elif kind == "string_pattern_mismatch":
        wanted = "hold 1 to 100 letters, digits, - and _ only"
    else:
        wanted = WANTED.get(kind, f"be valid ({detail['msg']})")
    return f"{subject} must {wanted}{given}{mend}"


def _nearest(key: str, names: Iterable[str]) -> str | None:
    """Known dotted name most like `key`; what follows the section counts twice, as sections are mixed up."""

    def setting(name: str) -> str:
        return name.partition(".")[2] or name

    def likeness(name: str) -> float:
        whole = difflib.SequenceMatcher(None, key, name).ratio()
        return whole + difflib.SequenceMatcher(None, setting(key), setting(name)).ratio()

    best = max(names, key=likeness)
    return best if likeness(best) >= 1.2 else None
