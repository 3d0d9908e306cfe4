"""The paper's rows scaled down: what distinguishes them is kept, nothing else is touched."""

import pytest

from faq_keras.cli.experiments import recipe_of
from faq_keras.converters.zoo import ZOO
from faq_keras.reproduction import published
from faq_keras.reproduction.experiments import FULL, PLANS
from faq_keras.reproduction.scales import SCALES, STANDARD, config_named


def scaled(name, scale="small"):
    suffix = "" if name == "standard" else f"_{name}"
    return SCALES[scale].scaled(config_named(f"{STANDARD}{suffix}"))


@pytest.mark.parametrize("name", published.TABLE_2)
def test_epochs_batches_and_decay_keep_their_ratio_to_the_standard_row(name):
    suffix = "" if name == "standard" else f"_{name}"
    paper, small = recipe_of(config_named(f"{STANDARD}{suffix}")), recipe_of(scaled(name))
    standard = recipe_of(scaled("standard"))
    assert small.epochs == max(1, round(standard.epochs * paper.epochs / 110))
    assert small.batch_size == standard.batch_size * paper.batch_size // 256
    assert small.weight_decay == paper.weight_decay
    assert small.virtual_batches(0) == 1
    last = [recipe.virtual_batches(recipe.epochs - 0.01) for recipe in (paper, small)]
    assert last[0] == last[1]


def test_the_standard_row_is_the_small_configuration_with_other_epochs():
    small = config_named("fashion_mnist_w4a4")
    row = scaled("standard")
    for name in ("model", "bits", "recipe", "batch_size", "learning_rate", "final_learning_rate"):
        assert row[name] == small[name]
    assert row.data == small.data


def test_steps_start_in_the_ratio_of_the_papers_rates():
    step, standard = recipe_of(scaled("step")), recipe_of(scaled("standard"))
    assert step.learning_rate(0) / standard.learning_rate(0) == pytest.approx(1e-3 / 0.0015)
    assert step.learning_rate(3.99) / step.learning_rate(0) == pytest.approx(1e-3)


def test_not_pretrained_and_not_calibrated_rows():
    random, uncalibrated = scaled("from_scratch"), scaled("uncalibrated")
    assert (random.from_scratch, random.policy.bn_exponent) == (True, "paper")
    assert recipe_of(random).learning_rate(0) == 0.1
    assert (uncalibrated.from_scratch, uncalibrated.calibration_batches) == (False, 0)


@pytest.mark.parametrize("scale", [*SCALES, FULL])
@pytest.mark.parametrize("name", PLANS)
def test_every_plan_has_unique_rows_that_start_from_rows_of_the_plan(name, scale):
    rows = PLANS[name](scale)
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    for row in rows:
        assert row.start is None or names.index(row.start) < names.index(row.name)


def test_table_1_has_every_published_cell():
    rows = {(row.network, row.title): row for row in PLANS["table1"](FULL)}
    cells = {
        (network, f"FAQ {kind.upper()}"): {"top1": figures[0], "top5": figures[1]}
        for network, entry in ZOO.items()
        for kind, figures in entry.published.items()
        if kind != "fp32"
    }
    assert {key: dict(row.published) for key, row in rows.items()} == cells


@pytest.mark.parametrize("scale", ["smoke", FULL])
def test_figure_2_shares_its_runs_with_table_2(scale):
    table = {row.name: row.config for row in PLANS["table2"](scale)}
    for row in PLANS["figure2"](scale):
        assert row.config == table[row.name]


def test_figure_2_on_a_small_task_has_the_papers_total_weight_decay():
    paper, small = (
        {row.config.from_scratch: row.config for row in PLANS["figure2"](scale) if row.shown}
        for scale in (FULL, "small")
    )
    for start in (True, False):
        totals = []
        for config in (paper[start], small[start]):
            course = recipe_of(config)
            updates = course.epochs * (config.data.images[0] // course.batch_size)
            totals.append(updates * course.weight_decay)
        assert totals[0] == pytest.approx(totals[1])


def test_figure_1_differs_in_nothing_but_the_bits():
    rows = [row for row in PLANS["figure1"]("small") if row.shown]
    assert [row.config.bits for row in rows] == [8, 4, 2]
    for row in rows[1:]:
        row.config.bits = 8
        assert row.config == rows[0].config
