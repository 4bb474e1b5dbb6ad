"""Cells on a Ray cluster of two nodes, one of which is lost in the middle."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from precrop.errors import PrecropError
from precrop.study.engine import run_study
from precrop.study.events import Died, Elsewhere, Ended, Epoch, Event
from precrop.study.store import Store
from tests.study.fake_work import cell, tried, work

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'precrop[ray]'")
pytestmark = [
    pytest.mark.matrix,
    # Ray leaves sockets and files of its own to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    for name in ("RAY_health_check_period_ms", "RAY_health_check_timeout_ms"):
        monkeypatch.setenv(name, "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "4")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args=SMALL)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_is_lost_in_the_middle(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from precrop.study.ray_engine import RayEngine

    monkeypatch.setattr("precrop.study.engine.LOOK", 0.1)

    node = cluster.add_node(**{k: v for k, v in SMALL.items() if k != "include_dashboard"})
    cluster.wait_for_nodes()
    store = Store.open(tmp_path / "store", create=True)
    cells = [cell(seed=seed, seconds=2.0) for seed in range(6)]
    engine = RayEngine(tmp_path, address=cluster.address, work=work)
    assert engine.places == 2
    told: list[Event] = []

    def tell(event: Event) -> None:
        told.append(event)
        ended = sum(isinstance(event, Ended) for event in told)
        if ended >= 2 and len(tried(tmp_path)) >= ended + 2 and node in cluster.list_all_nodes():
            cluster.remove_node(node, allow_graceful=False)

    summary = run_study(cells, store, engine, tell=tell)
    assert (summary.done, summary.failed) == (6, 0)
    tally = store.tally()
    assert {name: one["done"] for name, one in tally.items()} == {one.id: 1 for one in cells}
    begun = [line.split()[0] for line in tried(tmp_path)]
    assert len(begun) > 6, "a cell was running on the node that was lost"
    assert set(begun) == {one.id for one in cells}
    assert any(isinstance(event, Epoch) for event in told)
    assert not [event for event in told if isinstance(event, Died)], "Ray runs it again itself"
    assert not any(isinstance(e, Elsewhere) and e.cells for e in told)


def test_no_gpu_to_share(cluster: Any, tmp_path: Path) -> None:
    from precrop.study.ray_engine import RayEngine

    with pytest.raises(PrecropError, match="has no GPU: leave --runs-per-device out"):
        RayEngine(tmp_path, address=cluster.address, runs_per_device=2)


def test_no_such_cluster(tmp_path: Path) -> None:
    from precrop.study.ray_engine import RayEngine

    with pytest.raises(PrecropError, match="are 1 or more"):
        RayEngine(tmp_path, threads=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(PrecropError, match=f"no Ray cluster answers at {address}: "):
        RayEngine(tmp_path, address=address)
