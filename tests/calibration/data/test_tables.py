from __future__ import annotations

import io
import os
import pickle
import time

import numpy as np
import pandas as pd
import pytest

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.tables import read_curves

PLAIN = "specimen,time [s],fraction,sigma,T\nB,20,0.4,0.01,300\nA,10,0.1,,310\nB,10,0.2,0.02,300\n"


def read(text: str, **options):
    return read_curves(io.StringIO(text), **options)


def same(first, second) -> bool:
    return (first.x, first.y, first.names) == (second.x, second.y, second.names) and all(
        a.x.tolist() == b.x.tolist() and a.y.tolist() == b.y.tolist() for a, b in zip(first, second, strict=True)
    )


def test_rows_become_sorted_curves_in_order_of_appearance():
    curves = read(PLAIN, sigma="sigma", conditions=["T"])
    assert curves.names == ("B", "A")
    assert (curves.x, curves.y) == (Axis("time", "s"), Axis("fraction", ""))
    assert (curves["B"].x.tolist(), curves["B"].y.tolist()) == ([10, 20], [0.2, 0.4])
    assert curves["B"].sigma.tolist() == [0.02, 0.01]
    assert curves["A"].sigma is None
    assert (curves["A"].conditions, curves["B"].conditions) == ({"T": 310.0}, {"T": 300.0})


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", ";").replace(".", ",").encode(),
        PLAIN.replace(",", "\t").replace(".", ",").encode("utf-8-sig"),
        ("sep=;\n" + PLAIN.replace(",", ";")).encode(),
        ('# measured by "hand, 3 weeks\n\n' + PLAIN + "\n# end\n;;;\n".replace(";", ",")).encode(),
        ('"' + PLAIN.replace(",", '","').replace("\n", '"\n"').removesuffix('"')).encode(),
        PLAIN.replace(",", " , ").encode(),
        PLAIN.replace("\n", ",,\n").encode(),
        PLAIN.replace("0.4", "4e-1").replace("0.1", "+.1").encode(),
    ],
    ids=["bom", "utf16", "windows", "old mac", "semicolons", "tabs", "commas", "tabs and commas", "sep line",
         "comments", "quotes", "spaces", "trailing separators", "exponents"],
)  # fmt: skip
def test_every_common_dialect_reads_to_the_same_curves(tmp_path, content):
    path = tmp_path / "past.csv"
    path.write_bytes(content)
    curves = read_curves(path, sigma="sigma", conditions=["T"])
    assert same(curves, read(PLAIN))
    assert curves["B"].sigma.tolist() == [0.02, 0.01]
    assert same(read_curves(str(path)), curves)
    with path.open("rb") as file:
        assert same(read_curves(file), curves)


def test_latin_1_names_survive(tmp_path):
    path = tmp_path / "past.csv"
    path.write_bytes("specimen,time [µs],fraction\nGöß 5°,1,0.5\n".encode("latin-1"))
    curves = read_curves(path)
    assert curves.names == ("Göß 5°",)
    assert curves.x == Axis("time", "µs")


def test_names_that_look_like_numbers_stay_text():
    assert read("specimen,time,fraction\n001,1,0\n1,1,0\nNA,1,0\n").names == ("001", "1", "NA")


@pytest.mark.parametrize("header", ["time", "time [s]", "time (s)", "time  [ s ]"])
@pytest.mark.parametrize("asked", ["time", "time [s]", "time [sec]"])
def test_a_column_is_found_by_name_and_by_a_unit_that_does_not_contradict(header, asked):
    curves = read(f"specimen,{header},fraction\nA,1,0.5\n", x=asked)
    assert curves.x.name == "time"
    if asked != "time":
        assert curves.x.unit in ("s", "sec")


def test_the_exact_header_wins_and_brackets_that_hold_no_unit_belong_to_the_name():
    text = "specimen,time,time [min],fraction (corrected)\nA,60,1,0.5\n"
    assert read(text, y="fraction (corrected)").x == Axis("time", "")
    curves = read(text, x="time [min]", y="fraction (corrected)")
    assert (curves.x, curves.y) == (Axis("time", "min"), Axis("fraction (corrected)", ""))


def test_one_specimen_without_a_name_is_called_after_its_file(tmp_path):
    path = tmp_path / "steel 42.csv"
    path.write_text("time,fraction\n1,0.1\n2,0.2\n")
    assert read_curves(path, by=None).names == ("steel 42",)
    assert read_curves(pd.read_csv(path), by=None).names == ("table",)


