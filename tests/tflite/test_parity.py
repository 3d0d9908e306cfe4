import dataclasses
import json

import numpy as np
import pytest

from faq_keras.integer import reference
from faq_keras.integer.rounding import PROFILES
from faq_keras.tflite import flatbuffer, parity, writer
from faq_keras.tflite.parity import ParityError, compare
from tests.integer.programs import Builder, Format, small_resnet

ADD = "add_7"


@pytest.fixture(scope="module")
def codes(program, feed):
    """What a correct Keras model would report: all tensors."""
    return feed | reference.run(program, feed)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_every_value_of_every_tensor_is_compared(program, files, codes, weights):
    report = compare(codes, program, files[weights])
    (run,) = report.runs
    computed = sum(codes[name].size for name in program.activations())
    shipped = codes[program.outputs[0]].size
    assert report.values == run.values == computed + shipped
    assert run.tensors == len(program.ops) + 1
    assert report.mismatches == 0 and run.first_mismatch is None
    assert run.runtime == "xnnpack" and "ai-edge-litert" in run.versions
    assert report.check() is report
    assert f"0 mismatches of {report.values:,} values" in str(report)
    print(report)


def test_images_may_come_in_chunks_of_any_size(program, files, codes):
    def chunks():
        for start in range(0, 20, 7):
            yield {name: values[start : start + 7] for name, values in codes.items()}

    whole, parts = compare(codes, program, files["int4"]), compare(chunks(), program, files["int4"])
    assert whole == parts


def test_inputs_alone_are_compared_with_the_integer_reference(program, files, feed):
    report = compare(feed, program, files["int8"])
    assert report.mismatches == 0 and report.runs[0].images == 20


def test_one_wrong_code_of_the_model_is_found_counted_and_located(program, files, codes):
    wrong = codes[ADD].copy()
    wrong[17, 2, 3, 4] += 1
    report = compare(codes | {ADD: wrong}, program, files["int8"])
    assert report.mismatches == 1
    tensor, index, expected, got = report.runs[0].first_mismatch
    assert (tensor, index) == (ADD, (17, 2, 3, 4)) and expected == got + 1
    with pytest.raises(ParityError, match=rf"op '{ADD}' \(add\): 1 of 10,240 values differ"):
        report.check()


def test_a_file_with_one_wrong_weight_is_found_out(program, files, codes, tmp_path):
    model = flatbuffer.parse(files["int8"].read_bytes())
    names = [flatbuffer.tensor_name(t) for t in model.subgraphs[0].tensors]
    buffer = model.buffers[model.subgraphs[0].tensors[names.index("conv_2d_5/kernel")].buffer]
    buffer.data = buffer.data.copy()
    buffer.data[0] ^= 1
    path = tmp_path / "m.tflite"
    path.write_bytes(flatbuffer.serialize(model))
    report = compare(codes, program, path)
    assert report.runs[0].first_mismatch.tensor == "conv_2d_5"
    (first, *_) = [result for result in report.runs[0].results if result.mismatches]
    assert first.by == "xnnpack" and 1 <= len(first.samples) <= 5
    with pytest.raises(ParityError) as error:
        report.check()
    for part in (str(path), "on xnnpack", "conv_2d_5", "later tensors differ too", "expected"):
        assert part in str(error.value)


def test_other_runtimes_are_not_held_to_the_trained_rounding(program, files, codes, tmp_path):
    """Codes rounded in another way say nothing about a runtime whose profile the program lacks."""
    other = dataclasses.replace(program, numerics="builtin")
    writer.write(other, tmp_path / "m.tflite")
    wrong = codes | {ADD: codes[ADD] + 1}
    assert compare(wrong, other, tmp_path / "m.tflite").mismatches == 0


def test_json_has_totals_and_every_tensor(program, files, codes):
    report = compare(codes, program, files["int8"])
    data = json.loads(report.to_json())
    assert data["values"] == report.values and data["mismatches"] == 0
    (run,) = data["runs"]
    assert run["runtime"] == "xnnpack" and run["images"] == 20 and run["first_mismatch"] is None
    assert [result["name"] for result in run["results"]][:-1] == list(program.activations())


def test_ops_that_the_delegate_leaves_alone_are_reported(program, files, codes):
    undelegated = compare(codes, program, files["int4"]).runs[0].undelegated
    assert [name.rsplit("_", 1)[0] for name in undelegated] == [
        "average_pool_2d",
        "widen",
        "fully_connected",
    ]


def test_what_cannot_be_compared_is_refused(program, files, codes):
    b = Builder(1)
    other = b.build(b.conv(b.input((16, 16, 3)), 4))
    feed = {"input_0": codes["input_0"]}
    with pytest.raises(
        ValueError, match="was not written from this model: the file lacks conv_2d_1"
    ):
        compare(feed, other, files["int8"])
    with pytest.raises(ValueError, match="no tensors named nonsense"):
        compare(codes | {"nonsense": codes[ADD]}, program, files["int8"])
    with pytest.raises(ValueError, match="expected codes of 'add_7' have the shape"):
        compare(codes | {ADD: codes[ADD][:, :1]}, program, files["int8"])
    with pytest.raises(ValueError, match="must be int8"):
        compare({"input_0": codes["input_0"].astype(np.float32)}, program, files["int8"])
    with pytest.raises(ValueError, match="no image was given"):
        compare([], program, files["int8"])
    with pytest.raises(ValueError, match="Unknown runtime 'cuda'"):
        compare(codes, program, files["int8"], runtimes=("cuda",))


