"""Scoring that is killed at any moment, and goes on: nothing lost, nothing twice, nothing mixed.

MONKEYRAY_KILL_ROUNDS and MONKEYRAY_KILL_IMAGES make it longer; CI runs a short version.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
from PIL import Image

from monkeyray.options import StoreConfig
from monkeyray.runs import lease as leases
from monkeyray.runs.place import open_run
from monkeyray.runs.reader import open_predictions
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.score import score
from monkeyray.scoring.summary import Summary
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.summary import Trained
from tests.support import redo_job
from tests.support.files import upload
from tests.support.processes import processes_below

ROUNDS = int(os.environ.get("MONKEYRAY_KILL_ROUNDS", "1"))
IMAGES = int(os.environ.get("MONKEYRAY_KILL_IMAGES", "200"))
ROWS_PER_FILE = 20
WORKERS = 2


@pytest.fixture(scope="module")
def model(trained: Trained) -> str:
    """A model, and with it the session's Ray."""
    return trained.uri


@pytest.fixture(scope="module")
def many(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small copies of real photographs, and broken ones among them."""
    folder = tmp_path_factory.mktemp("many")
    paths = sorted(path for path in photos.glob("n*/*"))
    for number in range(IMAGES):
        name = folder / f"camera {number % 3}" / f"{number:05d}.jpg"
        name.parent.mkdir(exist_ok=True)
        if number % 50 == 7:
            name.write_bytes(b"\xff\xd8\xff broken")
            continue
        with Image.open(paths[number % len(paths)]) as image:
            image.thumbnail((300, 300))
            image.convert("RGB").save(name, quality=80 - number // len(paths))
    return folder


@dataclass
class Job:
    """A scoring command in a process of its own, with a Ray of its own."""

    images: str
    model: str
    place: str
    storage: Storage
    process: subprocess.Popen[str] | None = None

    @property
    def is_remote(self) -> bool:
        return "://" in self.place

    def start(self, ray: str | None = "local") -> subprocess.Popen[str]:
        command = [
            sys.executable, "-m", "monkeyray", "score", "--images", self.images, "--model",
            self.model, "--predictions", self.place, "--rows-per-file", str(ROWS_PER_FILE),
            "--workers", str(WORKERS), "--batch-size", "8",
        ]  # fmt: skip
        command += ["--ray-address", ray] if ray else []
        if self.storage.s3_endpoint:
            command += ["--s3-endpoint", self.storage.s3_endpoint]
        # A Ray of its own, not the session's, so that it ends with its driver.
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return self.process

    def finish(self) -> Summary:
        """Run to the end, with the same options, in this process and the session's Ray: what goes
        on from where a killed one was need not be a process of its own."""
        summary = score(
            ScoreConfig(
                images=self.images,
                model=self.model,
                predictions=self.place,
                rows_per_file=ROWS_PER_FILE,
                workers=WORKERS,
                batch_size=8,
                store=StoreConfig(s3_endpoint=self.storage.s3_endpoint),
            )
        )
        assert isinstance(summary, Summary)
        return summary

    def files(self) -> dict[str, bytes]:
        """The finished files with their bytes."""
        return {
            entry.uri: self.storage.read(entry.uri).data
            for entry in self.storage.list(self.place)
            if entry.uri.endswith(".parquet")
        }

    def names(self) -> set[str]:
        if self.is_remote:
            start = len(self.place) + 1
            return {entry.uri[start:].split("/")[0] for entry in self.storage.list(self.place)}
        with contextlib.suppress(FileNotFoundError):
            return {path.name for path in Path(self.place).iterdir()}
        return set()

    def shards(self) -> int:
        """How many files it will be, once that is planned."""
        assert self.process is not None
        while "_run.json" not in self.names():
            assert self.process.poll() is None, "ended before it had planned"
            time.sleep(0.05)
        return -(-IMAGES // ROWS_PER_FILE)

    def descendants(self, words: bytes) -> list[int]:
        """Processes of this job's Ray, by words in their command line."""
        assert self.process is not None
        return processes_below(words, self.process.pid)


def rows_of(files: dict[str, bytes], images: str = "") -> dict[str, tuple[object, ...]]:
    """What the files say, by image, with its path below `images`, which may be an archive; asserts
    that none is twice."""
    columns = ["uri", "status", "error", "label", "score", "width", "height", "sha256"]
    table = pa.concat_tables(
        pq.read_table(io.BytesIO(data), columns=columns) for data in files.values()
    )
    rows = {}
    for row in table.to_pylist():
        if images:
            row["uri"] = Location.of(images).below(row["uri"])
            assert row["uri"] is not None
        rows[row["uri"]] = tuple(row.values())
    assert len(rows) == table.num_rows
    return rows


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], pause: float) -> bool:
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(pause)
    return process.poll() is None