def test_declared_replicates_are_kept():
    text = "specimen,time,fraction\nA,2,0.1\nA,1,0.0\nA,2,0.1\n"
    assert read(text, replicates=True)["A"].x.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "table is empty; expected a header"),
        ("\n\n# nothing\n", {}, "table is empty"),
        ("specimen,time,fraction\n", {}, "no rows below the header"),
        ("specimen,time,fraction\n#1,1,0.5\n", {}, r"no rows below the header \(1 lines start with # and were skipped"),
        ("# time,fraction\n1,0.5\n", {}, "row 2: numbers where the columns' names should be; add a header without #"),
        ("specimen time fraction\nA 1 0.5\n", {}, "row 1: 'specimen time fraction' is the only column; separate"),
        ("specimen,tme [s],fraction\nA,1,0.5\n", {}, "no column 'time'; the table has 'specimen', 'tme .s.', 'fraction'"
                                                     "; did you mean 'tme .s.'?"),
        ("specimen,Time,fraction\nA,1,0.5\n", {}, "did you mean 'Time'?"),
        ("alloy,time,fraction\nA,1,0.5\n", {}, "no column 'specimen'; .*; pass by=None if"),
        ("Specimen,time,fraction\nA,1,0.5\n", {}, r"did you mean 'Specimen'\? pass by=None if"),
        ("specimen,time,fraction\nA,1,0.5\n", {"y": "time"}, "x and y are both column 'time'; name two"),
        ("specimen,time [min],fraction\nA,1,0.5\n", {"x": "time [s]"},
         "no column 'time .s.', but 'time .min.'; ask for 'time', then convert"),
        ("specimen,time [s],time [min],fraction\nA,1,1,0.5\n", {},
         r"several columns answer to 'time': 'time .s.' \(column 2\); 'time .min.' \(column 3\)"),
        ("specimen,time,time,fraction\nA,1,1,0.5\n", {}, r"'time' \(column 2\); 'time' \(column 3\)"),
        ("specimen,time,fraction\nA,1,0.5\n", {"sigma": "sd"}, "no column 'sd'"),
        ("specimen,time,fraction\nA,1,0.5\n", {"conditions": ["T"]}, "no column 'T'"),
        ("specimen,time,fraction\n# c\n\nA,1,0.5\nA,2,abc\n", {}, "row 5, column 'fraction': 'abc' is not a number"),
        ("specimen,time,fraction\nA,1_000,0.5\n", {}, "row 2, column 'time': '1_000' is not a number"),
        ("specimen,time,fraction\nA,1,50%\n", {}, "'50%' is not a number"),
        ("specimen,time,fraction\nA,1,0.5\nA,2,\n", {}, "row 3, column 'fraction': the value is missing; fill it in"),
        ("specimen,time,fraction\nA,1,0.5\nA,2\n", {}, "row 3, column 'fraction': the value is missing"),
        ("specimen,time,fraction\nA,NaN,0.5\n", {}, "row 2, column 'time': the value is missing"),
        ("specimen,time,fraction\n#N/A,1,0.5\n", {}, None),
        ("specimen,time,fraction\nA,1,-inf\n", {}, "row 2, column 'fraction': -inf is infinite"),
        ("specimen,time,fraction\nA,1,1e999\n", {}, "row 2, column 'fraction': 1e999 is infinite"),
        ("specimen,time,fraction\n ,1,0.5\n", {}, "row 2, column 'specimen': the name is blank"),
        ("specimen,time,fraction,s\nA,1,0.5,0\n", {"sigma": "s"}, "row 2, column 's': sigma is 0; it must be positive"),
        ("specimen,time,fraction,s\nA,1,0.5,x\n", {"sigma": "s"}, "row 2, column 's': 'x' is not a number"),
        ("specimen,time,fraction,s\nA,1,0.5,inf\n", {"sigma": "s"}, "row 2, column 's': inf is infinite"),
        ("specimen,time,y [mm],s [cm]\nA,1,0.5,1\n", {"y": "y", "sigma": "s"}, "sigma is in cm, y in mm"),
        ("specimen,time,fraction,T\nA,1,0.5,400\nB,1,0.5,7\nA,2,0.6,410\n", {"conditions": ["T"]},
         "row 4, column 'T': 410, but 400 in row 2 of the same specimen 'A'"),
        ("specimen,time,fraction,T\nA,1,0.5,400\nB,1,0.5,\n", {"conditions": ["T"]},
         "row 3, column 'T': the value is missing"),
        ("specimen,time,fraction\nA,1,0.5\nB,1,0.5\nA,1,0.6\n", {},
         "rows 2 and 4: specimen 'A' has two readings at time = 1; average them"),
        ("specimen,time,fraction\nA,1,0.5\nA,2,0.6\nA,1,0.5\n", {},
         "rows 2 and 4: specimen 'A' has two readings of 0.5 at time = 1; delete one"),
        ("specimen;time;fraction\nA;1,5;0.5\n", {},
         "row 2, column 'time': '1,5' has a comma, but '0.5' in row 2 has a point"),
        ("specimen;time;fraction\nA;1.000,5;0,5\n", {}, "'1.000,5' is not a number"),
        ("specimen,time,fraction\nA,1,5,0,5\n", {}, "row 2: 5 cells, but the header has 3; .* by semicolons"),
        ('specimen,time,fraction\nA,1,0.5\n"A,2,0.6\n', {}, "row 3: .*; check the quotation marks"),
        ("specimen,time,fraction\nspecimen,time,fraction\n", {}, "row 2, column 'time': 'time' is not a number"),
        ("specimen,time,fraction\nA,2024-01-01,1\n", {}, "'2024-01-01' is not a number"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_by_row_and_column(text, options, said):
    if said is None:
        assert read(text, **options).names == ("#N/A",)
        return
    with pytest.raises(ValueError, match=said) as error:
        read(text, **options)
    assert type(error.value) is ValueError
    assert error.value.__cause__ is None


def test_a_file_that_is_not_there_is_said_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*past\.csv \(looked in .*\); check the path"):
        read_curves(tmp_path / "past.csv")


def test_a_directory_is_not_a_table(tmp_path):
    with pytest.raises(ValueError, match="is a directory"):
        read_curves(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04\x14\x00\x06\x00", "an Excel workbook or another zip archive; save the table as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b"specimen,time\x00,fraction\n", "not a text file"),
        (bytes(range(256)), "not a text file"),
    ],
)
def test_binary_files_are_refused_by_kind(tmp_path, content, said):
    path = tmp_path / "past.xlsx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_curves(path)


