"""Reads a file of Keras weights into a network, after checks.

Keras writes HDF5 of two kinds. The older, `…_notop.h5` and `…_no_top.h5`, lists its layers in an
attribute `layer_names` and is matched by order; the newer, `….weights.h5`, has a tree of objects
named by class and number. Neither depends on the numbers in Keras's layer names.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.errors import ConfigError

#: Where the newer kind keeps a network's layers; the second is from Keras 2.13.
_TREES = ("layers", "_layer_checkpoint_dependencies")


def read_keras_file(data: bytes, model: Any, what: str, name: str) -> None:
    """Set the weights of a keras.Model from the bytes of a Keras file.

    `what` (the option and the file) and `name` (the network) are for messages. Raises ConfigError
    for another kind of file, another network or this one with its classification head, links out of
    the file, and weights that are not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "file.h5"
        plain.write_bytes(data)
        try:
            legacy = _check(plain, model, what, name)
            # Keras chooses its reader by the file name, which people change.
            path = plain if legacy else plain.rename(plain.with_name("file.weights.h5"))
            model.load_weights(path)
        except ConfigError:
            raise
        except Exception as error:  # h5py and Keras raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{what} does not fit {name} without its head: {reason}") from error
    for variable in model.weights:
        if not np.isfinite(np.asarray(variable)).all():
            raise ConfigError(
                f"{what} is broken: {variable.path} has values that are not finite: give a file "
                "from before the training that broke it"
            )


def _check(path: Path, model: Any, what: str, name: str) -> bool:
    """Raise ConfigError unless the file holds exactly this network; returns whether it is of the
    older kind."""
    import h5py

    if not h5py.is_hdf5(path):
        raise ConfigError(f"{what} is not HDF5: give a file as Keras writes or publishes it")
    with h5py.File(path, "r") as file:
        datasets = _datasets(file, what)
        # A whole model of Keras 2 has its weights in a group beside those of the optimizer.
        root = "/model_weights" if "model_weights" in file else "/"
        # Keras splits a long list into the attributes layer_names0, layer_names1 …
        legacy = any(key.startswith("layer_names") for key in file[root].attrs)
        if not legacy:
            root = next((f"/{tree}" for tree in _TREES if tree in file), "")
            if not root:
                raise ConfigError(
                    f"{what} is HDF5, but holds no weights of a Keras network: give a file as "
                    "Keras writes or publishes it"
                )
        inside = "/" if root == "/" else f"{root}/"
        shapes = Counter(
            dataset.shape or ()
            for key, dataset in datasets.items()
            # Integers are random states of Dropout.
            if key.startswith(inside) and dataset.dtype.kind not in "iu"
        )
    needed = Counter(tuple(variable.shape) for variable in model.weights)
    lacking, surplus = needed - shapes, shapes - needed
    if lacking:
        raise ConfigError(
            f"{what} does not fit {name} without its head: {lacking.total()} of its "
            f"{needed.total()} arrays are not in the file, such as one of shape {max(lacking)}: "
            f"give the file of {name}, or the --backbone of this file"
        )
    if surplus:
        raise ConfigError(
            f"{what} holds {name} with its classification head, {surplus.total()} arrays too many, "
            f"such as one of shape {max(surplus)}: give the file without the head, which Keras "
            "publishes as …_notop.h5 or …_no_top.h5 and writes with include_top=False"
        )
    return legacy


def _datasets(file: Any, what: str) -> dict[str, Any]:
    """Every dataset by its path. Raises ConfigError if one takes data from outside the file."""
    import h5py

    found: dict[str, Any] = {}
    # Hard links can form cycles.
    seen: set[int] = set()
    groups = [("/", file["/"])]
    while groups:
        prefix, group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for key in group:
            path = prefix + key
            # Check a link before following it, which would open the other file.
            if group.get(key, getclass=True, getlink=True) is not h5py.HardLink:
                raise _refused(what, path, "links to somewhere else")
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append((f"{path}/", item))
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise _refused(what, path, "reads its values from other files")
                found[path] = item
    return found


def _refused(what: str, path: str, why: str) -> ConfigError:
    return ConfigError(
        f"{what} is refused: {path} in it {why}, which Keras's own files never do: give the file "
        "as Keras "
        "wrote or published it"
    )
