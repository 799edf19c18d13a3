"""Trains the digits model of the tenant acme and writes it with twenty held-out samples.

    python tests/models/train_digits.py        (needs the extras `dev` and `models`)

Data: scikit-learn's 8x8 handwritten digits (1,797 images, 16 grey levels). A quarter is held out. The model is a
two-layer perceptron in ONNX, written by hand: input `image` f32[N,1,8,8] from 0 to 1, output `logits` f32[N,10].

Writes tenants/acme/digits/digits.onnx and samples/*.png (8x8, grey, two of each class: the first two of the held-out
part, whether the model gets them right or not) with samples/labels.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

SEED = 20
HIDDEN = 64
ACCURACY_MIN = 0.97
# The newest that onnxruntime 1.32 and older ones alike accept; tests/models/test_digits.py holds it.
OPSET, IR_VERSION = 17, 8
FUNCTION = Path(__file__).parents[2] / "tenants" / "acme" / "digits"


def to_onnx(classifier: MLPClassifier) -> onnx.ModelProto:
    """Flatten, Gemm, Relu, Gemm: the softmax is left to the guest."""
    weights = [
        array.astype(np.float32)
        for pair in zip(classifier.coefs_, classifier.intercepts_, strict=True)
        for array in pair
    ]
    names = ["hidden_weight", "hidden_bias", "output_weight", "output_bias"]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["pixels"], axis=1),
            helper.make_node("Gemm", ["pixels", "hidden_weight", "hidden_bias"], ["hidden_sum"]),
            helper.make_node("Relu", ["hidden_sum"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "output_weight", "output_bias"], ["logits"]),
        ],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True)],
        doc_string="Handwritten digits, 8x8, light on dark; made by tests/models/train_digits.py",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_samples(levels: np.ndarray, labels: np.ndarray) -> None:
    """Two PNG of each class; grey is level * 255 / 16, rounded down, so that 16 is 255."""
    folder = FUNCTION / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    listed = {}
    for digit in range(10):
        for letter, index in zip("ab", np.flatnonzero(labels == digit)[:2], strict=True):
            grey = (levels[index].reshape(8, 8) * 255 // 16).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{digit}-{letter}.png")
            listed[f"{digit}-{letter}.png"] = digit
    (folder / "labels.json").write_text(json.dumps(listed, indent=1) + "\n")


def main() -> None:
    digits = load_digits()
    levels = digits.data.astype(np.int64)
    train, held_out, train_labels, held_out_labels = train_test_split(
        levels, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    classifier = MLPClassifier((HIDDEN,), alpha=0.01, max_iter=600, random_state=SEED)
    classifier.fit(train / 16, train_labels)
    accuracy = classifier.score(held_out / 16, held_out_labels)
    print(f"test accuracy {accuracy:.4f} on {len(held_out)} held-out images")
    assert accuracy >= ACCURACY_MIN
    onnx.save(to_onnx(classifier), FUNCTION / "digits.onnx")
    write_samples(held_out, held_out_labels)


if __name__ == "__main__":
    main()
