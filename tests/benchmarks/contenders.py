"""The contenders of `speed.py`: one scoring from start to finish, in a process of its own.

    python -m tests.benchmarks.contenders loop --images FOLDER --model BUNDLE --out FOLDER

Writes Parquet to `--out`, and prints JSON as the last line. Its `done` has a pair for each batch:
when it was ready, in seconds since the epoch, and its number of images.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monkeyray.arrays import Array

BATCH = 32
CORES = os.cpu_count() or 1
SIZE = 224


def paths_of(images: str) -> list[str]:
    """All photographs of a folder."""
    return sorted(str(path) for path in Path(images).rglob("*") if path.is_file())


def load_network(model: str, int8: bool = False) -> Any:
    """The network of a bundle with its head, and with its int8 backbone if asked for."""
    from monkeyray.model.bundle import load_bundle
    from monkeyray.storage.store import Storage

    bundle = load_bundle(model, Storage(), int8=int8)
    return bundle.network(bundle.views[:1])


def keras_model(model: str) -> Any:
    """The network of a bundle as a Keras model: uint8 pixels (n, size, size, 3) to scores."""
    from monkeyray.model.backbones import BACKBONES, build_backbone, import_keras
    from monkeyray.model.head import build_head

    keras = import_keras()
    network = load_network(model)
    spec = BACKBONES[network.backbone]
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(spec.scale, spec.offset)(pixels)
    features = build_backbone(network.backbone, network.backbone_weights)(scaled, training=False)
    head = build_head(spec.width, network.head_widths, network.labels, network.head_weights)
    return keras.Model(pixels, keras.layers.Softmax()(head(features)))


def open_pillow(data: bytes) -> Array:
    """Decode at reduced scale with Pillow."""
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (SIZE, SIZE))
    resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized)


def open_turbo(data: bytes) -> Array:
    """Decode at reduced scale with libjpeg-turbo, and resize with OpenCV."""
    import cv2
    import simplejpeg

    if not data.startswith(b"\xff\xd8"):
        return open_pillow(data)
    cv2.setNumThreads(1)
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", min_height=SIZE, min_width=SIZE)
    except ValueError:  # a few photographs have marks that it does not accept
        return open_pillow(data)
    return np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA))


def open_same(data: bytes) -> Array:
    """Decode as MonkeyRay does."""
    from monkeyray.images.decode import decode

    return np.asarray(decode(data, SIZE, views=("middle",)).pixels[0])


DECODERS: dict[str, Callable[[bytes], Array]] = {
    "pillow": open_pillow,
    "turbo": open_turbo,
    "same": open_same,
}


def batches_of(paths: list[str], decode: Callable[[bytes], Any]) -> Iterator[Any]:
    """The pixels of images, (n, 1, size, size, 3), a batch at a time."""
    for start in range(0, len(paths), BATCH):
        chunk = paths[start : start + BATCH]
        yield np.stack([decode(Path(path).read_bytes()) for path in chunk])[:, None]


def one_thread() -> None:
    """Make TensorFlow and OpenVINO compute in one thread; call it before they are imported."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }


def spread(task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run task(core, *arguments) in a fresh process for each core, at the same time."""
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        return pool.starmap(task, [(core, *arguments) for core in range(CORES)])


def _loop(core: int, images: str, model: str, out: str, engine: str, decoder: str) -> list[Any]:
    one_thread()
    from monkeyray.model.engines.choice import EngineChoice

    network = load_network(model, engine.endswith("int8"))
    run = EngineChoice(*engine.split("-")).build(network)
    paths, done, rows = paths_of(images)[core::CORES], [], []
    for pixels in batches_of(paths, DECODERS[decoder]):
        _, logits = run(pixels)
        rows.append(logits)
        done.append((time.time(), len(logits)))
    table = pa.table({"uri": paths, "label": np.concatenate(rows).argmax(axis=1)})
    pq.write_table(table, f"{out}/{core}.parquet")
    return done


def loop(arguments: argparse.Namespace) -> list[Any]:
    """The hand-tuned loop: a process for each core, one thread each, no Ray."""
    found = spread(
        _loop, arguments.images, arguments.model, arguments.out, arguments.engine,
        arguments.decoder,
    )  # fmt: skip
    return sorted(pair for each in found for pair in each)


def _compute(core: int, images: str, model: str, engine: str) -> float:
    one_thread()
    from monkeyray.model.engines.choice import EngineChoice

    run = EngineChoice(*engine.split("-")).build(load_network(model, engine.endswith("int8")))
    pixels = next(batches_of(paths_of(images)[:BATCH], open_pillow))
    for _ in range(3):
        run(pixels)
    start, count = time.monotonic(), 0
    while time.monotonic() - start < 8:
        run(pixels)
        count += len(pixels)
    return count / (time.monotonic() - start)


def _decode(core: int, images: str, decoder: str) -> float:
    paths = paths_of(images)[core::CORES]
    decode = DECODERS[decoder]
    decode(Path(paths[0]).read_bytes())
    start, count = time.monotonic(), 0
    for path in paths:
        decode(Path(path).read_bytes())
        count += 1
        if time.monotonic() - start > 8:
            break
    return count / (time.monotonic() - start)


def limit(arguments: argparse.Namespace) -> dict[str, float]:
    """Images/s of computing alone and of decoding alone on all cores, and the limit for both."""
    compute = sum(spread(_compute, arguments.images, arguments.model, arguments.engine))
    found = {"compute": compute}
    for name in DECODERS:
        found[name] = sum(spread(_decode, arguments.images, name))
        # The seconds of a core that an image takes add up.
        found[f"limit-{name}"] = 1 / (1 / compute + 1 / found[name])
    return found


def recipe(arguments: argparse.Namespace) -> list[Any]:
    """Ray's documented recipe: read_images, map_batches with a Keras model, write_parquet."""
    import ray

    ray.init(logging_level="ERROR", log_to_driver=False)
    model = arguments.model

    class Predictor:
        def __init__(self) -> None:
            self.model = keras_model(model)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            scores = self.model.predict(batch["image"], verbose=0)
            count = len(scores)
            return {
                "path": batch["path"],
                "label": scores.argmax(axis=1),
                "at": [time.time()] * count,
            }

    data = ray.data.read_images(arguments.images, size=(SIZE, SIZE), mode="RGB", include_paths=True)
    # One actor of one CPU, as in the documentation: two would leave none to read with.
    data = data.map_batches(Predictor, batch_size=BATCH, compute=ray.data.ActorPoolStrategy(size=1))
    data.write_parquet(arguments.out)
    return times_of(arguments.out)


def times_of(out: str) -> list[Any]:
    """How many images were ready at which time, from Parquet files with a column `at`."""
    at = pq.read_table(out, columns=["at"])["at"].to_numpy()
    when, count = np.unique(at, return_counts=True)
    return [(float(a), int(b)) for a, b in zip(when, count, strict=True)]


def keras(arguments: argparse.Namespace) -> list[Any]:
    """Plain Keras: image_dataset_from_directory and predict."""
    from monkeyray.model.backbones import import_keras

    keras = import_keras()
    model, done = keras_model(arguments.model), []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc,name-defined]
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            done.append((time.time(), BATCH))

    data = keras.utils.image_dataset_from_directory(
        arguments.images, labels=None, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False,
        verbose=False,
    )  # fmt: skip
    paths = data.file_paths
    scores = model.predict(data.prefetch(2), verbose=0, callbacks=[Clock()])
    table = pa.table({"uri": paths, "label": scores.argmax(axis=1)})
    pq.write_table(table, f"{arguments.out}/all.parquet")
    return done


