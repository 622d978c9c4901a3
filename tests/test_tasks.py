"""Tasks: ways in, looking up, making others. What goes wrong names the row or the task."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bayesmeta.arrays import Flat, check_flat
from bayesmeta.errors import DataError, OptionError, UnknownNameError
from bayesmeta.tasks import Columns, Tasks, split_missing


def frame() -> pd.DataFrame:
    """Three counties of 3, 1 and 2 rows, not adjacent, with row labels that are not positions."""
    return pd.DataFrame(
        {
            "county": ["B", "A", "B", "C", "B", "C"],
            "floor": [0, 1, 1, 0, 0, 1],
            "age": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
            "radon": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "uranium": [0.5, -1.0, 0.5, 2.0, 0.5, 2.0],
            "kind": ["clay", "sand", "clay", "clay", "sand", "clay"],
        },
        index=[10, 11, 12, 13, 14, 15],
    )


def tasks(**changes: Any) -> Tasks:
    arguments = {"task": "county", "x": ["floor", "age"], "y": "radon", "context": "uranium"} | changes
    return Tasks.from_frame(frame(), **arguments)


def random_tasks(seed: int, count: int = 12, largest: int = 7) -> Tasks:
    """Ragged tasks with two inputs, two contexts, and sizes from 0 up."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, largest + 1, count)
    return Tasks.from_lists(
        [rng.normal(size=(n, 2)) for n in sizes],
        [rng.normal(size=n) for n in sizes],
        names=[f"task {i}" for i in range(count)],
        context={"a": rng.normal(size=count), "b": rng.normal(size=(count, 3))},
        allow_empty=True,
    )


def same(a: Tasks, b: Tasks) -> bool:
    return a.fingerprint() == b.fingerprint()


# --- from a frame ---------------------------------------------------------------------------------------


def test_a_frame_gives_tasks_in_order_of_appearance_with_rows_in_the_frames_order() -> None:
    got = tasks()
    assert got.names == ("B", "A", "C")
    assert got.sizes.tolist() == [3, 1, 2]
    assert got.offsets.tolist() == [0, 3, 4, 6]
    assert got.y.tolist() == [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]
    assert got["B"].x.tolist() == [[0.0, 10.0], [1.0, 30.0], [0.0, 50.0]]
    assert got.context["uranium"].tolist() == [0.5, -1.0, 2.0]
    assert got["C"].context["uranium"].item() == 2.0
    assert {got.x.dtype, got.y.dtype, got.context["uranium"].dtype} == {torch.float64}
    assert got.columns == Columns("county", ("floor", "age"), "radon", ("uranium",))
    assert got.n_observations == 6
    assert got.task_index.tolist() == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("x", "shape"),
    [("floor", (3,)), (["floor"], (3, 1)), (None, (3, 0)), ([], (3, 0)), (("floor", "age"), (3, 2))],
)
def test_one_input_column_follows_pandas_rule(x: Any, shape: tuple[int, ...]) -> None:
    assert tasks(x=x)["B"].x.shape == shape


def test_what_the_tasks_hold_is_a_copy() -> None:
    table = frame()
    got = Tasks.from_frame(table, task="county", x="age", y="radon", context="uranium")
    table.loc[:, ["age", "radon", "uranium"]] = -1.0
    assert got.fingerprint() == tasks(x="age").fingerprint()


def test_agrees_with_groupby() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"g": rng.integers(0, 40, 500), "x": rng.normal(size=500), "y": rng.normal(size=500)})
    got = Tasks.from_frame(table, task="g", x="x", y="y")
    groups = dict(list(table.groupby("g", sort=False)))
    assert got.names == tuple(str(name) for name in groups)
    for task, group in zip(got, groups.values(), strict=True):
        assert task.n == len(group)
        np.testing.assert_array_equal(task.x.numpy(), group["x"].to_numpy())
        np.testing.assert_array_equal(task.y.numpy(), group["y"].to_numpy())


def test_integer_labels_become_text_and_integers_stay_positions() -> None:
    got = Tasks.from_frame(pd.DataFrame({"g": [7, 3, 7, 0], "y": [1.0, 2.0, 3.0, 4.0]}), task="g", y="y")
    assert got.names == ("7", "3", "0")
    assert got["7"].y.tolist() == [1.0, 3.0]
    assert got[0].name == "7"


