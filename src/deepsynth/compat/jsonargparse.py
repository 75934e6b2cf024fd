"""What the texts of jsonargparse's errors say, and how its help shows types.

Its errors are one sentence each, without fields for the key, the value or the class; nothing public tells them apart.
Where a text changes, the functions here find nothing and the user sees jsonargparse's own text.
"""

from __future__ import annotations

import re
from argparse import Action

from jsonargparse import DefaultHelpFormatter


def innermost_error(message: str) -> str:
    """Return the error of the subtype that was meant, out of one for each subtype of a Union; else the message."""
    prefix, union, rest = message.partition("Does not validate against any of the Union subtypes")
    if not union:
        return message
    match = re.search(r"Errors:\s*- (.*?)\s*(?:- Expected a <class 'NoneType'>|Given value type:)", rest, re.DOTALL)
    key = re.match(r'Parser key "([^"]+)"', prefix)
    reason = match.group(1) if match else rest
    return f'Parser key "{key.group(1)}": {reason}' if key else reason


def unknown_class(text: str) -> str | None:
    """Return the name that is no class, if that is what a one-line text says."""
    found = re.search(r"Expected a dot import path string: (\S+)", text)
    return found.group(1) if found else None


def unusable_path(text: str) -> tuple[str, str] | None:
    """Return the dotted path of a class or function and why it cannot be used, if that is what a one-line text says."""
    missing = r"(No module named '[\w.]+'|module '[\w.]+' has no attribute '\w+')"
    if found := re.search(rf"Problem with given class_path '([\w.]+)': {missing}", text):
        return found[1], found[2]
    if found := re.search(rf"expects a function or a callable class: {missing}\. Got value: ([\w.]+)", text):
        return found[2], found[1]
    return None


def unknown_option(text: str) -> str | None:
    """Return the dotted key of an option that does not exist, if that is what a one-line text says."""
    found = re.search(r"[Oo]ption '([^']+)'", text) or re.search(r"unrecognized arguments: --([\w.-]+)", text)
    return found.group(1) if found else None


def wrong_value(text: str) -> tuple[str, str] | None:
    """Return the dotted key of a value that is not accepted and the reason, if that is what a one-line text says."""
    found = re.match(r'Parser key "([^"]+)": (.*)', text)
    if not found:
        return None
    key, reason = found.groups()
    while nested := re.match(r'Parser key "([^"]+)": (.*)', reason):
        key, reason = f"{key}.{nested.group(1)}", nested.group(2)
    reason = re.sub(r"<class '([^']+)'>", r"\1", reason)
    return key, _one_of_a_union(reason) or reason


def class_not_chosen(reason: str) -> str | None:
    """Return the dotted path of the base class of which no subclass was named, if that is what a reason says."""
    found = re.search(r"Expected an instantiatable class, but ([\w.]+) is abstract", reason)
    return found[1] if found else None


def missing_argument(reason: str) -> str | None:
    """Return the name of an argument that a class needs and was not given, if that is what a reason says."""
    found = re.search(r"the following arguments are required: (\w+)", reason)
    return found[1] if found else None


def other_base(reason: str) -> str | None:
    """Return the name of the base class that a named class does not have, if that is what a reason says."""
    found = re.search(r"Import path does not correspond to a subclass of (\w+)", reason)
    return found[1] if found else None


def _one_of_a_union(reason: str) -> str | None:
    """Return what a value must be, if a reason lists the plain subtypes of a Union, none of which it is."""
    found = re.match(r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors:", reason)
    if not found:
        return None
    names = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true, false", "NoneType": "null"}
    kinds = re.findall(r"typing\.Literal\[([^\]]*)\]|([^,\s][^,]*)", found.group(1))
    if any(plain not in names for _, plain in kinds if plain):
        return None
    words = [literal.replace("'", "") if literal else names[plain] for literal, plain in kinds]
    *first, last = ", ".join(words).split(", ")
    return f"it must be {', '.join(first)} or {last}"


class ChoicesHelpFormatter(DefaultHelpFormatter):  # type: ignore[misc]  # jsonargparse is not typed
    """Leave out the type of an option whose choices are shown: ``--dtype {auto,float32}`` needs no ``Literal[…]``.

    The help adds ``(type: …)`` to every option, and no argument of the parser turns that off.
    """

    def _get_type_str(self, action: Action) -> str | None:
        if str(action.metavar).startswith("{"):
            return None
        shown: str | None = super()._get_type_str(action)
        return shown and re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", shown)
