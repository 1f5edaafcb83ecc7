"""The contract over other servers than a single Valkey: Redis 7.0, a node of a cluster, and a whole cluster."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from clawlink.store.base import Store
from clawlink.store.valkey.store import ValkeyStore
from clawlink.store.valkey.wire import Wire
from tests.store.contract import StoreContract
from tests.valkey import ALL_SLOTS, cluster, cluster_node, program, redis_program, running
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(program() is None, reason="there is no valkey-server here")

_tags = count()


def made(url: str) -> Store:
    """Return a store with a mesh of its own."""
    tag = f"mesh{next(_tags)}"
    return ValkeyStore(Wire(url, tag), tag)


@pytest.fixture(scope="module")
def one_node() -> Iterator[str]:
    with cluster_node() as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", *ALL_SLOTS)
        wait_until(lambda: b"cluster_state:ok" in server.ask("CLUSTER", "INFO"))
        yield server.patient_url


@pytest.fixture(scope="module")
def redis_itself() -> Iterator[str]:
    redis = redis_program()
    if redis is None:
        pytest.skip("there is no redis-server here (python -m tests.binaries redis-server)")
    with running(program=redis) as server:
        yield server.patient_url


@pytest.fixture(scope="module", params=["valkey", "redis"])
def whole_cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    redis = redis_program() if request.param == "redis" else None
    if request.param == "redis" and redis is None:
        pytest.skip("there is no redis-server here (python -m tests.binaries redis-server)")
    with cluster(program=redis) as found:
        yield found.url


class TestNodeOfACluster(StoreContract):
    """The contract where a command with keys of two slots is refused."""

    @pytest.fixture
    def store(self, one_node: str) -> Store:
        return made(one_node)


class TestRedis(StoreContract):
    """The contract over Redis, the oldest that is taken (7.0 of Debian)."""

    @pytest.fixture
    def store(self, redis_itself: str) -> Store:
        return made(redis_itself)


@pytest.mark.torture
class TestCluster(StoreContract):
    """The contract over three masters with a replica each: each mesh has another master."""

    @pytest.fixture
    def store(self, whole_cluster: str) -> Store:
        return made(whole_cluster)