@pytest.mark.parametrize(
    "column",
    [
        pd.array([1, 0, 1, 0, 0, 1], dtype="Int64"),
        pd.array([True, False, True, False, False, True], dtype="boolean"),
        [True, False, True, False, False, True],
        np.array([1, 0, 1, 0, 0, 1], dtype=np.float32),
    ],
    ids=["Int64", "boolean", "bool", "float32"],
)
def test_booleans_and_every_kind_of_number_are_numeric(column: Any) -> None:
    table = frame().assign(floor=column)
    got = Tasks.from_frame(table, task="county", x="floor", y="radon")
    assert got.x.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def test_categorical_task_labels_do_not_bring_tasks_that_have_no_rows() -> None:
    table = frame().assign(county=lambda t: t["county"].astype("category").cat.add_categories("D"))
    assert Tasks.from_frame(table, task="county", y="radon").names == ("B", "A", "C")


@pytest.mark.parametrize(
    ("change", "wanted", "message"),
    [
        ({"x": "flor"}, UnknownNameError, r"x: unknown column 'flor'.*did you mean 'floor'\?"),
        ({"y": "rado"}, UnknownNameError, r"y: unknown column 'rado'.*did you mean 'radon'\?"),
        ({"task": "county "}, UnknownNameError, r"task: unknown column 'county '.*did you mean 'county'\?"),
        ({"context": ["uraniun"]}, UnknownNameError, r"context: unknown column 'uraniun'.*'uranium'\?"),
        ({"x": ["kind"]}, DataError, r"x: column 'kind' is not numeric.*pd\.get_dummies"),
        ({"y": "kind"}, DataError, r"y: column 'kind' is not numeric"),
        ({"context": "kind"}, DataError, r"context: column 'kind' is not numeric"),
        ({"context": "age"}, DataError, r"context: column 'age' varies within task 'B' \(10 and 30\).*in x"),
        ({"x": "radon"}, DataError, r"x: column 'radon' is y as well"),
        ({"x": [1]}, DataError, r"x: got \[1\]; wanted text, names of columns"),
        ({"x": {"age", "floor"}}, DataError, r"x: got .*wanted text, names of columns"),
        ({"y": ["radon"]}, DataError, r"y: got \['radon'\]; wanted the name of one column"),
        ({"task": 0}, DataError, r"task: got 0; wanted the name of one column"),
        ({"task": "radon"}, DataError, r"task: column 'radon' is y as well"),
    ],
)
def test_a_column_that_cannot_be_used_is_named(change: dict[str, Any], wanted: type[Exception], message: str) -> None:
    with pytest.raises(wanted, match=message):
        tasks(**change)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("column", "role"), [("age", "x"), ("radon", "y"), ("uranium", "context")])
def test_a_value_that_is_not_finite_is_named_by_its_row(value: float, column: str, role: str) -> None:
    table = frame()
    table.loc[13, column] = value
    word = "NaN" if np.isnan(value) else "infinite"
    with pytest.raises(DataError, match=rf"{role}: column '{column}' is {word} in row 13 \(1 rows in all\)"):
        Tasks.from_frame(table, task="county", x="age", y="radon", context="uranium")


def test_missing_values_of_nullable_columns_are_seen() -> None:
    table = frame().assign(floor=pd.array([1, None, 1, 0, 0, 1], dtype="Int64"))
    with pytest.raises(DataError, match="x: column 'floor' is NaN in row 11"):
        Tasks.from_frame(table, task="county", x="floor", y="radon")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Categorical(list("uvuvuv")), r"dtype category.*\.cat\.codes"),
        (pd.date_range("2020-01-01", periods=6), r"dtype datetime64.*total_seconds"),
        (["1", "2", "3", "4", "5", "6"], r"pd\.to_numeric\(df\['when'\]\)"),
        ([1 + 2j] * 6, "dtype complex128"),
    ],
    ids=["category", "datetime", "text", "complex"],
)
def test_the_error_says_how_to_encode(column: Any, message: str) -> None:
    table = frame().assign(when=column)
    with pytest.raises(DataError, match=message):
        Tasks.from_frame(table, task="county", x="when", y="radon")


def test_a_row_that_belongs_to_no_task_is_named() -> None:
    table = frame()
    table.loc[[12, 14], "county"] = None
    with pytest.raises(DataError, match=r"task: column 'county' is empty in row 12 \(2 rows in all\)"):
        Tasks.from_frame(table, task="county", y="radon")