def test_reports_of_several_runs_add_up(program, files, codes):
    report = compare(codes, program, files["int8"], runtimes=("xnnpack", "xnnpack"))
    assert report.values == 2 * report.runs[0].values
    assert isinstance(report, parity.ParityReport)


# --------------------------------------------------------------------------------------- accuracy


@pytest.fixture(scope="module")
def best(program, codes):
    """The class with the largest logit of each image."""
    return codes[program.outputs[0]].argmax(axis=1)


def test_labels_add_the_accuracy_of_the_runtime_and_of_the_expected_logits(
    program, files, codes, best
):
    labels = best.copy()
    labels[:5] = (labels[:5] + 1) % 10
    report = compare(codes, program, files["int4"], ("xnnpack", "tflm"), labels=labels)
    for run in report.runs:
        logits = reference.run(program, codes["input_0"], PROFILES[run.runtime])[program.outputs[0]]
        assert run.top1 == np.mean(logits.argmax(axis=1) == labels)
        assert run.expected_top1 == 0.75
        assert f"; top-1 {100 * run.top1:.2f} %, Keras 75.00 %" in str(report)
    assert report.runs[0].top1 == 0.75
    data = json.loads(report.to_json())["runs"]
    assert [run["top1"] for run in data] == [run.top1 for run in report.runs]


def test_rounding_that_flips_an_image_shows_in_the_accuracy(tmp_path):
    """Of many images, some have another winner under Lite Micro's rounding."""
    builder, program = small_resnet(seed=1, bits=2, activation_bits=4)
    feed = builder.images(program, 100)
    logits = {
        name: reference.run(program, feed, PROFILES[name])[program.outputs[0]]
        for name in ("xnnpack", "tflm")
    }
    labels = logits["xnnpack"].argmax(axis=1)
    agreeing = np.mean(logits["tflm"].argmax(axis=1) == labels)
    writer.write(program, tmp_path / "m.tflite")
    expected = feed | {program.outputs[0]: logits["xnnpack"]}
    report = compare(expected, program, tmp_path / "m.tflite", ("xnnpack", "tflm"), labels=labels)
    print(report)
    assert report.mismatches == 0
    assert [run.top1 for run in report.runs] == [1.0, agreeing]
    assert 0.8 < agreeing < 1.0


def test_accuracy_is_that_of_all_chunks_and_columns_of_labels_are_taken(
    program, files, codes, best
):
    chunks = [{name: values[i : i + 7] for name, values in codes.items()} for i in (0, 7, 14)]
    report = compare(chunks, program, files["int8"], labels=best[:, None].astype(np.uint8))
    assert report.runs[0].top1 == report.runs[0].expected_top1 == 1.0


def test_without_labels_or_expected_logits_there_is_no_accuracy(program, files, feed, best):
    plain = compare(feed, program, files["int8"]).runs[0]
    assert plain.top1 is None and plain.expected_top1 is None and "top-1" not in str(plain)
    run = compare(feed, program, files["int8"], labels=best).runs[0]
    assert run.top1 == 1.0 and run.expected_top1 is None
    assert str(run).endswith("; top-1 100.00 %")


def test_the_logits_before_a_softmax_are_judged(tmp_path):
    """A softmax in 8 bits has ties where the logits have none."""
    builder, program = small_resnet(seed=1)  # not the shared one: the builder is changed
    logits = program.outputs[0]
    feed = builder.images(program, 40)
    wide = Format(2.0**-15, 0, 16, "int16")
    output = builder._op("softmax", (logits,), program.tensors[logits].shape, wide, {}, "softmax")
    softmax = dataclasses.replace(program, ops=tuple(builder.ops), outputs=(output,))
    writer.write(softmax, tmp_path / "m.tflite")
    labels = reference.run(program, feed)[logits].argmax(axis=1)
    report = compare(feed, softmax, tmp_path / "m.tflite", labels=labels)
    assert report.mismatches == 0 and report.runs[0].top1 == 1.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(19, int), "There are 19 labels for 20 images"),
        (np.zeros(21, int), "There are 21 labels for 20 images"),
        (np.zeros(20), r"must be integers \[images\]; received float64 \[20\]"),
        (np.zeros((20, 10), int), r"received int64 \[20, 10\]"),
        (np.arange(20), r"must lie in 0\.\.9, the model's classes; received 0 to 19"),
        (np.full(20, -1), "received -1 to -1"),
        ([], "must be integers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(program, files, feed, labels, message):
    with pytest.raises(ValueError, match=message):
        compare(feed, program, files["int8"], labels=labels)


def test_labels_need_logits(tmp_path):
    b = Builder(1)
    program = b.build(b.conv(b.input((4, 4, 1)), 2))
    writer.write(program, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=r"Labels need a model with one output \[batch, classes\]"):
        compare(b.images(program, 2), program, tmp_path / "m.tflite", labels=[0, 1])
