"""Parts of the configuration that stand on their own; config.py composes them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """Base of everything in the tree: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LogsConfig(Part):
    """What replicas write into their log files; DEBUG adds a line per round and step."""

    format: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class StreamsTlsConfig(Part):
    """PEM files for mutual TLS between replicas, at the same paths on every node: all three, or none for plain TCP."""

    ca_file: Name | None = None
    cert_file: Name | None = None
    key_file: Name | None = None

    @property
    def files(self) -> tuple[Path, Path, Path] | None:
        """The three paths, or None without TLS."""
        if self.ca_file is None or self.cert_file is None or self.key_file is None:
            return None
        return Path(self.ca_file), Path(self.cert_file), Path(self.key_file)


class StreamsConfig(Part):
    """The data plane.

    `host` is what every replica listens on, or "node" for its node's own address. `port_range` is
    (first, last).
    """

    host: str = "127.0.0.1"
    port_range: tuple[Port, Port] = (23_700, 23_899)
    insecure_streams: bool = False
    tls: StreamsTlsConfig = StreamsTlsConfig()
    max_frame_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 64 << 20
    max_buffer_bytes: Annotated[int, Field(ge=1 << 20)] = 256 << 20

    @property
    def ports(self) -> range:
        """The port range as Python has it."""
        return range(self.port_range[0], self.port_range[1] + 1)

    def on_node(self, address: str) -> StreamsConfig:
        """The same, with "node" replaced by the node's own address."""
        return self.model_copy(update={"host": address}) if self.host == "node" else self

    @property
    def is_loopback(self) -> bool:
        """Whether the streams stay on one machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class KernelsConfig(Part):
    """Compiled CPU kernels, for models whose layers they know.

    They are built once, at the first start, by the machine's C++ compiler and kept in `cache_folder`
    (None: the user's cache folder on each node).
    """

    compiled: bool = True
    cache_folder: Name | None = None

    @property
    def folder(self) -> Path | None:
        """The cache folder, None for the user's own."""
        return None if self.cache_folder is None else Path(self.cache_folder).expanduser()