@pytest.fixture(params=["local", "s3", "azure"])
def places(request: pytest.FixtureRequest, many: Path, tmp_path: Path) -> tuple[str, str, Storage]:
    """Images, a place for predictions, and the storage for both."""
    if request.param == "local":
        return str(many), str(tmp_path / "out"), Storage()
    storage: Storage = request.getfixturevalue(request.param) or Storage()
    root = {"s3": "s3://photos/many", "azure": "az://photos/many"}[request.param]
    if not storage.exists(f"{root}/.done"):
        upload(storage, many, f"{root}/images")
        storage.write(f"{root}/.done", b"")
    storage.delete_tree(f"{root}/out")
    return f"{root}/images", f"{root}/out", storage


@pytest.fixture
def packed(request: pytest.FixtureRequest, many: Path, tmp_path: Path) -> tuple[str, str, Storage]:
    """The same with the images in a tar archive."""
    archive = tmp_path / "many.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(many.rglob("*.jpg")):
            tar.add(path, path.relative_to(many))
    if request.param == "local":
        return str(archive), str(tmp_path / "out"), Storage()
    s3: Storage = request.getfixturevalue("s3")
    s3.write("s3://photos/packed/many.tar", archive.read_bytes())
    return "s3://photos/packed/many.tar", "s3://photos/packed/out", s3


@pytest.fixture(scope="module")
def undisturbed(
    many: Path, model: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[object, ...]]:
    """The rows when nothing happens, with paths from `many` on."""
    job = Job(str(many), model, str(tmp_path_factory.mktemp("undisturbed")), Storage())
    job.finish()
    return rows_of(job.files(), job.images)


def test_killed_at_any_moment(
    places: tuple[str, str, Storage], model: str, undisturbed: dict[str, tuple[object, ...]]
) -> None:
    # The driver in half of the rounds, a worker in the other half, in other places other rounds
    # first; in some, while a file or _SUCCESS is being published.
    _rounds(*places, model, undisturbed, {"/": 0, "s": 3, "a": 6}[places[1][0]])


@pytest.mark.parametrize("packed", ["s3", "local"][:ROUNDS], indirect=True)
def test_killed_while_an_archive_is_read(
    packed: tuple[str, str, Storage], model: str, undisturbed: dict[str, tuple[object, ...]]
) -> None:
    _rounds(*packed, model, undisturbed, 6)


def _rounds(
    images: str,
    place: str,
    storage: Storage,
    model: str,
    expected: dict[str, tuple[object, ...]],
    first: int,
) -> None:
    assert len(expected) == IMAGES
    dice = random.Random(0)
    for number in range(first, first + ROUNDS):
        storage.delete_tree(place)
        victim = "driver" if number % 2 == 0 else "worker"
        moments = ("file", "middle", "success", "middle", "plan")
        moment = moments[number % len(moments)]
        _round(Job(images, model, place, storage), victim, moment, dice, expected)


