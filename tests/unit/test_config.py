"""The configuration: defaults that serve, errors that name the field and the way out, "auto" made concrete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.config import ConfigError, OutriderConfig, load, parse
from deployments.kernels.library import usable_cores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folders that look like checkpoints to a configuration."""
    for name, positions in (("gemma", 4096), ("gemma-assistant", 4096), ("short", 128)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(
            json.dumps({"text_config": {"max_position_embeddings": positions}})
        )
    return tmp_path


def test_the_defaults_serve_the_pocket_pair() -> None:
    config = OutriderConfig().resolve()
    assert Path(config.model.model_source, "config.json").is_file()
    assert Path(config.model.assistant_source, "config.json").is_file()
    assert config.model.dtype == "float32"
    assert (config.ingress.host, config.ingress.port) == ("127.0.0.1", 8000)


def test_the_default_deployment_fits_on_two_cores() -> None:
    config = OutriderConfig()
    roles = (config.ingress, config.router, config.verifier, config.drafter)
    assert sum(role.num_cpus * role.num_replicas for role in roles) <= 1.5


def test_a_resolved_configuration_has_no_auto_and_stays_as_it_is() -> None:
    config = OutriderConfig().resolve()
    assert '"auto"' not in config.model_dump_json()
    assert config.resolve() == config
    assert parse(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"verifer": {}}, r"verifer: there is no such field"),
        ({"router": {"max_session": 3}}, r"router\.max_session: there is no such field"),
        ({"drafter": {"num_replicas": 0}}, r"drafter\.num_replicas: .*greater than 0 \(got 0\)"),
        ({"drafter": {"num_replicas": True}}, r"drafter\.num_replicas: true and false are no values .*\(got True\)"),
        ({"ingress": {"port": 70_000}}, r"ingress\.port: .*65535 \(got 70000\)"),
        ({"speculation": {"drafter": "eagle"}}, r"speculation\.drafter: .*'mtp'.*\(got 'eagle'\)"),
        (
            {"speculation": {"acceptance": "rejection", "acceptances": ["coupled"]}},
            r"speculation\.acceptances: \['coupled'\] lacks speculation\.acceptance 'rejection'; add it",
        ),
        ({"speculation": {"num_speculative_tokens": 20}}, r"speculation\.num_speculative_tokens: 20 .*lower it"),
        ({"verifier": {"max_step_tokens": 100}}, r"verifier\.max_step_tokens: 100 .*raise it"),
        (
            {"model": {"max_context_tokens": 1000}, "verifier": {"kv_cache": {"num_tokens": 999}}},
            r"verifier\.kv_cache\.num_tokens: 999 .*raise it",
        ),
        ({"streams": {"port_range": [5000, 5001]}}, r"streams\.port_range: 2 ports for 3 replicas; widen it"),
        ({"drafter": {"num_gpus": 0.25}}, r"drafter\.max_gpu_bytes: .*num_gpus 0\.25.*set what it may allocate"),
        ({"verifier": {"num_gpus": 1.5}}, r"verifier\.num_gpus: 1\.5 .*round it"),
        ({"streams": {"host": "0.0.0.0"}}, r"streams\.host: '0\.0\.0\.0' .*insecure_streams: true"),
        ({"streams": {"host": "node"}}, r"streams\.host: 'node' .*insecure_streams: true"),
        ({"streams": {"host": "node"}}, r"streams\.host: 'node' .*streams\.tls"),
        ({"streams": {"tls": {"ca_file": "ca.crt"}}}, r"streams\.tls: ca_file alone .*key_file"),
        (
            {"ingress": {"num_replicas": 3, "max_running_requests": 2}},
            r"ingress\.max_running_requests: 2 .*3 replicas; raise it",
        ),
        ({"ingress": {"max_ongoing_requests": 300}}, r"ingress\.max_ongoing_requests: 300 .*raise it to 384"),
        ({"streams": {"port_range": [5001, 5000]}}, r"streams\.port_range: 5001 is behind 5000"),
        ([1, 2], r"fields are expected here"),
        ({"verifier": None}, r"verifier: fields are expected here"),
        ({"verifier": True}, r"verifier: fields are expected here"),
    ],
)
def test_an_error_names_the_field_and_the_way_out(fields: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(fields)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_streams_on_loopback_need_no_permission(host: str) -> None:
    assert parse({"streams": {"host": host}}).streams.is_loopback


def test_streams_off_loopback_are_allowed_by_name() -> None:
    streams = parse({"streams": {"host": "node", "insecure_streams": True}}).streams
    assert streams.on_node("10.1.2.3").host == "10.1.2.3"
    assert OutriderConfig().streams.on_node("10.1.2.3").host == "127.0.0.1"


def test_streams_off_loopback_are_allowed_with_certificates(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "streams: {host: node, tls: {ca_file: /s/ca.crt, cert_file: tls.crt, key_file: tls.key}}"
    )
    files = load(tmp_path / "c.yaml").streams.tls.files
    assert files == (Path("/s/ca.crt"), tmp_path / "tls.crt", tmp_path / "tls.key")


def test_running_requests_follow_from_sessions() -> None:
    fields = {"verifier": {"num_replicas": 3, "max_sessions": 20}, "router": {"max_sessions": 50}}
    assert parse(fields).max_running_requests == 50
    assert OutriderConfig().resolve().ingress.max_running_requests == 64
    assert parse({"ingress": {"max_running_requests": 7}}).max_running_requests == 7


def test_the_ingress_is_handed_as_much_as_it_takes_and_refuses_by_default() -> None:
    assert parse({}).max_ongoing_requests == 512
    grown = parse({"autoscaling": {"enabled": True, "max_verifiers": 8}}).resolve()
    ingress = grown.ingress
    assert isinstance(ingress.max_running_requests, int)
    assert ingress.max_ongoing_requests == ingress.max_running_requests + ingress.max_waiting_requests + 64 > 512
    assert parse({"ingress": {"max_ongoing_requests": 600}}).max_ongoing_requests == 600


def test_a_keys_file_is_beside_the_configuration_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").symlink_to("elsewhere")
    (tmp_path / "c.yaml").write_text("ingress: {keys_file: keys.yaml}")
    assert load(tmp_path / "c.yaml").ingress.keys_file == str(tmp_path / "keys.yaml")


def test_the_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        OutriderConfig().router.max_sessions = 1


def test_changes_are_checked_like_the_rest() -> None:
    config = OutriderConfig().with_changes(ingress={"port": 8010})
    assert config.ingress.port == 8010
    assert config.router == OutriderConfig().router
    with pytest.raises(ConfigError, match=r"ingress\.port"):
        config.with_changes(ingress={"port": 0})


def test_a_file_is_read_and_its_sources_are_relative_to_it(folder: Path) -> None:
    file = folder / "outrider.yaml"
    file.write_text("model:\n  model_id: g\n  model_source: gemma\nverifier:\n  num_threads: 2\n")
    config = load(file).resolve()
    assert config.model.model_source == str(folder / "gemma")
    assert config.model.assistant_source == str(folder / "gemma-assistant")
    assert config.model.max_context_tokens == 4096
    assert config.verifier.num_threads == 2
    assert config.verifier.kv_cache.num_tokens == 16 * (4096 + 16)


def test_a_key_stands_once_and_merges_are_kept(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "router: &r {num_cpus: 0.5}\nverifier:\n  <<: *r\n  num_threads: 2\n  num_cpus: 0.7"
    )
    verifier = load(tmp_path / "c.yaml").verifier
    assert (verifier.num_threads, verifier.num_cpus) == (2, 0.7)
    (tmp_path / "c.yaml").write_text("verifier:\n  num_threads: 2\n  num_threads: 3")
    with pytest.raises(ConfigError, match="'num_threads' stands twice"):
        load(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n"])
def test_an_empty_file_means_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert load(tmp_path / "c.yaml") == load(None) == OutriderConfig()


@pytest.mark.parametrize("text", ["a: [", "model: {model_id: ''}", "router: {}\nverifier: {}\nrouter: {}"])
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(tmp_path / "c.yaml")


def test_a_missing_checkpoint_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.model_source: .*nowhere.*hf download"):
        parse({"model": {"model_source": str(folder / "nowhere")}}).resolve()
    with pytest.raises(ConfigError, match=r"model\.assistant_source: .*short-assistant"):
        parse({"model": {"model_source": str(folder / "short")}}).resolve()


def test_without_a_drafter_no_assistant_is_needed(folder: Path) -> None:
    config = parse({"model": {"model_source": str(folder / "short")}, "speculation": {"drafter": "none"}}).resolve()
    assert config.drafter_kinds == ()
    assert config.model.max_context_tokens == 128


def test_a_context_longer_than_the_models_is_refused(folder: Path) -> None:
    fields = {"model": {"model_source": str(folder / "gemma"), "max_context_tokens": 5000}}
    with pytest.raises(ConfigError, match=r"model\.max_context_tokens: 5000 .*4096; lower it"):
        parse(fields).resolve()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": "float32"}, "float32"),
        ({}, "bfloat16"),
        ({"dtype": 3}, "bfloat16"),
    ],
)
def test_on_a_gpu_the_weights_stay_what_the_checkpoint_says(tmp_path: Path, said: dict, expected: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2, "text_config": said}))
    fields = {"model": {"model_source": str(tmp_path)}, "speculation": {"drafter": "none"}}
    assert parse({**fields, "verifier": {"num_gpus": 1}}).resolve().model.dtype == expected
    assert parse(fields).resolve().model.dtype == "float32"


