"""`tickwatch replay`: one output row per input row, in input order, with the scores of the serving code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from service.alerts import CONTRIBUTIONS, in_words, reasons
from service.autoencoder import load
from service.errors import TickwatchError
from service.judge import PHASES
from service.logs import DeadLetter
from service.replay import SCHEMA, replay
from service.scorer import Scorer
from service.ticks import NUMBERS, Ticks, encode
from tests.samples import CELLS, random_ticks, shipped, with_numbers

TICKS = random_ticks(2500)


def table(ticks: Ticks) -> pa.Table:
    columns = {"stream": ticks.stream, "ts": ticks.ts} | {n: getattr(ticks, n) for n in NUMBERS}
    return pa.table(columns)


def replayed(files: list[Path], tmp_path: Path, cell: str = "gru", explain: bool = False) -> tuple[pa.Table, list[str]]:
    output, reasons = tmp_path / "out.parquet", list[str]()

    def rejected(path: Path, letter: DeadLetter) -> None:
        reasons.append(f"{path.name}:{letter.offset} {letter.reason}")

    scorer = Scorer(load(shipped(cell)), 20)
    replay(files, scorer, output, explain=explain, progress=lambda n: None, rejected=rejected)
    return pq.read_table(output), reasons


@pytest.mark.parametrize("cell", CELLS)
def test_scores_are_those_of_the_serving_code_in_input_order(tmp_path: Path, cell: str) -> None:
    pq.write_table(table(TICKS), tmp_path / "in.parquet")
    found, reasons = replayed([tmp_path / "in.parquet"], tmp_path, cell)
    scored = Scorer(load(shipped(cell)), 20).score(TICKS).verdicts
    assert found.schema == SCHEMA
    assert found["stream"].to_pylist() == TICKS.stream
    assert np.array_equal(found["ts"].to_numpy(), TICKS.ts)
    assert np.array_equal(found["score"].to_numpy(), scored.score)
    assert np.array_equal(found["alert"].to_numpy(), scored.alert)
    assert found["phase"].to_pylist() == [PHASES[phase] for phase in scored.phase]
    assert found["rejected"].null_count == len(TICKS)
    assert reasons == []


def test_parquet_csv_and_json_lines_give_the_same_bits(tmp_path: Path) -> None:
    pq.write_table(table(TICKS), tmp_path / "a.parquet")
    pa.csv.write_csv(table(TICKS), tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(encode(TICKS)))
    found = [replayed([tmp_path / f"a.{kind}"], tmp_path)[0] for kind in ("parquet", "csv", "jsonl")]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_rows_that_cannot_be_read_keep_their_place_without_a_score(tmp_path: Path) -> None:
    lines = encode(TICKS)[:50]
    lines[3], lines[49] = b"junk", b'{"ts": 1}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found, reasons = replayed([tmp_path / "a.jsonl"], tmp_path, explain=True)
    assert len(found) == 50
    assert [i for i, s in enumerate(found["score"].to_pylist()) if s is None] == [3, 49]
    assert found["alert"].null_count == found["threshold"].null_count == 0
    assert [r.split()[0] for r in reasons] == ["a.jsonl:3", "a.jsonl:49"]
    assert found["rejected"].drop_null().to_pylist() == [r.partition(" ")[2] for r in reasons]
    assert found["phase"].take([3, 49]).to_pylist() == ["none", "none"]
    kept = TICKS.take(np.delete(np.arange(50), [3, 49]))
    expected = Scorer(load(shipped("gru")), 20).score(kept).verdicts.score
    assert np.array_equal(found["score"].drop_null().to_numpy(), expected)


def test_every_tick_that_reaches_the_threshold_says_why(tmp_path: Path) -> None:
    wild = with_numbers(TICKS, 900, price=TICKS.price[900] * 10)
    pq.write_table(table(wild), tmp_path / "in.parquet")
    found, _ = replayed([tmp_path / "in.parquet"], tmp_path)
    reached = found["score"].to_numpy() >= found["threshold"].to_numpy()
    said = found["reasons"].to_pylist()
    assert [words is not None for words in said] == reached.tolist()
    scored = Scorer(load(shipped("gru")), 20).score(wild)
    assert said[900] == in_words(reasons(scored, 900))
    assert "price up " in said[900]


def test_explanations_have_a_column_per_feature(tmp_path: Path) -> None:
    pq.write_table(table(TICKS), tmp_path / "in.parquet")
    found, _ = replayed([tmp_path / "in.parquet"], tmp_path, explain=True)
    assert found.schema.names[len(SCHEMA) :] == [f"explain_{name}" for name in CONTRIBUTIONS]
    assert found["explain_return"].null_count == 0


def test_a_file_without_stream_or_optional_columns_is_one_stream_named_after_it(tmp_path: Path) -> None:
    bare = pa.table({"ts": TICKS.ts, "price": TICKS.price})
    pq.write_table(bare, tmp_path / "EURUSD.parquet")
    found, _ = replayed([tmp_path / "EURUSD.parquet"], tmp_path)
    assert set(found["stream"].to_pylist()) == {"EURUSD"}
    assert found["score"].null_count == 0


def test_several_files_go_on_with_the_same_streams(tmp_path: Path) -> None:
    for name, part in (("a", slice(0, 1000)), ("b", slice(1000, None))):
        pq.write_table(
            table(TICKS).slice(part.start, (part.stop or len(TICKS)) - part.start), tmp_path / f"{name}.parquet"
        )
    found, _ = replayed([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path)
    assert np.array_equal(found["score"].to_numpy(), Scorer(load(shipped("gru")), 20).score(TICKS).verdicts.score)


def test_a_failed_replay_leaves_no_half_written_output(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(TickwatchError, match=r"bad\.parquet"):
        replayed([tmp_path / "bad.parquet"], tmp_path)
    with pytest.raises(TickwatchError, match="--output"):
        replayed([tmp_path / "bad.parquet"], tmp_path / "nowhere")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.parquet"]
