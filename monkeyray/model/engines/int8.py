"""An int8 backbone as a bundle stores it: an OpenVINO graph, which holds no code."""

from __future__ import annotations

from typing import Any

import numpy as np

from monkeyray.errors import BundleError
from monkeyray.model.backbones import Weights
from monkeyray.model.engines.runtimes import reason_of
from monkeyray.model.network import Network, network_graph

#: Both uint8: the graph as OpenVINO XML, and its constants.
_ARRAYS = ("graph", "constants")


def to_arrays(graph: bytes, constants: bytes) -> Weights:
    """The arrays for a safetensors file of a graph from uint8 pixels (n, views, size, size, 3) to
    features (n, views, width)."""
    return dict(
        zip(_ARRAYS, (np.frombuffer(each, np.uint8) for each in (graph, constants)), strict=True)
    )


def check_arrays(arrays: Weights) -> None:
    """Raise BundleError for arrays that `to_arrays` cannot have made."""
    found = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
    if found != dict.fromkeys(_ARRAYS, ("uint8", 1)):
        raise BundleError(
            f"its backbone in int8 has the arrays {found}, expected the bytes of "
            f"{' and '.join(_ARRAYS)}"
        )


def int8_model(network: Network, core: Any) -> Any:
    """The openvino.Model of a network on its int8 backbone, with the mean over views and the head
    in float32: pixels to features, plus logits if the network has a head.

    Raises BundleError if the int8 graph does not have the network's input and output.
    """
    assert network.int8 is not None
    try:
        graph = core.read_model(*(network.int8[name].tobytes() for name in _ARRAYS))
    except RuntimeError as error:
        raise refusal(error) from error
    found = [[_shape(port) for port in ports] for ports in (graph.inputs, graph.outputs)]
    pixels = ("u8", [-1, -1, network.size, network.size, 3])
    features = ("f32", [-1, -1, network.spec.width])
    if found != [[pixels], [features]]:
        raise BundleError(
            f"the model's backbone in int8 is damaged: it maps {found[0]} to {found[1]}, but "
            f"{network.backbone} maps {[pixels]} to {[features]}"
        )
    return network_graph(graph.get_results()[0].input_value(0), graph.get_parameters(), network)


def _shape(port: Any) -> tuple[str, list[int]]:
    """The type and shape of an input or output, -1 for dynamic dimensions."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return port.get_element_type().get_type_name(), []
    sides = [-1 if side.is_dynamic else side.get_length() for side in shape]
    return port.get_element_type().get_type_name(), sides


def refusal(error: RuntimeError) -> BundleError:
    """The error for an int8 backbone that OpenVINO cannot read or compile."""
    import openvino

    return BundleError(
        f"OpenVINO {openvino.__version__} cannot run the model's backbone in int8 "
        f"({reason_of(error)}): install a newer one, or train without --int8 and score without "
        "--precision int8"
    )