def test_on_a_gpu_the_pocket_pair_is_bfloat16() -> None:
    assert parse({"verifier": {"num_gpus": 1}}).resolve().model.dtype == "bfloat16"
    assert parse({"verifier": {"num_gpus": 1}, "model": {"dtype": "float32"}}).resolve().model.dtype == "float32"


def test_ranks_must_divide_the_heads(tmp_path: Path) -> None:
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2}
    fields = {"model": {"model_source": str(tmp_path)}, "speculation": {"drafter": "none"}}

    def resolve(size: int, **changed: Any) -> OutriderConfig:
        (tmp_path / "config.json").write_text(json.dumps({"text_config": {**heads, **changed}}))
        return parse({**fields, "verifier": {"tensor_parallel_size": size}}).resolve()

    with pytest.raises(ConfigError, match=r"verifier\.tensor_parallel_size: 4 .*choose of 1, 2$"):
        resolve(4)
    assert resolve(2).verifier.num_ranks == 2
    # Without shared keys and values the full layers have the sliding layers' heads.
    assert resolve(8, attention_k_eq_v=False).verifier.num_ranks == 8
    assert resolve(4, num_global_key_value_heads=4).verifier.num_ranks == 4


def test_a_share_of_a_gpu_comes_with_a_memory_bound() -> None:
    drafter = parse({"drafter": {"num_gpus": 0.25, "max_gpu_bytes": 6 << 30}}).drafter
    assert (drafter.device, drafter.max_gpu_bytes) == ("cuda", 6 << 30)


