"""Python and the packages: are they those that the distribution asks for?"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from deployments.checks.finding import Finding, ok, problem

DISTRIBUTION = "outrider"


def check_versions(
    requirements: list[str] | None = None,
    python: str | None = None,
    installed: Callable[[str], str] = version,
) -> list[Finding]:
    """One finding for Python, one per requirement that is not met, and one for the rest.

    By default: the distribution's own requirements, against what is installed.
    """
    wanted = [Requirement(line) for line in (requires(DISTRIBUTION) if requirements is None else requirements) or ()]
    wanted = [requirement for requirement in wanted if requirement.marker is None or requirement.marker.evaluate()]
    unmet = [finding for requirement in wanted if (finding := _unmet(requirement, installed))]
    met = len(wanted) - len(unmet)
    pinned = ", ".join(f"{name} {installed(name)}" for name in ("ray", "torch", "transformers") if _is(name, installed))
    findings = [_python(python or platform.python_version()), *unmet]
    return [*findings, ok("packages", f"{met} of {len(wanted)} are as required ({pinned})")] if met else findings


def _python(found: str) -> Finding:
    wanted = metadata(DISTRIBUTION)["Requires-Python"]
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return ok("python", found)
    return problem("python", f"this is Python {found}; it must be {wanted}", "PYTHON=python3.11 make setup")


def _unmet(requirement: Requirement, installed: Callable[[str], str]) -> Finding | None:
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        found = installed(requirement.name)
    except PackageNotFoundError:
        return problem("packages", f"{requirement.name} is not installed", remedy)
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return problem("packages", f"{requirement.name} is {found}; it must be {requirement.specifier}", remedy)


def _is(name: str, installed: Callable[[str], str]) -> bool:
    try:
        return bool(installed(name))
    except PackageNotFoundError:
        return False
