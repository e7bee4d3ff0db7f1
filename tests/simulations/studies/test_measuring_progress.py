"""What a study shows of records being measured, in another process."""

import io

from core.console import PlainProgress
from simulations.studies.running import MEASURING, Runner
from simulations.studies.study_file import Study


def test_the_last_word_of_a_baselines_log_is_what_is_told(tmp_path):
    told, log = [], tmp_path / "arm.log"
    runner = Runner(
        Study.of_defaults("compare"), tmp_path, [], lambda kind: None, lambda kind, name: None,
        lambda done, total: told.append((done, total)),
    )  # fmt: skip
    runner._tell_measured(log)
    assert told == []
    said, now = io.StringIO(), iter(range(0, 10**6, 7))
    # Seven seconds pass between any two records.
    progress = PlainProgress(said, clock=lambda: next(now))
    progress.advance(progress.add_task("something else", total=4), 4)
    task = progress.add_task(MEASURING, total=21_799)
    for done in (1_000, 4_000):
        progress.advance(task, done)
    log.write_text(said.getvalue())
    runner._tell_measured(log)
    # A thousand are no tenth of them, and not yet worth a line; five thousand are two.
    assert told == [(5_000, 21_799)]
