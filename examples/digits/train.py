#!/usr/bin/env python3
"""Trains the digits models and exports them to ONNX.

    v1  baseline: a linear classifier
    v2  better: a small neural network
    v3  broken: v2 behind a calibration table that was exported too short, so that the model fails
        at run time for the images with the most ink
    v4  slow: v2 plus a refinement loop that costs hundreds of milliseconds and changes nothing

All take `image` FP32 [-1, 64] (values 0 to 16) and give `label` INT64 [-1] and
`probabilities` FP32 [-1, 10].

Training uses whole numbers only: every sum is exact, whatever the order in which a machine adds,
so every machine makes the same files, bit for bit. `--check` trains again and compares.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

HERE = pathlib.Path(__file__).resolve().parent
SEED = 20240607
HELD_OUT = 360
CLASSES = 10
PIXELS = 64
HIDDEN = 64

# Fixed point: a weight w stands for w / 2**FRACTION.
FRACTION = 12
# Sums stay exact in doubles below this.
EXACT = 2**53

# v3: images are put into bins of this much ink, and the table lacks the last bins.
INK_PER_BIN = 28
TABLE_BINS = 12

# v4: this many products of matrices of this size, one after the other.
LOOP_STEPS = 1000
LOOP_SIZE = 256


def data():
    """Images and labels as whole numbers: to train with, and held out."""
    digits = load_digits()
    images = digits.data.astype(np.int64)
    labels = digits.target.astype(np.int64)
    order = np.argsort(random_whole(len(images), 0, 2**62, SEED), kind="stable")
    held, train = order[:HELD_OUT], order[HELD_OUT:]
    return (images[train], labels[train]), (images[held], labels[held])


def random_whole(count, low, high, seed):
    """Whole numbers in [low, high): splitmix64, so that no library's version matters."""
    state = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return (state % np.uint64(high - low)).astype(np.int64) + low