def test_a_pickle_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "past.pkl"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a text file"):
        read_curves(path)
    assert not (tmp_path / "sprung").exists()


def test_the_text_of_a_table_is_not_taken_for_a_path():
    with pytest.raises(ValueError, match=r"pass io\.StringIO"):
        read_curves(PLAIN)


def test_other_sources_and_conditions_as_one_text_are_type_errors():
    with pytest.raises(TypeError, match="takes a path, an open file or a DataFrame; got list"):
        read_curves([[1, 2]])
    with pytest.raises(TypeError, match=r"pass \['T'\]"):
        read(PLAIN, conditions="T")


def test_a_frame_is_read_like_its_file_and_errors_name_its_index():
    frame = pd.read_csv(io.StringIO(PLAIN))
    before = frame.copy()
    curves = read_curves(frame, sigma="sigma", conditions=["T"])
    assert same(curves, read(PLAIN))
    pd.testing.assert_frame_equal(frame, before)
    frame.loc[1, "fraction"] = np.nan
    with pytest.raises(ValueError, match="row 1, column 'fraction': the value is missing"):
        read_curves(frame)
    frame["fraction"] = ["0.1", "much", "0.3"]
    frame.index = ["a", "b", "c"]
    with pytest.raises(ValueError, match="row b, column 'fraction': 'much' is not a number"):
        read_curves(frame)
    with pytest.raises(ValueError, match="no rows below the header"):
        read_curves(frame[:0])


@pytest.mark.parametrize("kind", ["Float64", "float32", "Int64", "object"])
def test_frames_of_any_number_type_are_read(kind):
    frame = pd.DataFrame({"specimen": [1, 1], "time": pd.array([1, 2], dtype=kind), "fraction": [0.1, 0.2]})
    curves = read_curves(frame)
    assert curves.names == ("1",)
    assert curves[0].x.tolist() == [1, 2]
    frame["time"] = pd.Series([1, None], dtype=kind)
    with pytest.raises(ValueError, match="row 1, column 'time': the value is missing"):
        read_curves(frame)


def test_a_missing_name_in_a_frame_is_blank():
    with pytest.raises(ValueError, match="row 1, column 'specimen': the name is blank"):
        read_curves(pd.DataFrame({"specimen": ["A", None], "time": [1, 2], "fraction": [0, 1]}))


def test_three_hundred_thousand_rows_are_read_in_a_few_seconds(tmp_path):
    values = np.random.default_rng(0).random(300_000).round(4).tolist()
    path = tmp_path / "past.csv"
    rows = (f"A{i // 30},{i % 30 * 1.5},{value}\n" for i, value in enumerate(values))
    path.write_text("specimen,time [s],fraction\n" + "".join(rows))
    start = time.process_time()
    curves = read_curves(path)
    assert time.process_time() - start < 5.0  # 1.6 s on an idle core
    assert (len(curves), sum(map(len, curves))) == (10_000, 300_000)


