"""Progress of a long stage: time left, a bar in a terminal, a line now and then elsewhere."""

import io
import time

import pytest

from ppo_pipeline.observe.counter import Counter, spoken
from ppo_pipeline.observe.progress import progress


def test_time_left_is_what_the_rest_takes_at_the_mean_speed_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    counter = Counter(8, "update r003")
    now[0] += 5
    assert counter.seconds_left() is None
    counter.skip(2)  # by an earlier attempt
    assert counter.seconds_left() is None
    now[0] += 85
    counter.advance(1, 50)  # 90 s for one; five to go
    assert counter.seconds_left() == 450
    now[0] += 30
    assert counter.seconds_left() == 420
    now[0] += 1000
    assert counter.seconds_left() == 0
    counter.advance(5)
    assert (counter.done, counter.seconds_left(), counter.tokens) == (8, 0, 50)


def test_what_is_under_way_together_counts_as_half_done_in_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 sequences of one batch that end all at nearly the same time: one early end is not 1 of 64 of the time."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    counter = Counter(64, "rollout r001", "samples", at_once=64)
    now[0] = 30
    assert counter.seconds_left() is None
    counter.advance(1, 240)
    assert counter.seconds_left() == pytest.approx(30 * 31.5 / 32.5)  # 1 and half of 63 done, half of 63 to go
    now[0] = 40
    assert counter.seconds_left() == pytest.approx(40 * 31.5 / 32.5)  # with nothing ended it is no nearer
    many = Counter(1000, "rollout r001", "samples", at_once=100)
    now[0] = 240
    many.advance(150)
    assert many.seconds_left() == pytest.approx(200 * (850 - 50) / (150 + 50))


def test_a_log_gets_a_line_every_half_minute_and_none_from_a_short_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with progress(100, "rollout r003", "samples") as counter:
        for _ in range(100):
            now[0] += 0.2
            counter.advance(1, 5)
    assert capsys.readouterr() == ("", "")
    now[0] = 0.0
    with progress(200, "rollout r003", "samples") as counter:
        for _ in range(200):
            now[0] += 1.0
            counter.advance(1, 5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0] == "rollout r003: 15 % of 200 samples, 5 tokens/s, 2.8 min left"
    assert lines[5] == "rollout r003: 90 % of 200 samples, 5 tokens/s, 20 s left"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (150, "2.5 min"), (6000, "1.7 h")])
def test_times_are_told_in_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_a_terminal_gets_a_bar_with_tokens_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    for name, value in (("TERM", "xterm"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CI")
    monkeypatch.setattr("sys.stderr", terminal)
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with progress(4, "update r003", "samples in 2 epochs") as counter:
        for _ in range(3):
            now[0] += 5.0
            counter.advance(1, 10)
        now[0] += 2.0
    shown = terminal.getvalue()
    assert "update r003" in shown and "3/4" in shown and "samples in 2 epochs" in shown
    assert "2 tokens/s" in shown and "3 s left" in shown
