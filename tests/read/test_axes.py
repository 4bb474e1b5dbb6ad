"""Axes: rows of segments that are united, cut, tied and divided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precrop.read.axes import (
    Atom,
    Axis,
    atoms,
    axis_of,
    axis_size,
    constant,
    cut,
    divide,
    freeze,
    is_constant,
    merge,
    proportional,
    require_divisor,
    resolve,
    tie,
    unfolded,
    unify,
)


def atom(size: int) -> Axis:
    return axis_of(Atom(size, f"width {size}"))


def ties(*axes: Axis) -> list[int]:
    """A number for the tie of every atom: equal numbers share one ratio."""
    roots = [a.tie.root() for axis in axes for a in atoms(axis)]
    return [roots.index(root) for root in roots]


def quanta(axis: Axis) -> list[int]:
    return [a.tie.root().quantum for a in atoms(axis)]


def test_united_axes_are_one() -> None:
    a, b = atom(8), atom(8)
    unify(a, b)
    assert resolve(a) == resolve(b)


def test_united_rows_are_cut_at_each_others_breakpoints() -> None:
    a, b = (*atom(4), *atom(8)), (*atom(6), *atom(6))
    common = unify(a, b)
    assert [part.size for part in atoms(common)] == [4, 2, 6]
    assert resolve(a) == resolve(b) == common
    assert ties(common) == [0, 1, 2]


def test_a_constant_freezes_what_it_meets() -> None:
    a = (*atom(4), *atom(8))
    unify(a, (*constant(4), *atom(8)), "the input")
    frozen = [part.tie.root().frozen for part in atoms(a)]
    assert frozen == ["the input", None]
    assert axis_size(a) == 12


def test_a_row_that_meets_itself_stays() -> None:
    a = atom(8)
    assert unify(a, a) == a
    assert quanta(a) == [8]


def test_flattened_axis_meets_a_plain_one() -> None:
    a, flat = atom(6), atom(54)
    unify(flat, ((a[0][0], 9),))
    assert resolve(flat) == ((a[0][0], 9),)
    assert quanta(flat) == [6]


def test_multiples_of_several_atoms_meet() -> None:
    """Two flattened maps of other sizes: 4 x 9 and 6 x 6."""
    a, b = atom(4), atom(6)
    unify(((a[0][0], 9),), ((b[0][0], 6),))
    assert ties(a, b) == [0, 0]
    assert quanta(a) == [2]


def test_cut_between_segments_divides_nothing() -> None:
    a = (*atom(4), *atom(8))
    assert cut(a, 4) == (a[:1], a[1:])
    assert cut(a, 0) == (constant(0), a)
    assert cut(a, 12) == (a, constant(0))


def test_cut_makes_independent_widths() -> None:
    a = atom(12)
    left, right = cut(a, 4)
    assert ties(left, right) == [0, 1]
    assert resolve(a) == (*left, *right)


def test_cut_of_a_tied_atom_keeps_the_ratio() -> None:
    a, b = atom(12), atom(18)
    tie([a, b])
    left, right = cut(a, 4)
    assert ties(left, right, b) == [0, 0, 0]
    assert quanta(b) == [2]


def test_cut_of_repeats() -> None:
    a = atom(4)
    left, right = cut(((a[0][0], 3),), 8)
    assert (left, right) == (((a[0][0], 2),), ((a[0][0], 1),))


def test_tied_atoms_step_by_the_common_divisor() -> None:
    a, b = atom(12), atom(8)
    tie([a, b, constant(5)])
    assert ties(a, b) == [0, 0]
    assert quanta(a) == [4]


def test_divisor_sets_the_step() -> None:
    a = atom(24)
    require_divisor(a, 8, "groups")
    assert quanta(a) == [3]
    require_divisor(constant(24), 7, "nothing varies")


def test_divisor_of_a_partly_fixed_axis_freezes_it() -> None:
    a = atom(8)
    require_divisor((*a, *constant(4)), 4, "groups")
    assert atoms(a)[0].tie.root().frozen == "groups"


def test_freezing_reaches_every_part_and_keeps_the_first_reason() -> None:
    a = atom(8)
    left, _ = cut(a, 3)
    freeze(left, "first")
    freeze(a, "second")
    assert [part.tie.root().frozen for part in atoms(a)] == ["first", "second"]


def test_proportional_follows_its_axis() -> None:
    a = atom(12)
    double, third = proportional(a, 24, "double"), proportional(a, 4, "third")
    assert double == ((a[0][0], 2),)
    assert ties(a, third) == [0, 0]
    assert quanta(a) == [4]


def test_view_as_groups_needs_no_tie_of_others() -> None:
    a = atom(24)
    outer, inner = divide(a, (2, 12), "view")
    assert outer == constant(2)
    assert axis_size(inner) == 12
    assert quanta(a) == [12]


def test_view_of_a_flattened_map_takes_the_map_off() -> None:
    a = atom(5)
    assert divide(((a[0][0], 49),), (5, 7, 7), "view") == [a, constant(7), constant(7)]
    assert quanta(a) == [5]


def test_view_of_a_repeated_row_takes_the_repeats_off() -> None:
    row = (*atom(4), *atom(6))
    assert divide((*row, *row, *row), (3, 10), "view") == [constant(3), row]
    assert quanta(row) == [4, 6]


def test_merged_axes() -> None:
    a = atom(6)
    assert merge([a, constant(49)], "flatten") == ((a[0][0], 49),)
    assert merge([constant(2), a], "heads") == (*a, *a)
    assert merge([constant(2), constant(3)], "both") == constant(6)


def test_two_widths_that_multiply_are_folded_and_unfolded() -> None:
    a, b = atom(6), atom(4)
    both = merge([a, constant(9), b], "outer product")
    assert axis_size(both) == 216
    assert atoms(both) == [*atoms(a), *atoms(b)]
    assert divide(both, (6, 36), "a view") == [a, ((b[0][0], 9),)] or unfolded(both)[0] == a
    assert divide(both, (6, 9, 4), "a view") == [a, constant(9), b]
    assert ties(a, b) == [0, 1]


def test_what_meets_a_folded_axis_is_it() -> None:
    a, b, c, d = atom(6), atom(4), atom(6), atom(4)
    both = merge([a, b], "outer product")
    whole = atom(24)
    unify(whole, both)
    assert atoms(whole) == [*atoms(a), *atoms(b)]
    unify(both, merge([c, d], "outer product"))
    assert ties(a, c, b, d) == [0, 0, 2, 2]


@pytest.mark.parametrize("other", [constant(24), (*atom(12), *atom(12)), atom(8) * 3])
def test_a_folded_axis_that_is_not_matched_is_frozen(other: Axis) -> None:
    a, b = atom(6), atom(4)
    unify(merge([a, b], "outer product"), other, "a sum")
    assert {part.tie.root().frozen for part in atoms((*a, *b))} & {"a sum"}


@pytest.mark.parametrize("factors", [(8, 3), (3, 8), (2, 12)])
def test_a_folded_axis_that_is_divided_elsewhere_is_frozen(factors: tuple[int, ...]) -> None:
    a, b = atom(6), atom(4)
    divide(merge([a, b], "outer product"), factors, "a view")
    assert all(part.tie.root().frozen for part in atoms((*a, *b)))


@pytest.mark.parametrize("size", [0, 1, 7])
def test_constants(size: int) -> None:
    assert is_constant(constant(size))
    assert axis_size(constant(size)) == size


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@given(sizes, st.data())
def test_rows_united_anyhow_keep_their_sizes(row: list[int], data: st.DataObject) -> None:
    """After any cuts and unions both rows agree, and every quantum divides its atoms."""
    total = sum(row)
    cuts = sorted(data.draw(st.sets(st.integers(1, total), max_size=3)) | {total})
    other = [high - low for low, high in zip([0, *cuts], cuts, strict=False)]
    a = tuple(segment for size in row for segment in atom(size))
    b = tuple(segment for size in other for segment in atom(size))
    common = unify(a, b)
    left, right = cut(common, data.draw(st.integers(0, total)))
    assert axis_size(left) + axis_size(right) == total
    assert resolve(a) == resolve(b) == resolve(common)
    assert axis_size(a) == total
    assert all(part.size % part.tie.root().quantum == 0 for part in atoms(a))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_view_and_back(first: int, second: int, repeats: int) -> None:
    a = ((Atom(first * second, "a"), repeats),)
    parts = divide(a, (first, second, repeats), "view")
    assert [axis_size(part) for part in parts] == [first, second, repeats]
    back = merge(parts, "back")
    assert axis_size(back) == axis_size(a)
    unify(a, back)
    assert all(part.size % part.tie.root().quantum == 0 for part in atoms(a))
