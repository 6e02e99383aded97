"""The records of `decoder.h` for ctypes, field by field in the same order."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p


class Matrix(ctypes.Structure):
    """A packed weight; see `packing.py`."""

    _fields_ = [("panels", c_void_p), ("depth", c_int64), ("width", c_int64), ("is_brain", c_int64)]


class Layer(ctypes.Structure):
    """One decoder layer."""

    _fields_ = [
        ("projections", Matrix),
        ("output", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("before_attention", c_void_p),
        ("after_attention", c_void_p),
        ("before_mlp", c_void_p),
        ("after_mlp", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("window", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("writes_entries", c_int64),
        ("has_value_weights", c_int64),
        ("kind", c_int64),
        ("scalar", c_double),
    ]


class Model(ctypes.Structure):
    """A whole decoder with its embedding and its head."""

    _fields_ = [
        ("layers", ctypes.POINTER(Layer)),
        ("num_layers", c_int64),
        ("hidden_size", c_int64),
        ("num_heads", c_int64),
        ("head", Matrix),
        ("feedback", Matrix),
        ("embedding", c_void_p),
        ("embedding_is_brain", c_int64),
        ("final_norm", c_void_p),
        ("embedding_scale", c_double),
        ("eps", c_double),
        ("softcap", c_double),
    ]


class Step(ctypes.Structure):
    """One pass: tokens and chunks in, states and logits out."""

    _fields_ = [
        ("tokens", c_void_p),
        ("num_tokens", c_int64),
        ("chunks", c_void_p),
        ("num_chunks", c_int64),
        ("blocks", c_void_p),
        ("sliding_blocks", c_void_p),
        ("table_width", c_int64),
        ("block_size", c_int64),
        ("rows", c_void_p),
        ("num_rows", c_int64),
        ("num_logits", c_int64),
        ("states", c_void_p),
        ("logits", c_void_p),
        ("shadows", c_void_p),
        ("carried", c_void_p),
    ]


class Shadow(ctypes.Structure):
    """What one session's queries see of the layers of one kind."""

    _fields_ = [("keys", c_void_p), ("values", c_void_p), ("head_stride", c_int64), ("num_entries", c_int64)]


class Sampling(ctypes.Structure):
    """Columns of `SamplingRows`; all null where every row is greedy."""

    _fields_ = [
        ("temperature", c_void_p),
        ("top_k", c_void_p),
        ("top_p", c_void_p),
        ("min_p", c_void_p),
        ("key", c_void_p),
    ]


class Draft(ctypes.Structure):
    """Some drafted tokens of a batch of sessions."""

    _fields_ = [
        ("step", ctypes.POINTER(Step)),
        ("lookaheads", c_void_p),
        ("noise_states", c_void_p),
        ("positions", c_void_p),
        ("sampling", Sampling),
        ("num_sessions", c_int64),
        ("num_steps", c_int64),
        ("early_stops", c_void_p),
        ("nexts", c_void_p),
        ("tokens", c_void_p),
        ("confidences", c_void_p),
        ("lengths", c_void_p),
    ]
