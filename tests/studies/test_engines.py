import time
from types import SimpleNamespace

import pytest

from mixwell import InputError
from mixwell.studies import RayEngine, Study, load_records, run_study
from mixwell.studies.engines import _bring_home, _run_remotely
from mixwell.training import RunConfig, read_result

ray = pytest.importorskip("ray", reason="Ray is not installed")

TINY = RunConfig(train_size=200, epochs=3, threads=1)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of three nodes, each with one processor, on this machine."""
    from ray.cluster_utils import Cluster

    # Ray's workers give way to all other processes: on a busy machine they never get to work.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.release
@pytest.mark.timeout(280)
def test_a_lost_nodes_cells_are_finished_elsewhere(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    study = Study(TINY, ["erm", "mixup", "decoupled"], [0, 1])
    kinds = []
    removed = []

    def report(cell, event):
        kinds.append((cell.name, event["kind"]))
        if event["kind"] == "epoch" and not removed:
            removed.append(time.monotonic())
            cluster.remove_node(lost, allow_graceful=False)

    with RayEngine(cluster.address) as engine:
        assert engine.slots == 4
        records = run_study(study, tmp_path, engine=engine, report=report, command="on Ray")
    assert removed
    assert [record.status for record in records] == ["done"] * 6
    assert sorted(name for name, kind in kinds if kind == "done") == sorted(
        record.path.name for record in records
    )
    assert {record.command for record in load_records(tmp_path)} == {"on Ray"}
    alone = run_study(Study(TINY, ["mixup"], [0]), tmp_path / "alone")
    # On the other machine it ended as it would have here.
    assert alone[0].metrics == next(r for r in records if r.label == "mixup").metrics
    assert records[0].predictions()["test_logits"].shape == (359, 10)


def test_no_cluster_is_named():
    with pytest.raises(InputError, match=r"engine='ray': no cluster at '127.0.0.1:1'"):
        RayEngine("127.0.0.1:1")


def test_a_node_without_the_studys_folder_sends_its_files_home(tmp_path):
    told = []
    mailbox = SimpleNamespace(put=SimpleNamespace(remote=lambda name, event: told.append(event)))
    config = RunConfig(train_size=60, epochs=1, threads=1)
    folder = tmp_path / "nowhere" / "erm-seed0"
    outcome = _run_remotely(config.to_dict(), str(folder), "on Ray", mailbox, "erm-seed0")
    assert not folder.exists()
    assert [event["kind"] for event in told][-1] == "done"
    _bring_home(folder, outcome["files"])
    assert read_result(folder) == outcome["result"]
    assert (folder / "model.pt").is_file()
    assert (folder / "predictions.npz").is_file()
    broken = {**config.to_dict(), "method": "nonsense"}
    assert "'nonsense' is unknown" in _run_remotely(broken, str(folder), "", mailbox, "")["error"]
