"""Ray's workers write what this process would, to the byte, whatever happens to them; and leave nothing behind."""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import threadpoolctl
from failing_models import Dies, DiesAlways, Divides, Warns, shade_of
from small_jobs import TwoBoxes, content, load, make_images, rows, stop_at
from tiny_runs import slim

from lucid_maskrcnn import save_weights
from lucid_maskrcnn.inference import ImagePrediction, predict_files, ray_engine, ray_keeper
from lucid_maskrcnn.inference.ray_cluster import RayCluster, _check_answer, connected
from lucid_maskrcnn.inference.ray_engine import RayWorkers, ray_workers

# Ray's own, in a process that has started a cluster and ended it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of two workers, of this process as if by ``ray.init``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # for the models of these tests
        with connected("local", cpus=2, model_bytes=0) as made:
            yield made


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "images", 7, side=64)


def predict(images: Any, model: Any, out: Path | str, **options: Any) -> Any:
    return predict_files(images, model, out, **{"shard_size": 2, "progress": False, **options})


def predict_by_ray(images: Any, model: Any, out: Path | str, **options: Any) -> Any:
    return predict(images, model, out, **{"engine": "ray", "workers": 1, **options})


# ------------------------------------------------------------------ the same results


@pytest.mark.usefixtures("cluster")
def test_files_are_those_of_a_local_run(tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    images[4].write_bytes(images[4].read_bytes()[:300])
    save_weights(slim(), tmp_path / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)  # workers have another current folder
    options: dict[str, Any] = {"export": ("csv", "geojson"), "score_thresh": 0.3, "top_k": 20}
    with threadpoolctl.threadpool_limits(1):  # the last digits depend on it
        ours = predict(["images"], "tiny.safetensors", Path("local"), **options)
    seen: list[ImagePrediction] = []
    theirs = predict_by_ray(["images"], "tiny.safetensors", Path("ray"), workers=2, on_image=seen.append, **options)
    assert (theirs.n_images, theirs.n_failed, theirs.n_objects) == (7, 1, ours.n_objects)
    assert theirs.failures == ours.failures
    assert ours.n_objects
    assert content(tmp_path / "ray", but=()) == content(tmp_path / "local", but=())
    assert sorted(one.image_id for one in seen) == [1, 2, 3, 4, 6, 7]
    results = load(tmp_path / "ray" / "detections.json")
    for one in seen:
        assert one.path == Path("images") / images[one.image_id - 1].name
        assert one.detections.to_coco(one.image_id) == [r for r in results if r["image_id"] == one.image_id]
        assert {path.suffix for path in one.exports} == {".csv", ".geojson"}
        assert one.drawing is not None
        assert one.drawing.exists()


@pytest.mark.usefixtures("cluster")
def test_either_engine_resumes_what_the_other_has_begun(tmp_path: Path, images: list[Path]) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(images, TwoBoxes(), whole)
    with pytest.raises(KeyboardInterrupt):
        predict(images[:6], stop_at(4), out)
    (out / "001.png").unlink()  # of an image with a row
    predict_by_ray(images[:6], TwoBoxes(), out, resume=True)
    predict(images, TwoBoxes(), out, resume=True, shard_size=None)  # which is the job's
    assert content(out) == content(whole)
    model = TwoBoxes()
    predict_by_ray(images, model, out, resume=True)
    assert content(out) == content(whole)


@pytest.mark.usefixtures("cluster")
def test_failed_images_are_tried_again_by_workers(tmp_path: Path, images: list[Path]) -> None:
    """What they warn of, the caller is told."""
    whole, out, away = tmp_path / "whole", tmp_path / "out", tmp_path / "away"
    predict(images, TwoBoxes(), whole)
    images[2].rename(away)
    with pytest.warns(UserWarning, match="it is late") as caught:
        assert predict_by_ray(images, Warns(tmp_path / "cured", shade_of(images[1])), out).n_failed == 1
    assert len(caught) == 1
    away.rename(images[2])
    assert predict_by_ray(images, TwoBoxes(), out, resume=True).n_failed == 0
    assert content(out) == content(whole)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("format", ["jsonl", pytest.param("parquet", marks=pytest.mark.slow)])
def test_workers_read_and_write_at_urls(tmp_path: Path, images: list[Path], format: str) -> None:
    """Which are on this machine, but are written to as elsewhere; the part of the interrupted run has an error."""
    pytest.importorskip("fsspec")
    urls, out, away = [f"local://{path}" for path in images], tmp_path / "out", tmp_path / "away"
    predict(urls, TwoBoxes(), tmp_path / "whole", format=format)
    images[2].rename(away)
    with pytest.raises(KeyboardInterrupt):
        predict(urls, stop_at(4), f"local://{out}", format=format)
    away.rename(images[2])
    assert predict_by_ray([], TwoBoxes(), f"local://{out}", format=format, resume=True).n_failed == 0
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.usefixtures("cluster")
def test_few_parts_for_many_workers_are_said(tmp_path: Path, images: list[Path]) -> None:
    with pytest.warns(UserWarning, match=r"work in only 1 part of the results, for 3 workers: a smaller shard_size"):
        ray_engine._warn_of_few([(0, list(range(40)))], 3)


# ------------------------------------------------------------------ workers that fail


@pytest.mark.usefixtures("cluster")
def test_worker_that_dies_is_replaced(tmp_path: Path, images: list[Path]) -> None:
    """Also the drawings that it has made before are those of the job."""
    model = Dies(tmp_path / "died", shade_of(images[3]))  # the second image of its part
    model.marker.touch()
    predict(images, model, tmp_path / "whole", format="parquet")
    model.marker.unlink()
    result = predict_by_ray(images, model, tmp_path / "out", format="parquet")
    assert (tmp_path / "died").exists()
    assert (result.n_images, result.failures) == (7, ())
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.usefixtures("cluster")
def test_part_whose_workers_always_die_is_named_and_the_others_are_done(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_RETRIES", 1)
    predict(images, TwoBoxes(), tmp_path / "whole")
    model = DiesAlways(tmp_path / "cured", shade_of(images[3]))
    with pytest.raises(
        ChildProcessError, match=r"^1 part in .*results' \(part-00001\) could not be completed: .*memory"
    ):
        predict_by_ray(images, model, tmp_path / "out")
    assert [row["id"] for row in rows(tmp_path / "out")] == [1, 2, 5, 6, 7]
    predict(images, TwoBoxes(), tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.usefixtures("cluster")
def test_defect_of_the_model_stops_the_job(tmp_path: Path, images: list[Path]) -> None:
    with pytest.raises(ZeroDivisionError, match="happen"):
        predict_by_ray(images, Divides(tmp_path / "cured", shade_of(images[1])), tmp_path / "out")


@pytest.mark.usefixtures("cluster")
def test_part_that_cannot_be_written_says_so(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"

    def obstruct(_: Any) -> None:
        (out / "results" / "part-00001.jsonl").mkdir()

    with pytest.raises(OSError, match=r"2 of 7 images have their results, resume to go on.*part-00001"):
        predict_by_ray(images, TwoBoxes(), out, draw=False, on_start=obstruct)


@pytest.mark.usefixtures("cluster")
def test_other_versions_on_a_machine_are_refused(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_versions", lambda: {"lucid-maskrcnn": "9.9", "numpy": "0.1"})
    with pytest.raises(ValueError, match=r"^A machine of the Ray cluster has lucid-maskrcnn .* here it is 9\.9: rows"):
        predict_by_ray(images, TwoBoxes(), tmp_path / "out")


@pytest.mark.usefixtures("cluster")
def test_model_that_cannot_be_sent_is_refused(tmp_path: Path, images: list[Path]) -> None:
    lock: Any = threading.Lock()
    with pytest.raises(TypeError, match="weights cannot be sent to workers: "):
        predict_by_ray(images, TwoBoxes(lambda *_: lock.acquire()), tmp_path / "out")


@pytest.mark.usefixtures("cluster")
def test_model_that_workers_cannot_import_is_refused(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("from small_jobs import TwoBoxes\n\n\nclass Model(TwoBoxes):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("only_here").Model()
    with pytest.raises(ValueError, match=r"^A machine of the Ray cluster cannot open the model .*No module"):
        predict_by_ray(images, model, tmp_path / "out")


# ------------------------------------------------------------------ what is refused, and what is left


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"engine": "spark"}, ValueError, "engine must be one of 'local', 'ray', got 'spark'."),
        (
            {"address": "auto"},
            ValueError,
            "address (--address) is of Ray, got it without engine='ray' (--engine ray).",
        ),
        ({"workers": 2}, ValueError, "workers (--workers) is of Ray, got it without"),
        ({"threads_per_worker": 2}, ValueError, "threads_per_worker (--threads-per-worker) is of Ray, got it without"),
        ({"engine": "ray", "workers": 0}, ValueError, "workers must be a positive integer, got 0."),
        ({"engine": "ray", "threads_per_worker": 1.5}, TypeError, "threads_per_worker must be a positive integer, got"),
        ({"engine": "ray", "address": ""}, ValueError, "address must not be an empty string."),
        (
            {"engine": "ray", "address": "headnode"},
            ValueError,
            "address must be 'auto', 'host:port' or 'ray://host:port', got 'headnode'.",
        ),
    ],
    ids=str,
)
def test_wrong_arguments_of_the_engine(
    tmp_path: Path, images: list[Path], options: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=re.escape(sentence)):
        predict(images, TwoBoxes(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_address_without_a_cluster_is_named_at_once(answer: bytes | None) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        if answer is not None:

            def serve() -> None:
                with listening.accept()[0] as connection:
                    connection.recv(100)
                    connection.sendall(answer)

            listening.listen()
            threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ConnectionError, match=f"No Ray cluster answers at '{address}' .*: start one"):
            _check_answer(address)


def test_workers_are_as_many_as_the_cluster_has_room_for() -> None:
    def made(cpus: tuple[float, ...], gpus: tuple[float, ...] = (), **asked: Any) -> RayWorkers:
        options = {"workers": None, "threads": None, "on_gpu": False, **asked}
        return ray_workers(RayCluster(None, None, cpus, gpus or (0,) * len(cpus), True), **options)

    assert made((4, 3)) == RayWorkers(7, 1, 0)
    assert made((4, 3), threads=2) == RayWorkers(3, 2, 0)
    assert made((4, 3), workers=2) == RayWorkers(2, 1, 0)
    assert made((8, 8), (2, 0), on_gpu=True) == made((8, 8), (2, 0), on_gpu=None) == RayWorkers(2, 1, 1)
    assert made((8,), on_gpu=None) == RayWorkers(8, 1, 0)
    with pytest.raises(ValueError, match=r"threads_per_worker is 9, but no machine .* the largest has 8 CPUs"):
        made((8, 4), threads=9)
    with pytest.raises(ValueError, match="device is a GPU, but the Ray cluster has none"):
        made((8,), on_gpu=True)
    with pytest.warns(UserWarning, match="room for 8 of the 12 workers"):
        made((8,), workers=12)


def test_keeper_ends_what_a_killed_cluster_has_left(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    import psutil

    folder = tmp_path / "session"
    folder.mkdir()
    script = "import sys, time; file = open(sys.argv[1], 'w'); print(flush=True); time.sleep(600)"
    left = subprocess.Popen([sys.executable, "-c", script, str(folder / "log")], stdout=subprocess.PIPE)
    with left:
        assert left.stdout is not None
        left.stdout.readline()
        path = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(psutil.__file__))}
        keeper = subprocess.Popen([sys.executable, ray_keeper.__file__, str(folder)], stdin=subprocess.PIPE, env=path)
        with pytest.raises(subprocess.TimeoutExpired):
            keeper.wait(0.5)
        keeper.communicate()  # closes its standard input
        assert left.wait() == -signal.SIGKILL
    assert not folder.exists()
