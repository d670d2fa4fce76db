"""The smallest peer that averages: bare gRPC and plain torch, and nothing of ours. What a round costs at least.

It trusts everybody: no identity, no checks, no gate, no snapshot that somebody else may still be reading.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_HOST = "127.0.0.1"
_SERVICE = "bench.Smallest"


class SmallestMember:
    """As `rounds.Member`: peer `number` of `peers`; the addresses are those of the ones before it."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, batch: int, peers: int, addresses: list[str], seed: int
    ) -> None:
        self._model, self._x, self._y, self._batch = model, x, y, batch
        self._optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self._draw = torch.Generator().manual_seed(seed)
        self._peers, self._before = peers, addresses
        self._asks: list[Any] = []
        self._shown: dict[int, bytes] = {}
        self._version = 0
        self._news = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1)
        self._stack = AsyncExitStack()

    async def open(self) -> str:
        address = await self._stack.enter_async_context(self._serving())
        for other in self._before:
            await self._know(other)
            hello: Any = self._channels[other].unary_unary(f"/{_SERVICE}/Hello")
            await hello(address.encode())
        return address

    async def rounds(self, rounds: int) -> float:
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: len(self._asks) == self._peers - 1)
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        for _ in range(rounds):
            mine = await loop.run_in_executor(self._thread, self._train)
            async with self._news:
                self._version += 1
                self._shown = {v: shown for v, shown in self._shown.items() if v == self._version - 1}
                self._shown[self._version] = mine
                self._news.notify_all()
            wanted = str(self._version).encode()
            answers = [ask(wanted) for ask in self._asks]  # all are under way
            theirs = [await answer for answer in answers]
            await loop.run_in_executor(self._thread, self._mix, [mine, *theirs])
        return time.perf_counter() - start

    async def close(self) -> None:
        await self._stack.aclose()
        self._thread.shutdown()

    # ---- the network

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[str]:
        self._channels: dict[str, grpc.aio.Channel] = {}
        calls: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Hello": grpc.unary_unary_rpc_method_handler(self._hello),
            "Ask": grpc.unary_unary_rpc_method_handler(self._answer),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, calls),))
        port = server.add_insecure_port(f"{_HOST}:0")
        await server.start()
        try:
            yield f"{_HOST}:{port}"
        finally:
            for channel in self._channels.values():
                await channel.close()
            await server.stop(0)

    async def _know(self, address: str) -> None:
        async with self._news:
            self._channels[address] = grpc.aio.insecure_channel(address)
            self._asks.append(self._channels[address].unary_unary(f"/{_SERVICE}/Ask"))
            self._news.notify_all()

    async def _hello(self, address: bytes, context: Any) -> bytes:
        await self._know(address.decode())
        return b""

    async def _answer(self, wanted: bytes, context: Any) -> bytes:
        version = int(wanted)
        async with self._news:
            await self._news.wait_for(lambda: self._version >= version)
        return self._shown[version]

    # ---- the model, in a thread of its own

    def _train(self) -> bytes:
        for rows in torch.randperm(len(self._x), generator=self._draw).split(self._batch):
            loss = cross_entropy(self._model(self._x[rows]), self._y[rows])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return b"".join(p.detach().numpy().tobytes() for p in self._model.parameters())

    def _mix(self, models: list[bytes]) -> None:
        mean, at = torch.from_numpy(np.mean([np.frombuffer(model, np.float32) for model in models], axis=0)), 0
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.copy_(mean[at : at + parameter.numel()].view_as(parameter))
                at += parameter.numel()