def product(a, b):
    """A product of whole matrices. Doubles hold it exactly, and are much faster than integers."""
    assert np.abs(a).sum(axis=1).max() * np.abs(b).max() < EXACT, "sums are no longer exact"
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def divide(a, by):
    """Division that rounds to the nearest whole number."""
    return (a + by // 2) // by


def margins(scores, labels, margin):
    """How the loss falls: each class that comes within `margin` of the right one pushes back."""
    rows = np.arange(len(labels))
    push = (scores - scores[rows, labels][:, None] + margin > 0).astype(np.int64)
    push[rows, labels] = 0
    push[rows, labels] = -push.sum(axis=1)
    return push


def train_linear(images, labels):
    weights = np.zeros((PIXELS + 1, CLASSES), dtype=np.int64)
    inputs = np.hstack([images, np.full((len(images), 1), 16)])
    for epoch in range(150):
        push = margins(product(inputs, weights), labels, 8 << FRACTION)
        weights -= divide(product(inputs.T, push), 64 * (1 + epoch // 30))
    return weights[:PIXELS], weights[PIXELS] * 16


def train_network(images, labels):
    one = 1 << FRACTION
    first = random_whole(PIXELS * HIDDEN, -one // 8, one // 8, SEED + 1).reshape(PIXELS, HIDDEN)
    first_bias = np.zeros(HIDDEN, dtype=np.int64)
    second = random_whole(HIDDEN * CLASSES, -one // 8, one // 8, SEED + 2).reshape(HIDDEN, CLASSES)
    second_bias = np.zeros(CLASSES, dtype=np.int64)
    order = np.arange(len(images))
    for epoch in range(120):
        order = order[np.argsort(random_whole(len(order), 0, 2**62, SEED + 10 + epoch), kind="stable")]
        slower = 1 + epoch // 20
        for start in range(0, len(order), 64):
            batch = order[start : start + 64]
            inputs = images[batch]
            hidden = np.maximum(divide(product(inputs, first), 16) + first_bias, 0)
            scores = divide(product(hidden, second), one) + second_bias
            push = margins(scores, labels[batch], one)
            back = product(push, second.T) * (hidden > 0)
            second -= divide(product(hidden.T, push), 8 * one * slower // 16)
            second_bias -= divide(push.sum(axis=0) * 8, slower)
            first -= divide(product(inputs.T, back), 1024 * slower)
            first_bias -= divide(back.sum(axis=0), 64 * slower)
    return (first, first_bias), (second, second_bias)


def real(whole, by=1 << FRACTION):
    """The number that a fixed-point one stands for; a power of two divides exactly."""
    assert np.abs(whole).max() < 2**24, "does not fit single precision exactly"
    return (whole.astype(np.float64) / by).astype(np.float32)


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def tail(logits):
    return [
        helper.make_node("ArgMax", [logits], ["label"], axis=1, keepdims=0),
        helper.make_node("Softmax", [logits], ["probabilities"], axis=1),
    ]


def model(name, nodes, constants):
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", PIXELS])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES]),
        ],
        constants,
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="sluice-digits",
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def linear_model(weights, bias):
    nodes = [
        helper.make_node("MatMul", ["image", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    constants = [constant("weights", real(weights, 64 << FRACTION)), constant("bias", real(bias, 64 << FRACTION))]
    return model("digits-v1", nodes + tail("logits"), constants)


def network(first, second, logits):
    nodes = [
        helper.make_node("MatMul", ["image", "first"], ["first_product"]),
        helper.make_node("Add", ["first_product", "first_bias"], ["first_sum"]),
        helper.make_node("Relu", ["first_sum"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["second_product"]),
        helper.make_node("Add", ["second_product", "second_bias"], [logits]),
    ]
    constants = [
        constant("first", real(first[0], 16 << FRACTION)),
        constant("first_bias", real(first[1])),
        constant("second", real(second[0])),
        constant("second_bias", real(second[1])),
    ]
    return nodes, constants


def broken_model(first, second):
    nodes, constants = network(first, second, "raw")
    nodes += [
        helper.make_node("ReduceSum", ["image", "axis"], ["ink"], keepdims=1),
        helper.make_node("Div", ["ink", "ink_per_bin"], ["bin_real"]),
        helper.make_node("Cast", ["bin_real"], ["bin"], to=TensorProto.INT64),
        helper.make_node("Gather", ["calibration", "bin"], ["factor"]),
        helper.make_node("Mul", ["raw", "factor"], ["logits"]),
    ]
    constants += [
        constant("axis", np.array([1], dtype=np.int64)),
        constant("ink_per_bin", np.float32(INK_PER_BIN)),
        constant("calibration", np.ones(TABLE_BINS, dtype=np.float32)),
    ]
    return model("digits-v3", nodes + tail("logits"), constants)


def slow_model(first, second):
    """The loop's state depends on the image, so no optimiser can run it beforehand; its result is
    added with the factor 0, so the answers are v2's."""
    nodes, constants = network(first, second, "raw")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state_in", "mix"], ["mixed"]),
            helper.make_node("Tanh", ["mixed"], ["state_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "refine",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, [LOOP_SIZE, LOOP_SIZE]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [LOOP_SIZE, LOOP_SIZE]),
        ],
    )
    nodes += [
        helper.make_node("ReduceMean", ["image"], ["brightness"], keepdims=0),
        helper.make_node("Expand", ["brightness", "square"], ["state"]),
        helper.make_node(
            "ConstantOfShape",
            ["square"],
            ["mix"],
            value=numpy_helper.from_array(np.array([1 / LOOP_SIZE], dtype=np.float32)),
        ),
        helper.make_node("Loop", ["steps", "go", "state"], ["refined"], body=body),
        helper.make_node("ReduceMean", ["refined"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["correction"]),
        helper.make_node("Add", ["raw", "correction"], ["logits"]),
    ]
    constants += [
        constant("square", np.array([LOOP_SIZE, LOOP_SIZE], dtype=np.int64)),
        constant("steps", np.int64(LOOP_STEPS)),
        constant("go", np.bool_(True)),
        constant("nothing", np.float32(0)),
    ]
    return model("digits-v4", nodes + tail("logits"), constants)


def build():
    """Every file by its path below this folder."""
    (images, labels), (held_images, held_labels) = data()
    linear = train_linear(images, labels)
    first, second = train_network(images, labels)
    nodes, constants = network(first, second, "logits")
    files = {
        "models/v1/model.onnx": linear_model(*linear),
        "models/v2/model.onnx": model("digits-v2", nodes + tail("logits"), constants),
        "models/v3/model.onnx": broken_model(first, second),
        "models/v4/model.onnx": slow_model(first, second),
    }
    sums = "".join(f"{sha256(files[path])}  {path.removeprefix('models/')}\n" for path in sorted(files))
    files["models/SHA256SUMS"] = sums.encode()
    held = {"images": held_images.tolist(), "labels": held_labels.tolist()}
    files["heldout.json"] = (json.dumps(held, separators=(",", ":")) + "\n").encode()
    return files


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def check(files):
    """Whether the files here are the ones that training gives."""
    same = True
    for path, content in files.items():
        here = HERE / path
        found = here.read_bytes() if here.exists() else b""
        same &= found == content
        print(f"{'same' if found == content else 'DIFFERS'}  {sha256(content)}  {path}")
    return same


def write(files):
    for path, content in files.items():
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_bytes(content)
        print(f"{sha256(content)}  {len(content):7}  {path}")


def evaluate():
    """What each model does with the held-out images, one at a time."""
    import time

    import onnxruntime

    held = json.loads((HERE / "heldout.json").read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for version in ("v1", "v2", "v3", "v4"):
        session = onnxruntime.InferenceSession(str(HERE / f"models/{version}/model.onnx"), options)
        pairs = list(zip(held["images"], held["labels"]))[: 20 if version == "v4" else None]
        right = failed = 0
        began = time.process_time()
        for image, label in pairs:
            try:
                answer = session.run(["label"], {"image": np.array([image], dtype=np.float32)})
                right += int(answer[0][0] == label)
            except Exception:  # the library has no public type for a failed run
                failed += 1
        took = (time.process_time() - began) / len(pairs)
        print(f"{version}: {right / len(pairs):.1%} right, {failed / len(pairs):.1%} failed, {took * 1e3:.2f} ms of CPU each")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="train again and compare; write nothing")
    parser.add_argument("--evaluate", action="store_true", help="run the models on the held-out images")
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate()
    elif arguments.check:
        sys.exit(0 if check(build()) else "the files differ from what training gives")
    else:
        write(build())


if __name__ == "__main__":
    main()
