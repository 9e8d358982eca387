"""How training workers find each other, off the network where they are all on one machine."""

import importlib
import socket
from typing import Any

import torch.distributed as dist
from ray.train.torch import TorchConfig


class LoopbackTorchConfig(TorchConfig):
    """Ray Train's own set-up of PyTorch, but for the interface that its store listens on.

    PyTorch's store takes anybody's values and listens on all interfaces; neither Ray nor an
    environment variable says otherwise. Told a loopback address, here it listens on that alone.
    """

    @property
    def backend_cls(self) -> Any:
        return _Backend


class _Backend(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_take_store)
        super().on_start(worker_group, backend_config)


def _take_store() -> None:
    """Makes this process's rendezvous use `_store`. Runs on every worker."""
    module: Any = importlib.import_module("torch.distributed.rendezvous")  # not the function
    module.TCPStore = _store


def _store(host_name: str, port: int, *, is_master: bool, **options: Any) -> Any:
    if is_master and host_name in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
        listener = socket.create_server((host_name, port), family=family)
        options["master_listen_fd"] = listener.detach()
    return dist.TCPStore(host_name, port, is_master=is_master, **options)  # type: ignore
