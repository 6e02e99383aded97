"""The live comparison of lookaheads: what it makes of a configuration."""

from __future__ import annotations

from deployments.config import OutriderConfig
from evaluation.load.lookaheads import without_prefix_reuse


def test_no_setting_finds_the_prompts_that_another_one_has_read():
    config = OutriderConfig()
    changed = without_prefix_reuse(config)
    assert config.verifier.prefix_reuse
    assert not changed.verifier.prefix_reuse
    assert changed.resolve().verifier == config.resolve().verifier.model_copy(update={"prefix_reuse": False})
