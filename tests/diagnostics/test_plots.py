"""What is drawn is what was measured; figures belong to nobody."""

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from faq_keras.diagnostics import LayerSensitivity, Sensitivity, TensorStatistics, plots

SIMILARITY = {
    "8 bits": {"conv1": 0.9, "conv2": 0.8, "fc": 0.9},
    "2 bits": {"conv1": 0.9, "conv2": None, "fc": 0.9},
}
TENSOR = TensorStatistics(
    "conv1", "conv", 4, -2, True, 3.75, 0.01, 0.5, 4.0, 20.0, None, -4, 4, (-7.5, 0.0, 7.5), (3, 0)
)
SENSITIVITY = Sensitivity(
    "net", 10, "layer", 0.9, 0.89, 0.05,
    tuple(LayerSensitivity(f"conv{n}", "conv", 4, 0.8, 0.1, 0.1 * n) for n in range(9)),
    {}, (),
)  # fmt: skip


def test_a_line_per_precision_with_gaps_where_nothing_is_defined():
    axes = plots.similarity_over_layers(SIMILARITY).axes[0]
    wide, narrow = axes.lines[:2]
    np.testing.assert_array_equal(wide.get_ydata(), [0.9, 0.8, 0.9])
    np.testing.assert_array_equal(narrow.get_ydata(), [0.9, math.nan, 0.9])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["conv1", "conv2", "fc"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(SIMILARITY)
    assert wide.get_marker() != narrow.get_marker(), "colour is not the only difference"


def test_similarity_over_updates():
    line = plots.similarity_over_updates({"conv1": [(100, 0.5), (200, None)]}).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [100, 200])
    np.testing.assert_array_equal(line.get_ydata(), [0.5, math.nan])


def test_bars_stand_beside_the_published_ones():
    axes = plots.similarity_bars({"a": 0.99, "b": None}, {"a": 0.994, "b": 0.023}).axes[0]
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights == [[0.99], [0.994, 0.023]]
    assert {text.get_text() for text in axes.texts} == {"0.990", "0.994", "0.023"}
    alone = plots.similarity_bars({"a": 0.99}).axes[0]
    assert alone.get_legend() is None and len(alone.containers) == 1


def test_histograms_have_their_clip_lines():
    unsigned = TensorStatistics(*[*vars(TENSOR).values()][:4], False, *[*vars(TENSOR).values()][5:])
    figure = plots.activation_histograms([TENSOR, unsigned, TENSOR], columns=2)
    assert len(figure.axes) == 3
    lines = [[line.get_xdata()[0] for line in axes.lines] for axes in figure.axes]
    assert lines == [[-3.75, 3.75], [3.75], [-3.75, 3.75]]
    np.testing.assert_array_equal(figure.axes[0].patches[0].get_data().values, [3, math.nan])
    assert figure.axes[0].get_title() == "conv1\n4 bits, step 2^-2"


def test_signal_to_noise_has_both_ratios():
    lines = plots.signal_to_noise([TENSOR, TENSOR]).axes[0].lines
    assert lines[0].get_ydata() == pytest.approx([20, 20])
    assert np.isnan(lines[1].get_ydata()).all()


def test_the_most_sensitive_layers_come_first():
    axes = plots.sensitivity_ranking(SENSITIVITY, most=3).axes[0]
    assert [bar.get_width() for bar in axes.containers[0]] == pytest.approx([0.8, 0.7, 0.6])
    assert axes.get_yticklabels()[0].get_text() == "conv8 (4)"
    assert axes.lines[0].get_xdata()[0] == 0.05
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("style", [plots.ANY, plots.LIGHT, plots.DARK])
def test_svg_is_one_transparent_element_with_text_and_repeats(style):
    first, second = (
        plots.svg(plots.similarity_over_layers(SIMILARITY, style=style)) for _ in range(2)
    )
    assert first == second
    root = ElementTree.fromstring(first)
    assert root.tag.endswith("svg")
    assert {"conv1", "conv2", "fc"} <= {text.strip() for text in root.itertext()}
    assert style.series[0] in first and style.text in first
    assert "fill: #ffffff" not in first


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize(
    ("style", "background", "text", "shapes"),
    [
        (plots.ANY, "#ffffff", 4.0, 2.9),
        (plots.ANY, "#181818", 4.0, 2.9),
        (plots.LIGHT, "#ffffff", 7.0, 3.0),
        (plots.DARK, "#181818", 7.0, 3.0),
    ],
)
def test_contrast(style, background, text, shapes):
    def contrast(colour):
        bright, dark = sorted((luminance(colour), luminance(background)), reverse=True)
        return (bright + 0.05) / (dark + 0.05)

    assert contrast(style.text) >= text
    assert min(map(contrast, style.series)) >= shapes


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.similarity_over_layers({}), "nothing to draw"),
        (lambda: plots.similarity_over_layers({"4 bits": {}}), "nothing to draw"),
        (lambda: plots.activation_histograms([]), "nothing to draw"),
        (lambda: plots.similarity_bars({}), "nothing to draw"),
        (
            lambda: plots.similarity_over_layers({"8": {"a": 1.0}, "4": {"b": 1.0}}),
            "'4' has other layers than '8'",
        ),
    ],
)
def test_empty_or_mixed_measurements_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
