"""The shapes of the pocket models: Gemma 4's architecture, small.

Like the 31B the target mixes head dimensions (sliding 64, full 128); it has no shared layers, no per-layer inputs and
no experts. The assistant cross-attends to the target's layers 4 (sliding) and 5 (full).
"""

from transformers import Gemma4AssistantConfig, Gemma4TextConfig, GenerationConfig

from evaluation.pocket.tokenizer import BOS, EOS, PAD, TURN_END, VOCAB_SIZE

SLIDING, FULL = "sliding_attention", "full_attention"
SLIDING_WINDOW = 256
MAX_POSITIONS = 8192


def text_config(hidden_size: int, intermediate_size: int, layer_types: tuple[str, ...]) -> Gemma4TextConfig:
    """Return a text configuration whose attention geometry is the target's."""
    return Gemma4TextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=len(layer_types),
        layer_types=list(layer_types),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        global_head_dim=128,
        sliding_window=SLIDING_WINDOW,
        max_position_embeddings=MAX_POSITIONS,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        pad_token_id=PAD,
        eos_token_id=[EOS, TURN_END],
        bos_token_id=BOS,
        tie_word_embeddings=True,
    )


def target_config() -> Gemma4TextConfig:
    config = text_config(256, 768, (SLIDING, SLIDING, FULL) * 2)
    config.final_logit_softcapping = 30.0
    return config


def assistant_config() -> Gemma4AssistantConfig:
    config = text_config(128, 256, (SLIDING, SLIDING, SLIDING, FULL))
    return Gemma4AssistantConfig(
        text_config=config,
        backbone_hidden_size=target_config().hidden_size,
        use_ordered_embeddings=False,
        pad_token_id=PAD,
        eos_token_id=[EOS, TURN_END],
        bos_token_id=BOS,
        tie_word_embeddings=True,
    )


def draft_model_config() -> Gemma4TextConfig:
    config = text_config(128, 320, (SLIDING, FULL))
    config.final_logit_softcapping = 30.0
    return config


def generation_config() -> GenerationConfig:
    return GenerationConfig(bos_token_id=BOS, eos_token_id=[EOS, TURN_END], pad_token_id=PAD)