def test_the_pocket_target_has_a_draft_model_of_its_own() -> None:
    fields = {"speculation": {"drafter": "draft_model"}, "model": {"max_context_tokens": 1000}}
    config = parse(fields).resolve()
    assert config.drafter_kinds == ("draft_model",)
    assert config.drafters == ("auto", "draft_model", "prompt_lookup", "none")
    assert Path(str(config.model.draft_model_source), "config.json").is_file()
    assert config.draft_model.kv_cache.num_tokens == 16_000
    assert config.resolve() == config


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"drafter": "mtp", "drafters": ["draft_model"]}, r"speculation\.drafters: .*lacks .*'mtp'; add it"),
        ({"drafters": ["mtp", "mtp"]}, r"speculation\.drafters: .*twice; name each once"),
        ({"drafters": ["eagle"]}, r"speculation\.drafters"),
    ],
)
def test_drafters_that_contradict_each_other_are_refused(fields: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse({"speculation": fields})


def test_a_draft_model_must_be_named_and_speak_the_targets_tokens(folder: Path, tmp_path: Path) -> None:
    pocket = Path(str(parse({"speculation": {"drafter": "draft_model"}}).resolve().model.model_source))
    for name in ("gemma", "short"):
        (folder / name / "tokenizer.json").write_text((pocket / "tokenizer.json").read_text())
    fields: dict[str, Any] = {
        "model": {"model_source": str(folder / "gemma")},
        "speculation": {"drafter": "draft_model"},
    }
    with pytest.raises(ConfigError, match=r"model\.draft_model_source: name the folder"):
        parse(fields).resolve()
    fields["model"]["draft_model_source"] = str(folder / "short")
    assert parse(fields).resolve().model.draft_model_source == str(folder / "short")
    tokenizer = json.loads((pocket / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = list(vocab)[100:102]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "short" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"model\.draft_model_source: the tokenizer of .* is not that of the target"):
        parse(fields).resolve()
    (folder / "short" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        parse(fields).resolve()


def test_a_colocated_drafter_has_no_replicas() -> None:
    config = parse({"drafter": {"placement": "colocated"}, "streams": {"port_range": [5000, 5001]}})
    assert config.drafter_kinds == config.colocated_kinds == ("mtp",)
    assert config.drafter_roles == {}


def test_a_verifier_of_several_ranks_takes_drafters_in_too() -> None:
    config = parse({"drafter": {"placement": "colocated"}, "verifier": {"tensor_parallel_size": 2}})
    assert config.colocated_kinds == ("mtp",)


def test_paced_roles_name_a_cost_table_and_have_devices_of_their_own() -> None:
    config = parse({"verifier": {"paced": "h100x2-l4-31b"}, "drafter": {"paced": "l40s-l4-12b"}})
    assert config.paced == {"verifier": "h100x2-l4-31b", "drafter": "l40s-l4-12b"}
    assert parse({}).paced == {}
    with pytest.raises(ConfigError, match=r"drafter\.paced: there is no cost table 'h100'; there are h100x2-l4-31b, "):
        parse({"drafter": {"paced": "h100"}})
    with pytest.raises(ConfigError, match=r"drafter\.placement: .* set it to remote, or paced to null"):
        parse({"verifier": {"paced": "h100x2-l4-31b"}, "drafter": {"placement": "colocated"}})


def test_a_drafter_that_the_router_chooses_loads_mtp_unless_told_otherwise() -> None:
    config = parse({"speculation": {"drafter": "auto"}})
    assert config.drafter_kinds == ("mtp",)
    assert config.drafters == ("auto", "mtp", "prompt_lookup", "none")
    both = parse({"speculation": {"drafter": "auto", "drafters": ["mtp", "draft_model"]}})
    assert both.drafter_kinds == ("mtp", "draft_model")
    assert parse({"speculation": {"drafter": "auto", "drafters": []}}).drafter_kinds == ()


@pytest.mark.parametrize("text", ['{"model_type": "gem', "[]", '{"text_config": 3}', ""])
def test_a_models_own_configuration_that_is_cut_off_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    config = parse({"model": {"model_source": str(tmp_path), "assistant_source": "pocket"}})
    with pytest.raises(ConfigError, match=r"config\.json.*download"):
        config.resolve()


def test_an_ingress_drains_as_long_as_a_request_may_last_and_others_hand_over() -> None:
    config = parse({"ingress": {"max_request_s": 900}})
    assert config.ingress.drain_s > 900
    assert config.router.drain_s == config.verifier.drain_s == config.drafter.drain_s == 10
    short = {"graceful_shutdown_timeout_s": 5}
    given = config.with_changes(ingress=short, verifier=short)
    assert given.ingress.drain_s == given.verifier.drain_s == 5


def test_every_core_is_the_verifiers_unless_a_number_of_threads_is_given() -> None:
    config = parse({})
    assert config.kernels_for(config.verifier).num_threads == usable_cores()
    assert config.kernels_for(config.drafter).num_threads == config.kernels_for(config.draft_model).num_threads == 1
    given = config.with_changes(verifier={"num_threads": 1}, drafter={"num_threads": 3})
    assert (given.kernels_for(given.verifier).num_threads, given.kernels_for(given.drafter).num_threads) == (1, 3)