def test_labels_that_become_the_same_text_are_named() -> None:
    table = pd.DataFrame({"g": pd.Series([1, "1"], dtype=object), "y": [1.0, 2.0]})
    with pytest.raises(DataError, match="task: '1' appears twice"):
        Tasks.from_frame(table, task="g", y="y")


def test_a_column_that_is_there_twice_is_named() -> None:
    table = pd.concat([frame(), frame()[["age"]]], axis=1)
    with pytest.raises(DataError, match="x: the frame has 2 columns named 'age'"):
        Tasks.from_frame(table, task="county", x="age", y="radon")


def test_no_rows_and_no_frame() -> None:
    with pytest.raises(DataError, match="df has no rows"):
        Tasks.from_frame(frame().iloc[:0], task="county", y="radon")
    with pytest.raises(DataError, match="df: got dict; wanted a pandas DataFrame"):
        Tasks.from_frame({"county": ["A"], "radon": [1.0]}, task="county", y="radon")  # type: ignore[arg-type]


def test_a_context_cannot_have_the_name_of_an_argument_of_the_task() -> None:
    table = frame().rename(columns={"uranium": "phi"})
    with pytest.raises(DataError, match="context: 'phi' cannot be a context's name"):
        Tasks.from_frame(table, task="county", y="radon", context="phi")


# --- rows to adapt on and rows to predict, in one table ---------------------------------------------------


def test_rows_with_an_empty_response_become_the_query() -> None:
    table = frame().assign(radon=[1.0, np.nan, 3.0, np.nan, np.nan, 6.0])
    support, query = split_missing(table, Columns("county", ("age",), "radon", ("uranium",)))
    assert support.names == query.names == ("B", "A", "C")
    assert support.sizes.tolist() == [2, 0, 1]
    assert query.sizes.tolist() == [1, 1, 1]
    assert support.y.tolist() == [1.0, 3.0, 6.0]
    assert query.x.tolist() == [[50.0], [20.0], [40.0]]
    assert query.y.isnan().all()
    assert support.context["uranium"].tolist() == [0.5, -1.0, 2.0]


@pytest.mark.parametrize(("column", "value"), [("age", np.nan), ("radon", np.inf), ("uranium", np.nan)])
def test_only_the_response_may_be_empty(column: str, value: float) -> None:
    table = frame()
    table.loc[11, column] = value
    with pytest.raises(DataError, match=f"column '{column}' is .* in row 11"):
        split_missing(table, Columns("county", ("age",), "radon", ("uranium",)))


# --- from lists and arrays -------------------------------------------------------------------------------


def test_lists_of_anything_array_like() -> None:
    got = Tasks.from_lists(
        [[[1, 2], [3, 4]], np.array([[5.0, 6.0]]), torch.tensor([[7.0, 8.0]], requires_grad=True)],
        [[1, 2], np.array([3], dtype=np.float32), torch.tensor([4])],
        context={"c": [1, 2, 3], "v": torch.eye(3)},
    )
    assert got.names == ("0", "1", "2")
    assert got.x.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    assert got.y.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert got[2].context["v"].tolist() == [0.0, 0.0, 1.0]
    assert not got.x.requires_grad


def test_lists_without_inputs_and_with_vector_observations() -> None:
    got = Tasks.from_lists(None, [np.ones((2, 3)), np.zeros((1, 3))])
    assert got.x.shape == (3, 0)
    assert got[0].y.shape == (2, 3)


def test_an_empty_task_takes_the_shape_of_the_others() -> None:
    got = Tasks.from_lists([[], [[1.0, 2.0]]], [[], [5.0]], allow_empty=True)
    assert got[0].x.shape == (0, 2)
    assert got.sizes.tolist() == [0, 1]
    nothing = Tasks.from_lists([np.zeros((0, 3))] * 2, [[], []], allow_empty=True)
    assert nothing.x.shape == (0, 3)


def test_arrays() -> None:
    x, y = np.arange(12.0).reshape(2, 3, 2), np.arange(6.0).reshape(2, 3)
    got = Tasks.from_arrays(x, y, names=["A", "B"], context={"c": [1.0, 2.0]})
    np.testing.assert_array_equal(got["B"].x.numpy(), x[1])
    np.testing.assert_array_equal(got["B"].y.numpy(), y[1])
    x[:], y[:] = 0, 0
    assert got["B"].y.tolist() == [3.0, 4.0, 5.0]
    assert Tasks.from_arrays(None, torch.ones(2, 3, 4))[1].x.shape == (3, 0)
    assert Tasks.from_arrays(torch.ones(2, 3), torch.ones(2, 3))[0].x.shape == (3,)


