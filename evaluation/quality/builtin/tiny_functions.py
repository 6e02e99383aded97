"""Small functions with a docstring to be completed, and asserts that tell a right body from a wrong one.

Each is a template over names and a constant, so that hundreds of cases come from a few ideas.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, kw_only=True)
class TinyFunction:
    """`head` ends after the docstring; `body` is one right answer."""

    head: str
    body: str
    asserts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Idea:
    """Names, signature and docstring with {n} for the constant; asserts are (arguments, expression for the result)."""

    names: tuple[str, ...]
    parameters: str
    docstring: str
    body: str
    checks: tuple[tuple[str, str], ...]


IDEAS = (
    Idea(
        names=("add", "plus", "increase"),
        parameters="value",
        docstring="Return value plus {n}.",
        body="return value + {n}",
        checks=(("5", "5 + {n}"), ("-2", "-2 + {n}"), ("0", "{n}")),
    ),
    Idea(
        names=("scale", "times", "multiply"),
        parameters="value",
        docstring="Return value multiplied by {n}.",
        body="return value * {n}",
        checks=(("5", "5 * {n}"), ("0", "0"), ("-1", "-{n}")),
    ),
    Idea(
        names=("is_longer", "exceeds", "has_more"),
        parameters="text",
        docstring="Return True if text is longer than {n} characters.",
        body="return len(text) > {n}",
        checks=(("'x' * {n}", "False"), ("'x' * ({n} + 1)", "True"), ("''", "False")),
    ),
    Idea(
        names=("first", "head", "take"),
        parameters="items",
        docstring="Return a list of the first {n} items.",
        body="return list(items[:{n}])",
        checks=(("list(range(50))", "list(range({n}))"), ("[]", "[]")),
    ),
    Idea(
        names=("last", "tail", "ending"),
        parameters="items",
        docstring="Return a list of the last {n} items.",
        body="return list(items[-{n}:])",
        checks=(("list(range(50))", "list(range(50 - {n}, 50))"), ("[]", "[]")),
    ),
    Idea(
        names=("is_multiple", "divides", "is_divisible"),
        parameters="number",
        docstring="Return True if number is divisible by {n}.",
        body="return number % {n} == 0",
        checks=(("{n} * 3", "True"), ("{n} * 3 + 1", "{n} == 1"), ("0", "True")),
    ),
    Idea(
        names=("repeat", "times_text", "copies"),
        parameters="text",
        docstring="Return text repeated {n} times.",
        body="return text * {n}",
        checks=(("'ab'", "'ab' * {n}"), ("''", "''")),
    ),
    Idea(
        names=("above", "larger", "over"),
        parameters="values",
        docstring="Return a list of the values that are greater than {n}.",
        body="return [value for value in values if value > {n}]",
        checks=(("[0, {n}, {n} + 1, 99]", "[{n} + 1, 99]"), ("[]", "[]")),
    ),
    Idea(
        names=("count_of", "occurrences", "how_many"),
        parameters="values",
        docstring="Return how often {n} occurs in values.",
        body="return values.count({n})",
        checks=(("[{n}, 0, {n}]", "2"), ("[]", "0")),
    ),
    Idea(
        names=("clip", "at_most", "limit"),
        parameters="value",
        docstring="Return value, or {n} if value is greater than {n}.",
        body="return min(value, {n})",
        checks=(("{n} + 5", "{n}"), ("{n} - 1", "{n} - 1"), ("{n}", "{n}")),
    ),
    Idea(
        names=("pad", "fill_left", "zeros"),
        parameters="text",
        docstring="Return text padded on the left with zeros to a width of {n}.",
        body="return text.rjust({n}, '0')",
        checks=(("'7'", "'7'.rjust({n}, '0')"), ("'x' * 40", "'x' * 40")),
    ),
    Idea(
        names=("get", "lookup", "find_value"),
        parameters="mapping, key",
        docstring="Return the value of key in mapping, or {n} if it is not there.",
        body="return mapping.get(key, {n})",
        checks=(("{{'a': 1}}, 'a'", "1"), ("{{}}, 'a'", "{n}")),
    ),
)
CONSTANTS = tuple(range(2, 21))


def tiny_functions(seed: int, count: int) -> list[TinyFunction]:
    """Draw `count` different functions, at most as many as ideas, names and constants can make."""
    everything = [(idea, name, n) for idea in IDEAS for name in idea.names for n in CONSTANTS]
    if count > len(everything):
        raise ValueError(f"there are {len(everything)} tiny functions, not {count}")
    return [made(*chosen) for chosen in Random(f"tiny/{seed}").sample(everything, count)]


def made(idea: Idea, name: str, n: int) -> TinyFunction:
    docstring = idea.docstring.format(n=n)
    return TinyFunction(
        head=f'def {name}({idea.parameters}):\n    """{docstring}"""\n',
        body=f"    {idea.body.format(n=n)}",
        asserts=tuple(f"assert {name}({given.format(n=n)}) == ({result.format(n=n)})" for given, result in idea.checks),
    )
