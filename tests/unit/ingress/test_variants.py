"""Named variants: who gets which, what it changes, what it cannot, and that a new split is taken at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.config import ConfigError, OutriderConfig, parse
from deployments.config_parts import VariantConfig
from deployments.ingress.app import create_app
from deployments.ingress.context import IngressContext
from deployments.ingress.generation import GenerateRequest
from deployments.ingress.permissions import drafter_for
from deployments.ingress.planning import check
from deployments.ingress.schemas import CompletionRequest
from deployments.ingress.tenants import Tenant
from deployments.ingress.variants import Variants
from deployments.live_config import arguments_of, parse_user_config, user_config
from tests.support.rest import MODEL, ScriptedClient, make_context, plain_ids

SPLIT = {
    "control": VariantConfig(weight=1.0),
    "far": VariantConfig(weight=1.0, policy="constant", num_speculative_tokens=8, drafter="prompt_lookup"),
    "named": VariantConfig(weight=0.0, policy="heuristic", num_speculative_tokens="auto"),
}


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture
def context(tmp_path: Path, client: ScriptedClient) -> IngressContext:
    context = make_context(tmp_path, client)
    client.tokens = plain_ids(context, "one two three")
    context.variants.replace(SPLIT)
    return context


async def ask(context: IngressContext, **fields: Any) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(context))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        return await http.post("/v1/completions", json={"model": MODEL, "prompt": "hi", "max_tokens": 4, **fields})


async def asked(context: IngressContext, client: ScriptedClient, **fields: Any) -> GenerateRequest:
    response = await ask(context, **fields)
    assert response.status_code == 200, response.text
    return client.requests[-1]


async def test_a_request_gets_what_its_variant_says(context: IngressContext, client: ScriptedClient) -> None:
    far = await asked(context, client, speculation={"variant": "far"})
    assert (far.variant, far.num_speculative_tokens, far.drafter) == ("far", 8, "prompt_lookup")
    named = await asked(context, client, speculation={"variant": "named"})
    assert (named.policy, named.num_speculative_tokens, named.drafter) == ("heuristic", None, "auto")
    control = await asked(context, client, speculation={"variant": "control"})
    assert (control.policy, control.num_speculative_tokens, control.drafter) == (None, None, "auto")


async def test_acceptance_is_the_variants_unless_the_request_names_it(
    context: IngressContext, client: ScriptedClient
) -> None:
    context.variants.replace({"loose": VariantConfig(acceptance="rejection")})
    assert (await asked(context, client, seed=1)).params.acceptance == "rejection"
    strict = await asked(context, client, seed=1, speculation={"acceptance": "coupled"})
    assert (strict.variant, strict.params.acceptance) == ("loose", "coupled")


def test_a_variant_with_an_acceptance_that_is_not_served_is_refused() -> None:
    speculation = {"acceptances": ["coupled"], "variants": {"loose": {"acceptance": "rejection"}}}
    with pytest.raises(ConfigError, match=r"loose\.acceptance: 'rejection' is not served; one of coupled is"):
        parse({"speculation": speculation})


async def test_what_a_request_says_itself_stands(context: IngressContext, client: ScriptedClient) -> None:
    own = await asked(context, client, speculation={"variant": "far", "num_speculative_tokens": 2, "drafter": "mtp"})
    assert (own.variant, own.num_speculative_tokens, own.drafter) == ("far", 2, "mtp")
    for speculation in ({"num_speculative_tokens": 2}, {"drafter": "mtp"}):
        for seed in range(8):
            apart = await asked(context, client, speculation=speculation, seed=seed)
            assert apart.variant == "default", "it would say nothing about the variant"


async def test_users_and_seeds_stay_where_they_fell(context: IngressContext, client: ScriptedClient) -> None:
    by_user = {user: (await asked(context, client, user=user)).variant for user in map(str, range(40))}
    assert set(by_user.values()) == {"control", "far"}
    for user, variant in by_user.items():
        assert (await asked(context, client, user=user, seed=hash(user) % 1000)).variant == variant
    by_seed = {seed: (await asked(context, client, seed=seed)).variant for seed in range(40)}
    assert set(by_seed.values()) == {"control", "far"}
    for seed, variant in by_seed.items():
        assert (await asked(context, client, seed=seed)).variant == variant
    by_chance = Counter([(await asked(context, client)).variant for _ in range(60)])
    assert set(by_chance) == {"control", "far"}


async def test_a_new_split_is_taken_by_new_requests(context: IngressContext, client: ScriptedClient) -> None:
    context.variants.replace({"only": VariantConfig(drafter="mtp")})
    assert {(await asked(context, client, seed=seed)).variant for seed in range(10)} == {"only"}
    context.variants.replace({})
    assert (await asked(context, client, seed=1)).variant == "default"


async def test_an_unknown_variant_is_named(context: IngressContext) -> None:
    response = await ask(context, speculation={"variant": "near"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "speculation.variant")
    assert "one of control, far, named is" in error["message"]
    context.variants.replace({})
    assert "none are configured" in (await ask(context, speculation={"variant": "far"})).json()["error"]["message"]


async def test_metrics_tell_variants_apart(context: IngressContext, client: ScriptedClient) -> None:
    client.bunches = (1, 2)
    for variant in ("far", "far", "control"):
        await asked(context, client, speculation={"variant": variant, "request_class": "code"})
    times = context.metrics.first_token_s
    assert times.cell("code", "far").values()[:-1] != times.cell("code", "control").values()[:-1]
    assert sum(times.cell("code", "far").values()[:-1]) == 2
    assert sum(times.cell("code", "control").values()[:-1]) == 1
    assert sum(times.cell("code", "default").values()[:-1]) == 0


def test_an_api_keys_bounds_hold_for_variants(context: IngressContext) -> None:
    body = CompletionRequest(model=MODEL, prompt="hi", speculation={"variant": "far"})  # type: ignore[arg-type]
    bounded = Tenant(name="a", max_speculative_tokens=3)
    assert check(context, body, bounded).lookahead == 3
    confined = Tenant(name="a", drafters=("mtp",))
    assert check(context, body, confined).drafter == drafter_for(confined, body.speculation) == "mtp"


# -- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"far": {"drafter": "draft_model"}}, "speculation.variants.far.drafter: 'draft_model' is not served"),
        ({"far": {"num_speculative_tokens": 17}}, "far.num_speculative_tokens: 17 is over max_speculative_tokens 16"),
        ({"far": {"weight": 0}}, "none has a weight above 0"),
        ({"far": {"weight": -1}}, "speculation.variants.far.weight"),
        ({"far": {"acceptance": "block"}}, "speculation.variants.far.acceptance"),
        ({"far": {"speed": 3}}, "there is no such field"),
        ({"Far out": {}}, "speculation.variants.Far out"),
        ({f"v{index}": {} for index in range(9)}, "speculation.variants"),
        (3, "speculation.variants"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_in_file_and_user_config(variants: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse({"speculation": {"variants": variants}})
    with pytest.raises(ConfigError, match=said):
        parse_user_config({"variants": variants}, OutriderConfig())


def test_user_config_has_variants_and_what_may_run() -> None:
    config = parse({"speculation": {"variants": {"far": {"num_speculative_tokens": 8}}}})
    told = {"max_running_requests": 64, "variants": {"far": {"weight": 1.0, "num_speculative_tokens": 8}}}
    assert user_config(config) == told
    assert parse_user_config(told, arguments_of(config)).variants == config.speculation.variants
    assert parse_user_config({}, config).variants == {}
    with pytest.raises(ConfigError, match="leave router out"):
        parse_user_config({"router": {}}, config)
    with pytest.raises(ConfigError, match="user_config"):
        parse_user_config(None, config)


def test_a_split_without_weights_is_nobodys() -> None:
    variants = Variants({"a": replace_weight(VariantConfig(), 0.0)})
    body = CompletionRequest(model=MODEL, prompt="hi")  # type: ignore[arg-type]
    assert variants.choose(body.speculation, None, None)[0] == "default"


def replace_weight(variant: VariantConfig, weight: float) -> VariantConfig:
    return variant.model_copy(update={"weight": weight})