GRADED = "specimen,time,fraction,grade\nA,1,0.5,316L\nA,2,0.6,316L\nB,1,0.5, 304  L\n"


def test_a_column_of_text_is_a_condition():
    curves = read(GRADED, conditions=["grade"])
    assert [curve.conditions for curve in curves] == [{"grade": "316L"}, {"grade": "304 L"}]


def test_a_column_of_numbers_stays_one_whatever_its_decimal_sign():
    curves = read("specimen;time;fraction;T\nA;1;0,5;400,5\nB;1;0,5;7\n", conditions=["T"])
    assert [curve.conditions for curve in curves] == [{"T": 400.5}, {"T": 7.0}]


@pytest.mark.parametrize("odd, said", [
    ("304", "row 3, column 'grade': '304' is a number, but '316L' in row 2 is text; a condition is"),
    ("3,5", "row 3, column 'grade': '3,5' is a number, but '316L' in row 2 is text"),
    ("inf", "row 3, column 'grade': 'inf' is a number, but '316L' in row 2 is text"),
    ("", "row 3, column 'grade': the value is missing; fill it in"),
    ("NaN", "row 3, column 'grade': the value is missing; fill it in"),
    ("N/A", "row 3, column 'grade': the value is missing; fill it in"),
])  # fmt: skip
def test_a_condition_that_mixes_text_with_others_is_named(odd, said):
    with pytest.raises(ValueError, match=said):
        read(f"specimen;time;fraction;grade\nA;1;0.5;316L\nB;1;0.5;{odd}\n", conditions=["grade"])
    frame = pd.DataFrame({"specimen": ["A", "B"], "time": [1, 1], "fraction": [0.5, 0.5], "grade": ["316L", odd]})
    with pytest.raises(ValueError, match=said.replace("row 3", "row 1").replace("row 2", "row 0")):
        read_curves(frame, conditions=["grade"])


@pytest.mark.parametrize("cells, said", [
    (["316L", None], "row 1, column 'grade': the value is missing"),
    (["316L", np.nan], "row 1, column 'grade': the value is missing"),
    (["316L", 304], "row 1, column 'grade': '304' is a number, but '316L' in row 0 is text"),
    ([420.0, "hot"], "row 0, column 'grade': '420.0' is a number, but 'hot' in row 1 is text"),
    ([420.0, np.nan], "row 1, column 'grade': the value is missing"),
    (pd.Categorical(["316L", None]), "row 1, column 'grade': the value is missing"),
])  # fmt: skip
def test_a_frame_with_an_odd_cell_among_the_conditions_names_it(cells, said):
    frame = pd.DataFrame({"specimen": ["A", "B"], "time": [1, 1], "fraction": [0.5, 0.5], "grade": cells})
    with pytest.raises(ValueError, match=said):
        read_curves(frame, conditions=["grade"])


def test_a_category_is_text_even_where_it_looks_like_numbers():
    frame = pd.DataFrame({"specimen": ["A", "B"], "time": [1, 1], "fraction": [0.5, 0.5], "grade": [304, 316]})
    assert read_curves(frame, conditions=["grade"])["A"].conditions == {"grade": 304.0}
    frame["grade"] = frame["grade"].astype("category")
    assert read_curves(frame, conditions=["grade"])["A"].conditions == {"grade": "304"}


def test_sodium_is_not_a_missing_value():
    curves = read("specimen,time,fraction,cation\nA,1,0.5,Na\nB,1,0.5,K\n", conditions=["cation"])
    assert curves["A"].conditions == {"cation": "Na"}


def test_text_that_changes_within_a_specimen_is_named():
    said = "row 3, column 'grade': 304L, but 316L in row 2 of the same specimen 'A'"
    with pytest.raises(ValueError, match=said):
        read("specimen,time,fraction,grade\nA,1,0.5,316L\nA,2,0.5,304L\n", conditions=["grade"])


def test_curves_with_text_survive_their_frame():
    curves = read(GRADED.replace("316L", "316").replace("304  L", "x 304"), conditions=()).to_frame()
    curves["grade"] = pd.Categorical(["316", "316", "304"])
    once = read_curves(curves, conditions=["grade"])
    again = read_curves(once.to_frame(), conditions=once.conditions)
    assert [c.conditions for c in again] == [c.conditions for c in once] == [{"grade": "316"}, {"grade": "304"}]
