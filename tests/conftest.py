"""Real photographs, a real S3 server, and a Ray for the modules that want one."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from monkeyray.model.backbones import import_keras
from monkeyray.storage.store import Storage
from tests.support import azurite
from tests.support.required import skip_or_fail
from tests.support.weed import start_weed

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from monkeyray.training.summary import Trained

# The first example of a test may wait for a heavy import.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# Before anything of Ray is imported: tests talk to nobody outside this machine.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# No node is taken away here: each training is spared a process that would look out for that.
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
# And before Ray's workers are started, which take their credentials from their own environment.
os.environ.update(AWS_ACCESS_KEY_ID="admin", AWS_SECRET_ACCESS_KEY="secret-of-tests")
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.update(azurite.ENVIRONMENT)


@pytest.fixture(scope="session", autouse=True)
def tensorflow_first(request: pytest.FixtureRequest) -> None:
    """Keras keeps the backend that it is imported with: TensorFlow, whatever test comes first."""
    needed = {"model", "scoring", "training", "system"}
    if any(needed & {*item.path.parts} for item in request.session.items):
        import_keras()


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder with the 10 monkey species, or a skip; in CI its absence is a failure."""
    root = os.environ.get("MONKEYRAY_PHOTOS")
    folder = Path(root or ".") / "monkeys10"
    if not root or not folder.is_dir():
        skip_or_fail("set MONKEYRAY_PHOTOS to a folder that holds monkeys10/n0…n9 with photographs")
    return folder


@pytest.fixture(scope="session")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 14 photographs of each of three species."""
    folder = tmp_path_factory.mktemp("few")
    for label in ("n0", "n5", "n9"):
        for path in sorted((photos / label).iterdir())[:14]:
            (folder / label).mkdir(exist_ok=True)
            shutil.copy(path, folder / label / path.name)
    return folder


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """One local Ray for a module; jobs of its tests then use it. Without it they use none."""
    from monkeyray.runs.cluster import connected

    with connected(None):
        yield


@pytest.fixture(scope="session")
def trained(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of the three species, trained once for all tests that need one, with its backbone in
    int8 where that can be made."""
    import monkeyray

    model = tmp_path_factory.mktemp("model") / "first"
    quiet = monkeyray.StoreConfig(quiet=True)
    int8 = importlib.util.find_spec("nncf") is not None
    return monkeyray.train(images=str(few), model=str(model), int8=int8, store=quiet)


@pytest.fixture(scope="session")
def quantised(trained: Trained) -> Trained:
    """The same model, or a skip where it has no backbone in int8; in CI that is a failure."""
    if trained.model["metrics"]["int8"] is None:
        skip_or_fail("install NNCF, to make a backbone in int8: pip install 'monkeyray[int8]'")
    return trained


@pytest.fixture(scope="session")
def embedded(few: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions with embeddings of the three species and of two broken files, 2 rows a file."""
    import monkeyray

    folder = tmp_path_factory.mktemp("embedded")
    shutil.copytree(few, folder / "images")
    (folder / "images" / "n0" / "a.jpg").write_bytes(b"")
    (folder / "images" / "n5" / "page.jpg").write_bytes(b"<!doctype html><p>404")
    monkeyray.score(
        images=str(folder / "images"),
        model=trained.uri,
        predictions=str(folder / "predictions"),
        embeddings=True,
        rows_per_file=2,
        workers=1,
        store=monkeyray.StoreConfig(quiet=True),
    )
    return folder / "predictions"


@pytest.fixture(scope="module")
def on_ray(
    embedded: Path, trained: Trained, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Predictions of the same images, made by the module's Ray."""
    import monkeyray

    place = tmp_path_factory.mktemp("ray") / "predictions"
    monkeyray.score(
        images=str(embedded.parent / "images"),
        model=trained.uri,
        predictions=str(place),
        workers=1,
        store=monkeyray.StoreConfig(quiet=True),
    )
    return place


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A SeaweedFS S3 server on loopback with the bucket `photos`."""
    with start_weed(tmp_path_factory.mktemp("weed")) as (storage, _):
        yield storage


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Azurite on loopback, with the containers `photos` and `public`."""
    with azurite.start_azurite(tmp_path_factory.mktemp("azurite")):
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, one for a module, or a skip; in CI its absence is a failure."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    if found is None:
        skip_or_fail("install Chromium (apt-get install chromium): pages are looked at in it")
    with sync_playwright() as playwright:
        # Its sandbox needs user namespaces, which containers and root do not have.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
