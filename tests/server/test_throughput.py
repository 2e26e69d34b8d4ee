"""Throughput: what INFO stats tells per second."""

from __future__ import annotations

from server.app import Node
from tests.support.node import client_of, running_node


def rates(node: Node) -> dict[str, object]:
    return dict(node.throughput.info())


async def test_rates_are_those_between_the_last_samples() -> None:
    async with running_node("") as node, client_of(node) as client:
        await client.ping()
        # The server takes its own samples once a second.
        await node.background.stop()
        throughput = node.throughput
        throughput.forget()
        assert rates(node) == {
            "instantaneous_ops_per_sec": 0,
            "instantaneous_input_kbps": "0.00",
            "instantaneous_output_kbps": "0.00",
        }
        throughput.sample(1_000)
        for _ in range(30):
            await client.set("key", b"x" * 1000)
        throughput.sample(2_000)
        assert rates(node)["instantaneous_ops_per_sec"] == 30
        # 1,000 bytes and the rest of the command, thirty times in a second.
        assert 29.3 < float(str(rates(node)["instantaneous_input_kbps"])) < 31
        assert rates(node)["instantaneous_output_kbps"] == f"{30 * len('+OK..') / 1024:.2f}"
        # Two seconds without a command.
        throughput.sample(3_000)
        throughput.sample(4_000)
        assert rates(node)["instantaneous_ops_per_sec"] == 0


async def test_rates_after_the_counters_were_reset_are_not_negative() -> None:
    async with running_node("") as node, client_of(node) as client:
        await node.background.stop()
        node.throughput.forget()
        for _ in range(5):
            await client.ping()
        node.throughput.sample(1_000)
        await client.execute_command("CONFIG", "RESETSTAT")
        node.throughput.sample(2_000)
        assert rates(node)["instantaneous_ops_per_sec"] == 0
        stats = await client.info("stats")
        assert {"instantaneous_ops_per_sec", "instantaneous_input_kbps"} <= stats.keys()
        assert len((await client.info("server"))["run_id"]) == 40