@pytest.mark.parametrize(
    ("xs", "ys", "options", "message"),
    [
        (None, [[1.0], []], {}, r"task '1' has no observations; leave it out, or pass allow_empty=True"),
        (None, [[1.0], [2.0, np.nan]], {}, r"y is NaN in row 1 of task '1' \(1 in all\)"),
        ([[1.0], [np.inf]], [[1.0], [2.0]], {}, "x is infinite in row 0 of task '1'"),
        ([[1.0]], [[1.0], [2.0]], {}, "xs: got 1 tasks and ys has 2"),
        ([[1.0], [2.0]], [[1.0], [2.0, 3.0]], {}, r"xs: task '1' has 1 rows of inputs and 2 observations"),
        (None, [["a"], ["b"]], {}, "ys of task '0': got values of type .*; wanted numbers"),
        ([[[1.0], [2.0, 3.0]]], [[1.0, 2.0]], {}, "xs of task '0': its rows have different lengths"),
        (
            [[[1.0]], [[1.0, 2.0]]],
            [[1.0], [2.0]],
            {},
            r"xs: task '1' has rows of shape \(2,\) and task '0' of \(1,\)",
        ),
        (None, [1.0, 2.0], {}, "ys: task '0' is a single number"),
        (None, [], {}, "ys: got no task at all"),
        (None, [[1.0], [2.0]], {"names": ["A"]}, "names: got 1 names; wanted one per task, 2 as in ys"),
        (None, [[1.0], [2.0]], {"names": ["A", "A"]}, "names: 'A' appears twice"),
        (None, [[1.0], [2.0]], {"names": "AB"}, "names: got the text 'AB'"),
        (
            None,
            [[1.0], [2.0]],
            {"context": {"c": [1.0]}},
            r"context\['c'\]: got shape \(1,\).*first axis of 2",
        ),
        (None, [[1.0], [2.0]], {"context": {"c": 1.0}}, r"context\['c'\]: got shape \(\)"),
        (None, [[1.0], [2.0]], {"context": {"c": [1.0, np.nan]}}, r"context\['c'\] is NaN in task '1'"),
        (None, [[1.0], [2.0]], {"context": {"c": ["u", "v"]}}, r"context\['c'\]: got values of type"),
        (None, [[1.0], [2.0]], {"context": {"y": [1.0, 2.0]}}, "context: 'y' cannot be a context's name"),
    ],
)
def test_lists_that_do_not_fit(xs: Any, ys: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tasks.from_lists(xs, ys, **options)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (None, [1.0, 2.0], r"y: got shape \(2,\); wanted \(T, n\)"),
        (None, np.zeros((0, 3)), r"y: got shape \(0, 3\)"),
        (None, np.zeros((2, 0)), "task '0' has no observations"),
        (np.zeros((2, 4)), np.zeros((2, 3)), r"x: got shape \(2, 4\) and y has \(2, 3\).*from_lists"),
        (None, [[1.0, 2.0], [3.0]], "y: its rows have different lengths"),
        (None, [[1.0, np.nan]], "y is NaN in row 1 of task '0'"),
    ],
)
def test_arrays_that_do_not_fit(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tasks.from_arrays(x, y)


@pytest.mark.parametrize(
    ("offsets", "names", "context", "message"),
    [
        ([0, 2], (), {}, "no task at all"),
        ([0, 2], ("A", "B"), {}, "offsets: 2 of them, ending at 2, with 2 names"),
        ([0, 3], ("A",), {}, "offsets: 2 of them, ending at 3, with 1 names, 2 rows"),
        ([0, 2], ("A",), {"c": torch.zeros(2)}, r"context\['c'\]: got 2 values; wanted one per task, 1"),
    ],
)
def test_tensors_that_do_not_fit(offsets: Any, names: Any, context: Any, message: str) -> None:
    values = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(DataError, match=message):
        check_flat(Flat(values, values, torch.tensor(offsets), names, context))


def test_tasks_without_observations_look_like_the_others() -> None:
    like = tasks()
    new = Tasks.without_observations(["X", "Y"], like=like, context={"uranium": [0.1, 0.2]})
    assert new.sizes.tolist() == [0, 0]
    assert new["X"].x.shape == (0, 2)
    assert (like + new).names == ("B", "A", "C", "X", "Y")
    assert new.columns == like.columns
    with pytest.raises(DataError, match="context: 'uranium' is missing, and like has it"):
        Tasks.without_observations(["X"], like=like)
    assert Tasks.without_observations([1, 2]).names == ("1", "2")
    with pytest.raises(DataError, match="no task at all"):
        Tasks.without_observations([])


# --- looking up ------------------------------------------------------------------------------------------


def test_lookup_by_name_position_slice_and_list() -> None:
    got = tasks()
    assert len(got) == 3
    assert [task.name for task in got] == ["B", "A", "C"]
    assert got["A"].y.tolist() == got[1].y.tolist() == got[-2].y.tolist() == got[np.int64(1)].y.tolist()  # type: ignore[call-overload]
    assert "A" in got
    assert "Z" not in got
    assert got.index("C") == 2
    for keys in (["C", "B"], [2, 0], [-1, "B"], np.array([2, 0]), torch.tensor([2, 0])):
        some = got[keys]  # type: ignore[index]
        assert some.names == ("C", "B")
        assert some.y.tolist() == [4.0, 6.0, 1.0, 3.0, 5.0]
        assert some.context["uranium"].tolist() == [2.0, 0.5]
    assert got[1:].names == ("A", "C")
    assert got[::-1].names == ("C", "A", "B")
    assert got[[True, False, True]].names == ("B", "C")
    assert got[got.sizes > 1].names == ("B", "C")
    assert got[1:].columns == got.columns


def test_a_task_is_a_view() -> None:
    got = tasks()
    assert got["C"].y.untyped_storage().data_ptr() == got.y.untyped_storage().data_ptr()
    assert got["C"].n == 2


@pytest.mark.parametrize(
    ("key", "wanted", "message"),
    [
        ("AA", UnknownNameError, r"unknown task 'AA'; valid: 'B', 'A', 'C'; did you mean 'A'\?"),
        (["A", "Q"], UnknownNameError, "unknown task 'Q'"),
        (3, UnknownNameError, "task 3: wanted a name, or a position from 0 to 2"),
        (-4, UnknownNameError, "task -4: wanted a name, or a position"),
        (True, UnknownNameError, "task True: wanted a name, or a position"),
        (1.5, UnknownNameError, "task 1.5: wanted a name, or a position"),
        ([0, None], UnknownNameError, "task None: wanted a name, or a position"),
        ([True], DataError, "a mask of 1 truth values; wanted one per task, 3"),
        (["A", 1], DataError, "'A' appears twice"),
        ([], DataError, "no task at all"),
        (slice(3, None), DataError, "no task at all"),
    ],
)
def test_a_key_that_is_not_there(key: Any, wanted: type[Exception], message: str) -> None:
    with pytest.raises(wanted, match=message):
        tasks()[key]


# --- making others ---------------------------------------------------------------------------------------


def test_without_and_plus_are_inverse() -> None:
    got = tasks()
    assert got.without("A").names == got.without(["A"]).names == ("B", "C")
    assert same(got.without("A") + got[["A"]], got[["B", "C", "A"]])
    assert (got.without("A") + got[["A"]]).columns == got.columns
    with pytest.raises(UnknownNameError, match="unknown task 'Z'"):
        got.without("Z")
    with pytest.raises(DataError, match="no task at all"):
        got.without(got.names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "'B' appears twice"),
        ({"x": "age"}, r"x: cannot add tasks with rows of shape \(\) to tasks with rows of shape \(2,\)"),
        ({"context": None}, r"context: cannot add tasks with \[\] to tasks with \['uranium'\]"),
    ],
)
def test_tasks_that_cannot_be_added(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tasks() + tasks(**change)


def test_with_names() -> None:
    renamed = tasks().with_names(["u", "v", "w"])
    assert renamed.names == ("u", "v", "w")
    assert renamed["w"].y.tolist() == [4.0, 6.0]
    with pytest.raises(DataError, match="names: got 1 names; wanted one per task, 3"):
        tasks().with_names(["u"])


@pytest.mark.parametrize("support", [0, 1, 3, 100])
@pytest.mark.parametrize("seed", range(5))
def test_a_split_shares_out_every_row_once_and_keeps_the_order(support: int, seed: int) -> None:
    # y counts the rows, so that each can be followed.
    whole = random_tasks(seed)
    whole = Tasks.from_lists(
        [task.x for task in whole],
        [whole.offsets[t] + torch.arange(task.n) for t, task in enumerate(whole)],
        names=whole.names,
        context=whole.context,
        allow_empty=True,
    )
    left, right = whole.split(support, seed=seed)
    assert left.names == right.names == whole.names
    assert left.sizes.tolist() == whole.sizes.clamp(max=support).tolist()
    for task, a, b in zip(whole, left, right, strict=True):
        assert a.y.tolist() == sorted(a.y.tolist())
        assert b.y.tolist() == sorted(b.y.tolist())
        assert sorted(a.y.tolist() + b.y.tolist()) == task.y.tolist()
        assert a.context["b"].tolist() == task.context["b"].tolist()
    rows = left.y.to(torch.int64)
    assert torch.equal(left.x, whole.x[rows])


def test_a_split_is_a_matter_of_the_seed_alone() -> None:
    whole = Tasks.from_arrays(None, np.arange(200.0).reshape(4, 50))
    state = torch.get_rng_state()
    first = whole.split(5, seed=1)
    torch.manual_seed(7)
    again = whole.split(5, seed=1)
    torch.set_rng_state(state)
    assert all(map(same, first, again))
    assert not same(first[0], whole.split(5, seed=2)[0])
    whole.split(5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_row_is_as_likely_to_be_support() -> None:
    whole = Tasks.from_arrays(None, np.arange(20.0).reshape(2, 10))
    draws = torch.stack([whole.split(3, seed=s)[0].y for s in range(2_000)])
    counts = torch.bincount(draws.to(torch.int64).flatten(), minlength=20)
    # Binomial(2000, .3): sd 20.5.
    assert ((counts - 600).abs() < 4.5 * 20.5).all()


@pytest.mark.parametrize("support", [-1, 1.5, True, "3"])
def test_support_is_a_number_of_rows(support: Any) -> None:
    with pytest.raises(OptionError, match=f"support: got {re.escape(repr(support))}; wanted a number"):
        tasks().split(support)


# --- identity and looks ----------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_anything() -> None:
    table = frame()
    base = tasks().fingerprint()
    assert base == tasks().fingerprint()
    changed = [
        tasks(x="age"),
        tasks(context=None),
        tasks()[::-1],
        tasks().with_names(["B", "A", "c"]),
        tasks().with_names(["BA", "", "C"]),
        Tasks.from_frame(table.assign(county=list("BABCCC")), task="county", x=["floor", "age"], y="radon"),
        Tasks.from_frame(
            table.iloc[[2, 1, 0, 3, 4, 5]], task="county", x=["floor", "age"], y="radon", context="uranium"
        ),
    ]
    for column in ("floor", "age", "radon"):
        other = table.astype({"floor": float})
        other[column] += np.where(table["county"] == "A", 1e-12, 0.0)
        changed.append(Tasks.from_frame(other, task="county", x=["floor", "age"], y="radon", context="uranium"))
    prints = [other.fingerprint() for other in changed]
    assert len({base, *prints}) == 1 + len(prints)


def test_repr_counts() -> None:
    assert repr(tasks()) == "\n".join(
        [
            "Tasks: 3 tasks, 6 observations",
            "  names            B, A, C",
            "  sizes            min 1, median 2, max 3",
            "  x                floor, age (2 numbers per observation)",
            "  y                radon (a number per observation)",
            "  context uranium  a number per task",
        ]
    )
    assert "Tasks: 1 task, 1 observation\n" in repr(tasks()[["A"]])
    many = repr(Tasks.from_arrays(None, np.zeros((1_000, 2))))
    assert "1,000 tasks" in many
    assert "0, 1, 2, ..., 999" in many
    assert re.search(r"\n  x +none\n", many)


def test_names_are_escaped_in_html() -> None:
    nasty = Tasks.from_lists(None, [[1.0]], names=["<script>alert('x')</script>"], context={"<b>": [1.0]})
    page = nasty._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_tasks_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        tasks().x = torch.zeros(6)  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(10))
def test_any_selection_keeps_each_task_whole(seed: int) -> None:
    whole = random_tasks(seed)
    positions = np.random.default_rng(seed).permutation(len(whole))[: 1 + seed]
    some = whole[positions]  # type: ignore[call-overload]
    for position, task in zip(positions, some, strict=True):
        assert task.name == whole.names[position]
        assert torch.equal(task.x, whole[int(position)].x)
        assert torch.equal(task.y, whole[int(position)].y)
        assert torch.equal(task.context["b"], whole[int(position)].context["b"])
