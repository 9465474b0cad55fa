"""benchmarks.overlays: the predictions of several runs side by side."""

import numpy as np
from made_runs import make_run, small_config

from benchmarks import overlays


def test_runs_of_one_name_in_two_folders_have_a_column_each(stacks, tmp_path, monkeypatch):
    config = small_config(data__root=str(stacks), model__depth=1)
    runs = [make_run(tmp_path / name / "seed0", config, 1, calm=True) for name in "ab"]
    drawn = {}
    monkeypatch.setattr(overlays, "side_by_side", lambda columns, window: drawn.update(columns))
    monkeypatch.setattr(overlays, "png", lambda figure: b"")
    overlays.main([*map(str, runs), f"--out={tmp_path / 'overlays.png'}"])
    assert list(drawn) == [str(run) for run in runs]


def test_the_title_of_a_long_name_stays_above_its_panel():
    name = "drive-native-small-bce_dice_cldice-seed0"
    mask = np.zeros((8, 8), np.uint8)
    column = np.zeros((8, 8, 1), np.uint8), mask, mask
    figure = overlays.side_by_side({name: column, "short": column}, window=8)
    figure.canvas.draw()
    title, panel = figure.axes[0].title.get_window_extent(), figure.bbox.width / 2
    assert 0 <= title.x0 and title.x1 <= panel
