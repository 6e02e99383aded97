"""A bound on tokens per minute: a bucket that fills steadily, is charged ahead, and may be owed to."""

from __future__ import annotations

import msgspec


class Bucket(msgspec.Struct, frozen=True):
    """What is left at a point in time; below zero where more was used than had been foreseen."""

    num_tokens: float
    at_s: float


def full(tokens_per_minute: float, now_s: float) -> Bucket:
    """A bucket holds one minute's tokens."""
    return Bucket(num_tokens=tokens_per_minute, at_s=now_s)


def filled(bucket: Bucket, tokens_per_minute: float, now_s: float) -> Bucket:
    """The bucket as it is by now; the rate may be another than before."""
    gained = max(0.0, now_s - bucket.at_s) * tokens_per_minute / 60
    return Bucket(num_tokens=min(tokens_per_minute, bucket.num_tokens + gained), at_s=now_s)


def spent(bucket: Bucket, num_tokens: float) -> Bucket:
    """Less by that many; a negative number gives back."""
    return Bucket(num_tokens=bucket.num_tokens - num_tokens, at_s=bucket.at_s)


def wait_s(bucket: Bucket, num_tokens: float, tokens_per_minute: float) -> float:
    """How long until that many are there, 0 if they are; more than a bucket holds means a full one."""
    missing = min(num_tokens, tokens_per_minute) - bucket.num_tokens
    return max(0.0, missing * 60 / tokens_per_minute)