def _round(
    job: Job, victim: str, moment: str, dice: random.Random, expected: dict[str, tuple[object, ...]]
) -> None:
    process = job.start()
    if moment == "plan":
        # Between the first file of the plan and _run.json there is a moment to die in, too.
        assert wait_until(lambda: "_plan" in job.names(), process, 0.0005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        job.finish()
        assert rows_of(job.files(), job.images) == expected
        return
    shards = job.shards()

    def finished() -> int:
        return sum(name.endswith(".parquet") for name in job.names())

    after = dice.randint(1, shards - 4)
    pause = 0.002 if moment != "middle" and not job.is_remote else 0.02
    assert wait_until(lambda: finished() >= after, process, pause)
    if moment == "middle":
        time.sleep(dice.random())
    elif moment == "file" and not job.is_remote:
        # A file has its temporary name while it is being written.
        assert wait_until(
            lambda: any(n.endswith(".tmp") and "part-" in n for n in job.names()), process, 0.0005
        )
    elif moment == "success":
        assert wait_until(lambda: finished() == shards, process, pause)
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert "_SUCCESS" not in job.names()
        before = job.files()
        # Ray's processes end with their driver; what they had begun, they may still finish.
        time.sleep(1)
    else:
        before = job.files()
        workers = job.descendants(b"MapWorker") + job.descendants(
            b"monkeyray.runs.workers.decode_process"
        )
        if moment != "success":
            assert workers, "no worker to kill"
        for pid in dice.sample(workers, min(1, len(workers))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
    for entry in job.storage.list(job.place):
        assert ".parquet" not in entry.uri or entry.uri.endswith((".parquet", ".tmp"))
    if victim == "driver":
        held = sum(len(rows_of({uri: data})) for uri, data in job.files().items())
        summary = job.finish()
        if held < IMAGES:
            # No finished work is done again: what was in flight is all that is decoded twice. A
            # worker that outlives its driver by a moment may still finish its shard.
            assert held <= summary.already <= held + WORKERS * ROWS_PER_FILE
            assert summary.already + summary.scored == IMAGES
    after_files = job.files()
    for uri, data in before.items():
        assert after_files[uri] == data
    assert rows_of(after_files, job.images) == expected
    assert "_SUCCESS" in job.names()
    # What was killed while it renewed its lease leaves a file behind, a late worker another.
    late = (".part-", f".{leases.NAME}")
    assert not any(name.endswith(".tmp") for name in job.names() if not name.startswith(late))


def test_a_redo_killed_at_any_moment(tmp_path: Path) -> None:
    """Killed in the driver or in a child while images are added, changed and gone: at every moment
    our readers see each old row once, and in the end everybody sees each row once."""
    dice = random.Random(1)
    for number in range(3 * ROUNDS):
        images, place = tmp_path / f"images {number}", tmp_path / f"out {number}"
        images.mkdir()
        for image in range(20):
            (images / f"{image:02d}.jpg").write_bytes(b"good" + bytes([image]))
        (images / "20.jpg").symlink_to(tmp_path / f"mounted later {number}")
        redo_job.main(str(images), str(place))
        old = {f"{image:02d}.jpg": image for image in range(20)} | {"20.jpg": None}
        assert redone(place) == old
        (tmp_path / f"mounted later {number}").write_bytes(b"good" + bytes([20]))
        (images / "03.jpg").unlink()
        expected: dict[str, int | None] = old | {"20.jpg": 20, "21.jpg": 121, "22.jpg": 122}
        for image in dice.sample(range(4, 20), 5):
            expected[f"{image:02d}.jpg"] = 100 + image
        for name, value in expected.items():
            if value is not None and value > 100:
                (images / name).write_bytes(b"slow" + bytes([value]))
        for _ in range(dice.randint(1, 3)):
            command = [sys.executable, "-m", "tests.support.redo_job", str(images), str(place)]
            process = subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True)
            moment, victim = dice.randint(0, 40), dice.choice(["driver", "driver", "child"])
            changes, seen = 0, set[str]()
            while process.poll() is None and changes < moment:
                now = {str(path) for path in place.rglob("*")}
                changes += len(now ^ seen) if seen else 0
                seen = now
            if victim == "driver":
                process.kill()
            for pid in Job("", "", "", Storage(), process).descendants(b"decode_process"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(120)
            found = redone(place)
            assert old.keys() <= found.keys() <= expected.keys()
            assert all(found[name] in (old.get(name), expected[name]) for name in found)
        redo_job.main(str(images), str(place))
        assert redone(place) == expected
        assert pq.read_table(place).num_rows == len(expected)


def redone(place: Path) -> dict[str, int | None]:
    """What our readers see of each image, by its name; asserts that none is there twice."""
    predictions = open_predictions(str(place), Storage(), partial=True)
    rows = pa.concat_tables(predictions.tables(["uri", "seen"])).to_pylist()
    found = {Path(row["uri"]).name: row["seen"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_sigterm_ends_cleanly(model: str, many: Path, tmp_path: Path) -> None:
    job = Job(str(many), model, str(tmp_path / "out"), Storage())
    process = job.start()
    job.shards()
    assert wait_until(lambda: len(job.files()) >= 2, process, 0.1)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert "run the same command again to resume" in out
    assert "Traceback" not in out
    names = job.names()
    assert "_lease.json" not in names
    assert "_SUCCESS" not in names
    assert not any(name.endswith(".tmp") for name in names)
    assert open_run(Location.of(job.place), Storage(), _identity_of(job)) is not None
    job.finish()
    assert len(rows_of(job.files())) == IMAGES


def _identity_of(job: Job) -> dict[str, object]:
    import json

    stored = json.loads(Storage().read(f"{job.place}/_run.json").data)
    return dict(stored["identity"])


def images_that_duckdb_sees(folder: Path) -> int:
    query = f"SELECT count(DISTINCT uri) FROM '{folder}/out/**/*.parquet'"
    ((count,),) = duckdb.sql(query).fetchall()
    return int(count)


def test_two_runs_into_one_place(model: str, many: Path, tmp_path: Path, ray_session: None) -> None:
    jobs = [Job(str(many), model, str(tmp_path / "out"), Storage()) for _ in range(2)]
    for job in jobs:
        job.start()
    # Readers see whole files or none, at any moment and any depth.
    seen = 0
    while any(job.process is not None and job.process.poll() is None for job in jobs):
        time.sleep(0.05)
        if list((tmp_path / "out").rglob("*.parquet")):
            count = images_that_duckdb_sees(tmp_path)
            assert seen <= count <= IMAGES
            seen = count
    assert seen > 0
    assert images_that_duckdb_sees(tmp_path) == IMAGES
    ended = []
    for job in jobs:
        assert job.process is not None
        out, _ = job.process.communicate(timeout=300)
        ended.append((job.process.returncode, out))
    assert sorted(code for code, _ in ended) == [0, 2], ended
    refused = next(out for code, out in ended if code == 2)
    assert "is writing into" in refused
    assert len(rows_of(jobs[0].files())) == IMAGES
    assert len(pandas.read_parquet(tmp_path / "out")) == IMAGES
    assert ray.data.read_parquet(str(tmp_path / "out")).count() == IMAGES


def test_two_starters_in_one_place(
    places: tuple[str, str, Storage], model: str, undisturbed: dict[str, tuple[object, ...]]
) -> None:
    """At once into an empty place, and at once into that of a run that was killed."""
    images, place, storage = places
    jobs = [Job(images, model, place, storage) for _ in range(2)]

    def start_both() -> None:
        started = [job.start(ray=None) for job in jobs]
        for process in started:
            # One is refused, or waits to see whether the other lives until it has ended.
            text, _ = process.communicate(timeout=300)
            assert process.returncode == 0 or "is writing into" in text, text
        assert 0 in [process.returncode for process in started]
        assert rows_of(jobs[0].files(), images) == undisturbed

    start_both()
    storage.delete_tree(place)
    killed = Job(images, model, place, storage)
    process = killed.start(ray=None)
    assert wait_until(lambda: len(killed.files()) >= 2, process, 0.05)
    process.kill()
    process.communicate()
    start_both()
    assert "_SUCCESS" in jobs[0].names()


def test_paused_driver_whose_run_was_taken_over_does_no_harm(
    model: str,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = str(tmp_path / "out")
    sleeper = Job(str(many), model, place, Storage())
    process = sleeper.start()
    sleeper.shards()
    assert wait_until(lambda: len(sleeper.files()) >= 3, process, 0.1)
    asleep = [*sleeper.descendants(b""), process.pid]
    for pid in asleep:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    # Asleep it renews nothing, so it need not be watched for as long as one that is awake.
    monkeypatch.setattr(leases, "LAPSE_SECONDS", 3.0)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.5)
    other = Job(str(many), model, place, Storage())
    other.finish()
    assert "has not been seen for a while" in capsys.readouterr().err
    expected = other.files()
    for pid in asleep:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0, out
    assert other.files() == expected
    assert len(rows_of(expected)) == IMAGES
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="a small tmpfs needs root to mount it"
)
def test_a_full_disk_stops_the_job_and_it_goes_on(model: str, many: Path, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(place)], check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        job = Job(str(many), model, str(place / "out"), Storage())
        out, _ = job.start().communicate(timeout=300)
        assert job.process is not None
        assert job.process.returncode == 2, out
        assert "No space left on device" in out
        assert "Traceback" not in out
        done = job.files()
        assert not (place / "out" / "_SUCCESS").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        job.finish()
        files = job.files()
        assert len(rows_of(files)) == IMAGES
        assert {uri: files[uri] for uri in done} == done
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
