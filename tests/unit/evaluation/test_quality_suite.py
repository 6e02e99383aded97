"""Suites from files: what is written short, and mistakes that are told with file, line, case and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.quality.loading import built_in_names, load_suite
from evaluation.quality.scoring import build_scorers
from evaluation.quality.suite import Case, DomainEvalSuite, ScorerSpec, SuiteError

GOOD = """\
name: capitals
description: Capitals of Europe.
generation: {max_tokens: 8}
scorers:
  - exact_match
  - regex: {pattern: "^[A-Z]", label: capitalised}
cases:
  - id: france
    input: What is the capital of France?
    expected: Paris
    metadata: {region: west, rank: 2}
  - id: treaty
    input:
      - {role: system, content: Answer with a date only.}
      - {role: user, content: Date of the treaty}
    expected: 1957-03-25
"""


def written(folder: Path, text: str, name: str = "suite.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_suite_is_read_and_its_short_forms_are_spelled_out(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, GOOD))
    assert (suite.name, suite.api, suite.generation.max_tokens, suite.generation.temperature) == (
        "capitals",
        "chat",
        8,
        0,
    )
    assert [spec.metric for spec in suite.scorers] == ["exact_match", "capitalised"]
    assert suite.scorers[1].options == {"pattern": "^[A-Z]"}
    assert suite.case("france").metadata == {"region": "west", "rank": "2"}
    messages = suite.case("treaty").input
    assert not isinstance(messages, str)
    assert [message.role for message in messages] == ["system", "user"]
    assert suite.case("treaty").expected == "1957-03-25"  # the text, not a date


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max_tokens: 8", "max_tokens: eight", r"suite.yaml:3: generation.max_tokens: Expected `int`"),
        ("max_tokens: 8", "max_token: 8", r"suite.yaml:3: generation: .*unknown field `max_token`"),
        ("max_tokens: 8", "max_tokens: 0", r"suite.yaml:3: generation.max_tokens: must be at least 1"),
        ("    expected: Paris", "    answer: Paris", r"suite.yaml:8: cases\[0\] \(france\): .*`answer`"),
        ("    expected: Paris", "    expected: [1]", r"suite.yaml:10: cases\[0\] \(france\).expected: exact_match: "),
        ("    expected: Paris\n", "", r"suite.yaml:8: cases\[0\] \(france\).expected: exact_match: must be a text"),
        ("id: treaty", "id: france", r"suite.yaml:12: cases\[1\] \(france\).id: .* id of cases\[0\] already"),
        ("role: system", "role: wizard", r"suite.yaml:14: cases\[1\] \(treaty\).input\[0\].role: .*wizard"),
        (
            "- exact_match",
            "- exact_mach",
            r"suite.yaml:5: scorers\[0\]: exact_mach: no such scorer; there are .*exact_match",
        ),
        ("- exact_match", "- exact_match: {stripped: 1}", r"suite.yaml:5: scorers\[0\]: exact_match: .*stripped"),
        ('"^[A-Z]"', '"["', r"suite.yaml:6: scorers\[1\]: regex: not a regular expression"),
        (", label: capitalised", "", r"^OK"),
        ("- exact_match", "- regex: {pattern: x, label: capitalised}", r"suite.yaml:6: scorers\[1\]: a second metric"),
        ("name: capitals", "nam: capitals", r"suite.yaml:1: .*unknown field `nam`"),
        ("scorers:", "scorers: [", r"suite.yaml:\d+: not YAML"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    file = written(tmp_path, GOOD.replace(old, new, 1))
    if told == "^OK":
        load_suite(file)
        return
    with pytest.raises(SuiteError, match=told):
        load_suite(file)


def test_an_unknown_name_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"neither a \.yaml or \.py file nor a built-in suite"):
        load_suite("no-such-suite")
    with pytest.raises(SuiteError, match="no such file"):
        load_suite(tmp_path / "none.yaml")
    with pytest.raises(SuiteError, match="built-in"):
        load_suite("../suites/anything")


def test_cases_come_from_lines_of_json_or_from_a_function(tmp_path: Path) -> None:
    written(
        tmp_path, '{"id": "a", "input": "x", "expected": "y"}\n\n{"id": "b", "input": "x", "expected": 1}\n', "c.jsonl"
    )
    head = "name: lines\nscorers: [json_valid]\n"
    suite = load_suite(written(tmp_path, f"{head}cases: {{file: c.jsonl}}\n"))
    assert [case.id for case in suite.cases] == ["a", "b"]
    written(
        tmp_path,
        "from evaluation.quality.suite import Case\n"
        "def made(count): return (Case(id=str(i), input='x') for i in range(count))\n",
        "made_cases_here.py",
    )
    source = 'cases: {function: "made_cases_here:made", options: {count: 3}}\n'
    assert len(load_suite(written(tmp_path, head + source)).cases) == 3
    with pytest.raises(SuiteError, match=r"suite.yaml:3: cases: .*TypeError"):
        load_suite(written(tmp_path, head + source.replace("count", "number")))
    written(tmp_path, "{", "c.jsonl")
    with pytest.raises(SuiteError, match=r"c.jsonl:1: not JSON"):
        load_suite(written(tmp_path, f"{head}cases: {{file: c.jsonl}}\n"))


def test_a_python_file_builds_a_suite_with_a_scorer_of_its_own(tmp_path: Path) -> None:
    written(
        tmp_path,
        "from evaluation.quality.scoring import Score\n"
        "class Length:\n"
        "    def __init__(self, most): self.most = most\n"
        "    def __call__(self, case, answer): return Score(float(len(answer) <= self.most))\n",
        "own_scorer_of_test.py",
    )
    text = (
        "from evaluation.quality.suite import *\n"
        "def suite():\n"
        "    scorer = ScorerSpec(name='own_scorer_of_test:Length', options={'most': 3})\n"
        "    return DomainEvalSuite(name='own', cases=(Case(id='a', input='x'),), scorers=(scorer,))\n"
    )
    suite = load_suite(written(tmp_path, text, "own.py"))
    scorers = build_scorers(suite)
    assert scorers["Length"](suite.cases[0], "abc").value == 1
    assert scorers["Length"](suite.cases[0], "abcd").value == 0
    with pytest.raises(SuiteError, match=r"own.py: cases\[0\] \(7\).id: Expected `str`"):
        load_suite(written(tmp_path, text.replace("id='a'", "id=7"), "own.py"))
    with pytest.raises(SuiteError, match=r"own.py: NameError"):
        load_suite(written(tmp_path, text.replace("(scorer,)", "(scorr,)"), "own.py"))
    with pytest.raises(SuiteError, match="needs `SUITE`"):
        load_suite(written(tmp_path, "x = 1\n", "own.py"))


SEED = ("max_tokens: 8", "max_tokens: 8, seed: 1")


def test_the_digest_follows_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    digest = load_suite(written(tmp_path, GOOD)).digest()
    for old, new in (("expected: Paris", "expected: Lyon"), ("rank: 2", "rank: 3"), ("- exact_match", "- json_valid")):
        assert load_suite(written(tmp_path, GOOD.replace(old, new))).digest() == digest
    for old, new in (("of France", "of Gaul"), ("max_tokens: 8", "max_tokens: 9"), ("id: france", "id: gaul"), SEED):
        assert load_suite(written(tmp_path, GOOD.replace(old, new))).digest() != digest


def test_a_scorer_may_see_one_field_of_what_is_expected() -> None:
    scorers = (
        ScorerSpec(name="exact_match", options={"field": "text"}),
        ScorerSpec(name="numeric", options={"field": "sum"}),
    )
    case = Case(id="a", input="x", expected={"text": "7", "sum": 8})
    suite = DomainEvalSuite(name="s", cases=(case,), scorers=scorers)
    built = build_scorers(suite)
    assert (built["exact_match"](case, "7").value, built["numeric"](case, "7").value) == (1, 0)
    lacking = DomainEvalSuite(name="s", cases=(Case(id="a", input="x", expected={"text": "7"}),), scorers=scorers)
    with pytest.raises(ValueError, match=r"\$.cases\[0\].expected: numeric: `expected` needs the field 'sum'"):
        build_scorers(lacking)


def test_every_built_in_suite_loads() -> None:
    for name in built_in_names():
        assert load_suite(name).cases
