"""A run's records become a row for each validation."""

from benchmarks.accelerator.training import table_of


def record(step, split, **values):
    return {"step": step, "epoch": step / 6, "split": split, "loss": 1 / step} | values


def test_each_validation_has_a_row_with_the_training_before_it():
    history = [
        record(6, "train", images_per_second=10.0),
        record(12, "train", images_per_second=20.0),
        record(12, "validation"),
        record(18, "train"),
        record(18, "validation"),
        record(18, "test"),
    ]
    assert table_of(history) == [
        {
            "epoch": 2.0,
            "step": 12,
            "train_loss": 1 / 12,
            "validation_loss": 1 / 12,
            "images_per_second": 20.0,
        },
        {
            "epoch": 3.0,
            "step": 18,
            "train_loss": 1 / 18,
            "validation_loss": 1 / 18,
            "images_per_second": None,
        },
    ]


def test_an_interrupted_run_has_a_row_for_its_last_steps():
    (row,) = table_of([record(6, "train", images_per_second=10.0)])
    assert (row["step"], row["validation_loss"], row["images_per_second"]) == (6, None, 10.0)
    assert table_of([]) == []
