"""The table and the picture of who holds what."""

import io

from rich.console import Console

from thinwire.data import Example
from thinwire.data.load import Dataset
from thinwire.data.summary import picture, table


def held(**counts):
    """A dataset whose clients hold so many records of each label."""
    labels = {name: [label for label, n in parts.items() for _ in range(n)] for name, parts in counts.items()}
    return Dataset({name: [{}] * len(rows) for name, rows in labels.items()}, labels, {})


def shown(*args, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(*args))
    return console.export_text()


def test_rows_say_how_many_and_of_what():
    text = shown(held(north={"x": 1200, "y": 300}, south={"y": 900}))
    assert "north" in text
    assert "1,500" in text
    assert "80 % x" in text
    assert "█▃" in text
    assert "·█" in text
    assert "labels: x, y" in text
    assert "tokens" not in text


def test_tokens_and_examples_are_those_that_are_encoded():
    text = shown(held(a={"x": 3}), {"a": [Example((1,) * 700, (1,) * 700)] * 2})
    row = next(line for line in text.splitlines() if "│ a" in line)
    assert [cell.strip() for cell in row.split("│")[2:4]] == ["2", "1,400"]


def test_many_clients_are_summed_and_long_names_fit_eighty_columns():
    names = {f"{'n' * 40}{number}": {f"{'label' * 9}{k}": number + k + 1 for k in range(60)} for number in range(200)}
    text = shown(held(**names))
    assert "180 more" in text
    assert "and 44 more" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "1,8" in text


def test_names_are_never_read_as_markup(tmp_path):
    data = held(**{"[red]a[/nonsense]": {"$_{x$": 2, "_under": 1, "[b]": 1}, "b": {"[/b]": 1}})
    text = shown(data)
    assert "[red]a[/nonsense]" in text
    assert "$_{x$" in text
    picture(data, tmp_path / "odd.png")


def test_the_picture_is_a_png_for_few_and_for_many(tmp_path):
    few = held(a={"x": 3, "y": 1}, b={"y": 2})
    many = held(**{f"client-{number}": {f"label-{k}": k + 1 for k in range(30)} for number in range(100)})
    for name, data in {"one": held(a={"x": 1}), "few": few, "many": many}.items():
        path = tmp_path / f"{name}.png"
        picture(data, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 4000
