"""Every overlay, rendered once."""

from __future__ import annotations

from functools import cache

import pytest

from tests.support.manifests import CRD, K8S, OVERLAYS, Manifest, render

rendered = cache(lambda overlay: render(K8S / "overlays" / overlay))


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifests(overlay: str) -> list[Manifest]:
    made: list[Manifest] = rendered(overlay)
    return made


@pytest.fixture
def crd() -> None:
    """The schema of KubeRay's operator lies beside the checkout, where there is one."""
    if not CRD.is_file():
        pytest.skip(f"{CRD} is not there: RayService manifests are not checked against KubeRay's CRD")
