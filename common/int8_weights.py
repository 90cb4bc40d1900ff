"""8-bit weights in ONNX files: stores a matrix product's weights in 8 bits, and restores FP32.

The product is ONNX Runtime's `MatMulNBits`. BLOCK weights of a row share a scale and a zero point. With COMPUTE_IN_INT8
the runtime rounds the other factor to 8 bits too, each row by itself, so that a row of a batch depends on no other.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPERATOR, DOMAIN = "MatMulNBits", "com.microsoft"
BLOCK = 32
COMPUTE_IN_INT8 = 4  # the operator's `accuracy_level`; other levels have no fast kernel for 8 bits
LARGEST = 255


def store_in_int8(model: onnx.ModelProto, weights: Iterable[str]) -> None:
    """Stores the weights of some `Gemm`s in 8 bits.

    Args:
        model: changed in place.
        weights: names of initializers, float32 (outputs, inputs), each the second input of a `Gemm` with `transB`.
    """
    products = {node.input[1]: node for node in model.graph.node if node.op_type == "Gemm"}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in weights:
        node, weight = products[name], numpy_helper.to_array(tensors[name])
        stored = dict(zip((name, f"{name}.scales", f"{name}.zero_points"), _quantised(weight), strict=True))
        model.graph.initializer.remove(tensors[name])
        model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in stored.items())
        sizes = {"N": weight.shape[0], "K": weight.shape[1], "bits": 8, "block_size": BLOCK}
        inputs = [node.input[0], *stored, "", node.input[2]]
        product = helper.make_node(
            OPERATOR, inputs, node.output, node.name, domain=DOMAIN, accuracy_level=COMPUTE_IN_INT8, **sizes
        )
        node.CopyFrom(product)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def with_fp32_weights(path: Path) -> bytes:
    """An ONNX file with its 8-bit weights as FP32 of the same values, for devices without a kernel for 8 bits."""
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != OPERATOR:
            continue
        x, name, scales, zero_points, _, bias = node.input
        levels, steps, zeros = (numpy_helper.to_array(tensors[key]) for key in (name, scales, zero_points))
        blocks = (levels.astype(np.float32) - zeros.reshape(*levels.shape[:2], 1)) * steps.reshape(*levels.shape[:2], 1)
        inputs = next(attribute.i for attribute in node.attribute if attribute.name == "K")
        weight = np.ascontiguousarray(blocks.reshape(len(blocks), -1)[:, :inputs])
        tensors[name].CopyFrom(numpy_helper.from_array(weight, name))
        node.CopyFrom(helper.make_node("Gemm", [x, name, bias], node.output, node.name, transB=1))
    return model.SerializeToString()


def _quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # (N, K) -> levels uint8 (N, blocks, BLOCK), scales float32 (N * blocks,), zero points uint8 (N * blocks,)
    rows, inputs = weight.shape
    blocks = np.pad(weight, ((0, 0), (0, -inputs % BLOCK))).reshape(rows, -1, BLOCK)
    low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)  # zero has a level, for the padding
    scales = np.maximum((high - low) / LARGEST, np.finfo(np.float32).tiny)
    zero_points = np.rint(-low / scales)
    with np.errstate(invalid="ignore"):  # of weights that are NaN: the exporter's check refuses the file
        levels = np.clip(np.rint(blocks / scales[:, :, None]) + zero_points[:, :, None], 0, LARGEST)
        return levels.astype(np.uint8), scales.ravel(), zero_points.astype(np.uint8).ravel()
