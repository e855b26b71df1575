"""Laws of the simulated cluster, and of what work costs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("simpy")

from gpt2rt.errors import BadData, InvalidSetting
from gpt2rt_bench.scaling.__main__ import main
from gpt2rt_bench.scaling.costs import CorpusCost, ServingCost
from gpt2rt_bench.scaling.measured import MeasuredScaling
from gpt2rt_bench.scaling.prediction import calibrated, predicted
from gpt2rt_bench.scaling.simulation import Cluster, simulate

NAN = float("nan")
IDEAL = Cluster(actors=1, cores=1, rate=100.0)


def cluster(actors: int, **others: float) -> Cluster:
    """As many cores as actors."""
    return replace(IDEAL, actors=actors, cores=actors, **others)  # type: ignore[arg-type]


def seconds(made: Cluster, parts: list[float], kills: tuple[float, ...] = ()) -> float:
    return simulate(made, parts, kills).seconds


part_sizes = st.lists(st.floats(1, 1e4), min_size=1, max_size=20)
few = settings(max_examples=30)


@few
@given(part_sizes)
def test_one_actor_takes_the_sum_of_all(parts: list[float]) -> None:
    assert seconds(IDEAL, parts) == pytest.approx(sum(parts) / 100)
    one = replace(IDEAL, opening=3.0, start=2.0)
    assert seconds(one, parts) == pytest.approx(5 + sum(parts) / 100)


@pytest.mark.parametrize("actors", [2, 4, 8, 16])
def test_twice_the_actors_halve_the_time(actors: int) -> None:
    parts = [100.0] * 64
    assert seconds(cluster(actors), parts) == pytest.approx(64 / actors)


def test_until_the_writer_is_the_limit() -> None:
    """It takes 0.1 s for a part, which an actor makes in 1: ten actors keep it busy."""
    parts = [100.0] * 400
    took = {n: seconds(cluster(n, write=0.1), parts) for n in (1, 2, 4, 8, 10, 20, 40)}
    for n in (1, 2, 4):
        assert took[2 * n] == pytest.approx(took[n] / 2, rel=0.02)
    assert took[20] == pytest.approx(400 * 0.1, rel=0.05)
    assert took[40] == pytest.approx(took[20], rel=0.05)


def test_more_actors_than_cores_gain_nothing() -> None:
    parts = [100.0] * 64
    two = replace(IDEAL, actors=2, cores=2)
    for actors in (4, 8):
        assert seconds(replace(two, actors=actors), parts) == pytest.approx(seconds(two, parts))


def test_more_actors_than_cores_start_one_after_another() -> None:
    made = replace(IDEAL, actors=8, cores=2, start=3.0)
    assert seconds(made, [100.0] * 64) == pytest.approx(8 * 3 / 2 + 32, rel=0.1)


def test_cores_that_disturb_each_other() -> None:
    parts = [100.0] * 64
    crowded = replace(IDEAL, actors=2, cores=2, crowded=0.8)
    assert seconds(crowded, parts) == pytest.approx(32 / 0.8)
    alone = replace(crowded, actors=1)
    assert seconds(alone, parts) == pytest.approx(64)


@few
@given(part_sizes, st.integers(1, 8), st.integers(1, 8))
def test_no_time_is_less_than_the_work_takes(parts: list[float], actors: int, cores: int) -> None:
    made = replace(IDEAL, actors=actors, cores=cores, read=0.01, write=0.02)
    least = max(sum(parts) / 100 / min(actors, cores), 0.02 * len(parts), max(parts) / 100)
    assert seconds(made, parts) >= least * (1 - 1e-9)


@few
@given(part_sizes, st.integers(1, 6), st.lists(st.floats(0, 200), max_size=20), st.booleans())
def test_no_part_is_lost_and_none_is_written_twice(
    parts: list[float], actors: int, kills: list[float], shared: bool
) -> None:
    made = replace(
        IDEAL,
        actors=actors,
        cores=2,
        start=0.5,
        detection=1.0,
        read=0.01,
        write=0.01,
        shared=shared,
    )
    course = simulate(made, parts, kills)
    assert course.written == dict.fromkeys(range(len(parts)), 1)
    assert course.computed >= sum(parts) / 100


def test_a_kill_costs_at_most_its_part_and_a_start() -> None:
    made = replace(IDEAL, opening=1.0, start=2.0, detection=3.0)
    parts = [100.0] * 10
    for moment in (1.5, 3.5, 7.25, 12.999):
        delay = seconds(made, parts, (moment,)) - seconds(made, parts)
        assert 0 < delay <= 3 + 2 + 1 + 1e-9


def test_nothing_to_do() -> None:
    assert simulate(IDEAL, []).written == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"actors": 0},
        {"cores": 0},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"crowded": 1.5},
        {"start": -1.0},
    ],
)
def test_what_means_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting):
        replace(IDEAL, **wrong)  # type: ignore[arg-type]


# ---- beside measurements

# A machine of two cores that makes 100 tokens a second on one and 180 on both, where a job has
# 4 seconds of Ray's and a model 1 second of a core.
MEASURED = MeasuredScaling(
    machine="two cores",
    cores=2,
    model="tiny",
    command="gpt2rt score",
    tokens=36_000,
    parts=60,
    plain={1: (360.0, 361.0, 359.0), 2: (200.0,)},
    empty=(5.0,),
    start=(1.0,),
    actors={1: (365.0,), 2: (206.0,), 4: (207.0,), 8: (210.0,)},
)


def test_nothing_of_the_runs_is_fitted() -> None:
    other = replace(MEASURED, actors=dict.fromkeys((1, 2, 4, 8), (1.0,)))
    for n in (1, 8):
        assert calibrated(MEASURED, n) == calibrated(other, n)


def test_a_prediction_of_such_a_machine() -> None:
    found = predicted(MEASURED, (1, 2, 4, 8))
    assert found[1] == pytest.approx(5 + 360)
    assert found[2] == pytest.approx(5 + 200, rel=0.01)
    assert found[8] == pytest.approx(4 + 8 / 2 / 0.9 + 200, rel=0.02)


def test_a_measurement_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(MEASURED.to_json())
    assert MeasuredScaling.read(file) == MEASURED


@pytest.mark.parametrize(
    "changes",
    [
        {"plain": {"1": [1.0]}},
        {"actors": {"one": [1.0]}},
        {"actors": []},
        {"empty": []},
        {"start": [-1.0]},
        {"tokens": None, "actors": {"1": ["soon"]}},
    ],
)
def test_what_is_no_measurement(tmp_path: Path, changes: dict[str, object]) -> None:
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({**asdict(MEASURED), **changes}))
    with pytest.raises(BadData, match=r"measured\.json"):
        MeasuredScaling.read(file)
    file.write_text("[]")
    with pytest.raises(BadData):
        MeasuredScaling.read(file)


def test_both_are_printed_side_by_side_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "measured.json", tmp_path / "scaling.png"
    file.write_text(MEASURED.to_json())
    assert main(["compare", str(file), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    rows = [row.split("|") for row in printed.splitlines() if row.startswith("| ")]
    assert [row[1].strip() for row in rows] == ["actors", "1", "2", "4", "8"]
    assert [row[2].strip() for row in rows[1:]] == ["365.00", "206.00", "207.00", "210.00"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["compare", str(file), "--plot", str(tmp_path / "a.txt")]) == 1
    assert main(["compare", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 2


# ---- what it costs


def test_a_corpus_is_its_tokens_over_its_rate() -> None:
    cost = CorpusCost(tokens=1e12, rate=1000, days=7, start=0)
    assert cost.hours == pytest.approx(1e9 / 3600)
    assert cost.workers * 7 * 24 * 3600 * 1000 >= 1e12
    assert (cost.workers - 1) * 7 * 24 * 3600 * 1000 < 1e12
    assert replace(cost, days=14).workers == pytest.approx(cost.workers / 2, abs=1)


def test_at_the_limit_the_writer_writes_all_that_workers_make() -> None:
    cost = CorpusCost(tokens=1e12, rate=1000, bytes_out=20, bandwidth=1e9)
    assert cost.most_workers * cost.rate * cost.bytes_out == pytest.approx(1e9)
    assert cost.least_days * 24 * 3600 * 1e9 == pytest.approx(1e12 * 20)


def test_requests_are_tokens_over_what_replicas_pass_on() -> None:
    plain = ServingCost(requests=1000, length=64, rate=640, full=1.0)
    assert plain.replicas == 100
    assert replace(plain, full=0.5).replicas == 200
    # Two cores that compute 1/640 s for a token and pass it on in as long again.
    assert replace(plain, passing=2 / 640).replicas == 200
    # A GPU is not slowed by a core beside it, until that is the limit.
    gpu = replace(plain, cores=0, own=1 / 1000, passing=0.0)
    assert gpu.replicas == 100
    assert replace(gpu, passing=1 / 1000).replicas == 128
    assert replace(plain, proxy=1e-3).proxy_cores == pytest.approx(64)


def test_costs_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["costs", "--tokens", "1e9", "--rate", "12345"]) == 0
    printed = capsys.readouterr().out
    assert "12,345" in printed
    assert main(["costs", "--days", "0"]) == 1


def test_the_page_has_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/scaling.md").read_text("utf-8")
    shown = [cells(line) for line in page.splitlines() if line.startswith("| ")]
    assert main(["costs"]) == 0
    printed = [cells(line) for line in capsys.readouterr().out.splitlines() if line[:2] == "| "]
    rows = [row[:-1] for row in printed if row[-1] != "source"]  # sources are in the text
    assert len(rows) == 7
    bare = [[re.sub(r"^([\d,]+) (cores|GPUs)$", r"\1", cell) for cell in row] for row in shown]
    assert [row for row in rows if row not in bare] == []


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