def daft(arguments: argparse.Namespace) -> list[Any]:
    """Daft: its own download, decode and resize, the TensorFlow model as a class UDF."""
    import daft as engine
    from daft import DataType, Series, col

    @engine.udf(
        return_dtype=DataType.struct({"label": DataType.int64(), "at": DataType.float64()}),
        batch_size=BATCH, concurrency=1,
    )  # fmt: skip
    class Predictor:
        def __init__(self, model: str) -> None:
            import tensorflow as tf

            network = keras_model(model)
            self.run = tf.function(
                lambda pixels: network(pixels, training=False),
                input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8)],
            )

        def __call__(self, images: Series) -> list[Any]:
            pixels = np.stack(images.to_pylist())
            labels = self.run(pixels).numpy().argmax(axis=1)
            now = time.time()
            return [{"label": int(label), "at": now} for label in labels]

    table = engine.from_pydict({"uri": [f"file://{path}" for path in paths_of(arguments.images)]})
    pixels = col("uri").download().decode_image(mode="RGB").resize(SIZE, SIZE)
    predictor = Predictor.with_init_args(  # type: ignore[attr-defined]
        model=arguments.model
    )
    table = table.with_column("pixels", pixels)
    table = table.with_column("found", predictor(col("pixels")))
    table = table.select(
        "uri", col("found").get("label").alias("label"), col("found").get("at").alias("at")
    )
    table.write_parquet(arguments.out)
    return times_of(arguments.out)


def monkeyray(arguments: argparse.Namespace) -> list[Any]:
    """MonkeyRay itself, on this machine alone or on a Ray that it starts."""
    from monkeyray.options import StoreConfig
    from monkeyray.scoring.options import ScoreConfig
    from monkeyray.scoring.score import score

    name, _, precision = arguments.engine.partition("-")
    place = arguments.place or arguments.out
    score(
        ScoreConfig(
            images=arguments.images, model=arguments.model, predictions=place, engine=name,
            precision=precision, rows_per_file=arguments.rows_per_file,
            store=StoreConfig(
                quiet=True, ray_address="local" if arguments.ray else None,
                s3_endpoint=arguments.s3_endpoint,
            ),
        )
    )  # fmt: skip
    from monkeyray.runs.run import read_parquet
    from monkeyray.storage.store import Storage

    storage = Storage(s3_endpoint=arguments.s3_endpoint)
    done: list[Any] = []
    for entry in storage.list(place):
        if entry.uri.rpartition("/")[2].startswith("part-"):
            at = read_parquet(storage, entry.uri)["predicted_at"].cast(pa.int64()).to_numpy()
            when, count = np.unique(at, return_counts=True)
            done += [(float(a) / 1e6, int(b)) for a, b in zip(when, count, strict=True)]
    return sorted(done)


CONTENDERS: dict[str, Callable[[argparse.Namespace], Any]] = {
    each.__name__: each for each in (limit, loop, recipe, keras, daft, monkeyray)
}


def main() -> None:
    """Run one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--engine", default="tensorflow-float32")
    parser.add_argument("--decoder", choices=DECODERS, default="pillow")
    parser.add_argument("--rows-per-file", type=int, default=4096)
    parser.add_argument("--place")
    parser.add_argument("--ray", action="store_true", help="MonkeyRay on a Ray of its own")
    parser.add_argument("--s3-endpoint")
    arguments = parser.parse_args()
    found = CONTENDERS[arguments.contender](arguments)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
