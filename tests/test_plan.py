"""Layer plans: properties over all models and gaps, and the published placements."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines import identity, llama_pro, original_layers, solar, table
from lesa.errors import UserError
from lesa.params import Gaps, ListedGaps
from lesa.upscaling import plan
from lesa.upscaling.plan import LayerPlan


def gaps(count: int) -> Gaps:
    """As many gaps, wherever they are."""
    return Gaps(first=0, last=count - 1)


@st.composite
def model_and_gaps(draw: st.DrawFn) -> tuple[int, int, int]:
    layers = draw(st.integers(2, 100))
    first = draw(st.integers(0, layers - 2))
    return layers, first, draw(st.integers(first, layers - 2))


def copies(slots: LayerPlan) -> list[int | None]:
    return [slot.copy_of for slot in slots]


def new_places(slots: LayerPlan) -> list[int]:
    return [slot.layer_idx for slot in slots if slot.new]


def check_any(slots: LayerPlan) -> None:
    """What holds of every plan."""
    assert [slot.layer_idx for slot in slots] == list(range(len(slots)))
    assert all((slot.copy_of is None) != (slot.between is None) for slot in slots)
    assert all(slot.new for slot in slots if slot.between)
    assert plan.from_json(json.loads(json.dumps(plan.to_json(slots)))) == slots


@given(model_and_gaps())
def test_insert_between(case: tuple[int, int, int]) -> None:
    layers, first, last = case
    slots = plan.insert_between(layers, Gaps(first=first, last=last))
    check_any(slots)
    assert len(slots) == layers + last - first + 1
    assert [slot.copy_of for slot in slots if not slot.new] == list(range(layers))
    made = [slot for slot in slots if slot.new]
    assert [slot.between for slot in made] == [(i, i + 1) for i in range(first, last + 1)]
    for slot in made:  # it stands between the two layers that it was made from
        neighbours = (slots[slot.layer_idx - 1].copy_of, slots[slot.layer_idx + 1].copy_of)
        assert neighbours == slot.between
    assert all(slot.trainable == slot.new for slot in slots)


@given(st.integers(2, 50), st.data())
def test_insert_after_listed_layers(layers: int, data: st.DataObject) -> None:
    after = sorted(data.draw(st.sets(st.integers(0, layers - 2), min_size=1)))
    listed = ListedGaps(after=after)
    for make, lower in ((plan.insert_between, None), (identity.copies_of_lower, after)):
        slots = make(layers, listed)
        check_any(slots)
        assert copies([slot for slot in slots if not slot.new]) == list(range(layers))
        made = [slot for slot in slots if slot.new]
        assert [slots[slot.layer_idx - 1].copy_of for slot in made] == after
        assert lower is None or copies(made) == lower
    assert listed.count == len(after) == len(solar.plan(layers, listed)) - layers
    row = range(after[0], after[-1] + 1)
    if after == [*row]:
        same = plan.insert_between(layers, Gaps(first=after[0], last=after[-1]))
        assert plan.insert_between(layers, listed) == same


def test_listed_gaps_outside_the_model() -> None:
    with pytest.raises(UserError, match="1 layer; a gap is between two"):
        plan.insert_between(1, Gaps(first=0, last=0))
    with pytest.raises(UserError, match=r"gaps\.after: 5 inserts outside"):
        plan.insert_between(6, ListedGaps(after=[2, 5]))


@given(st.integers(2, 100), st.integers(0, 100), st.integers(0, 100))
def test_insert_between_outside_the_model(layers: int, first: int, over: int) -> None:
    last = layers - 1 + over
    for make in (plan.insert_between, identity.copies_of_upper, original_layers.plan):
        with pytest.raises(UserError, match=r"gaps\.last.*outside") as error:
            make(layers, Gaps(first=min(first, last), last=last))
        assert "\n" not in str(error.value)


@given(st.integers(1, 40), st.integers(1, 10))
def test_llama_pro(groups: int, group: int) -> None:
    layers = groups * group
    slots = llama_pro.plan(layers, gaps(groups))
    check_any(slots)
    assert len(slots) == layers + groups
    assert [slot.copy_of for slot in slots if not slot.new] == list(range(layers))
    for number, place in enumerate(new_places(slots)):
        assert place == (number + 1) * (group + 1) - 1  # the end of each group
        assert slots[place].copy_of == slots[place - 1].copy_of == (number + 1) * group - 1
    assert all(slot.trainable == slot.new for slot in slots)


@given(st.integers(1, 100), st.integers(1, 200))
def test_llama_pro_needs_equal_groups(layers: int, new: int) -> None:
    if layers % new == 0:
        assert len(new_places(llama_pro.plan(layers, gaps(new)))) == new
        return
    with pytest.raises(UserError, match="divides") as error:
        llama_pro.plan(layers, gaps(new))
    assert "\n" not in str(error.value)


@given(model_and_gaps())
def test_identity_copies_a_neighbour_in_lesas_gaps(case: tuple[int, int, int]) -> None:
    layers, first, last = case
    where = Gaps(first=first, last=last)
    between = [slot.between for slot in plan.insert_between(layers, where)]
    for side, make in enumerate((identity.copies_of_lower, identity.copies_of_upper)):
        slots = make(layers, where)
        check_any(slots)
        assert [slot.copy_of for slot in slots if not slot.new] == list(range(layers))
        assert all(slot.trainable == slot.new for slot in slots)
        assert len(slots) == len(between)
        for slot, gap in zip(slots, between, strict=True):
            assert slot.new == (gap is not None)
            assert gap is None or slot.copy_of == slot.source_idx == gap[side]


@given(model_and_gaps())
def test_original_layers_train_above_lesas_gaps(case: tuple[int, int, int]) -> None:
    layers, first, last = case
    slots = original_layers.plan(layers, Gaps(first=first, last=last))
    check_any(slots)
    assert copies(slots) == list(range(layers))
    assert not new_places(slots)
    trained = [slot.layer_idx for slot in slots if slot.trainable]
    assert trained == list(range(first + 1, last + 2))
    added = plan.insert_between(layers, Gaps(first=first, last=last))
    assert len(trained) == sum(slot.new for slot in added)


@given(st.integers(1, 100), st.integers(1, 120))
def test_solar_has_a_lower_part_of_the_model_under_an_upper_one(layers: int, new: int) -> None:
    if new > layers:
        with pytest.raises(UserError, match="SOLAR"):
            solar.plan(layers, gaps(new))
        return
    slots = solar.plan(layers, gaps(new))
    check_any(slots)
    assert len(slots) == layers + new
    half = (layers + new) // 2
    assert copies(slots)[:half] == list(range(half))
    assert copies(slots)[half:] == list(range(layers - len(slots) + half, layers))
    assert all(slot.trainable for slot in slots)
    assert not any(slot.new for slot in slots)


def test_solar_as_published() -> None:
    """32 to 48: layers 0 … 23 under 8 … 31 (arXiv:2312.15166)."""
    assert copies(solar.plan(32, gaps(16))) == [*range(24), *range(8, 32)]
    assert copies(solar.plan(30, gaps(15))) == [*range(22), *range(7, 30)]


def test_llama_pro_on_the_default_model() -> None:
    """30 to 45: a copy after every second layer."""
    slots = llama_pro.plan(30, gaps(15))
    assert copies(slots) == [i for k in range(15) for i in (2 * k, 2 * k + 1, 2 * k + 1)]
    assert new_places(slots) == list(range(2, 45, 3))


def test_lesa_as_in_the_official_code() -> None:
    """32 to 48: one new layer in each gap from 15|16 to 30|31."""
    slots = plan.insert_between(32, Gaps(first=15, last=30))
    assert len(slots) == 48
    assert copies(slots)[:17] == [*range(16), None]
    assert new_places(slots) == list(range(16, 47, 2))
    assert slots[46].between == (30, 31)
    assert slots[47].copy_of == 31


UPPER = Gaps(first=14, last=28)


BETWEEN = ["lesa", "lesa_zeroed", "average", "average_zeroed", "noise", "spectrum"]
BETWEEN += ["constant_row", "lesa_permuted", "ridge", "opt_deus", "opt_deus_code", "half_upper"]


def test_copies_of_the_layer_above_stand_at_llama_pros_places() -> None:
    """In the last place, above the last layer, a copy of that one."""
    upper = table()["llama_pro_upper"].plan(6, gaps(3))
    assert [slot.layer_idx for slot in upper if slot.new] == [2, 5, 8]
    assert [slot.copy_of for slot in upper] == [0, 1, 2, 2, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("name", BETWEEN)
def test_methods_between_layers_share_the_gaps(name: str) -> None:
    assert table()[name].plan(30, UPPER) == plan.insert_between(30, UPPER)


def test_methods_over_the_whole_depth_take_the_number_of_gaps() -> None:
    assert table()["llama_pro"].plan(30, UPPER) == llama_pro.plan(30, gaps(15))
    assert table()["solar"].plan(30, UPPER) == solar.plan(30, gaps(15))


@given(model_and_gaps())
def test_base_is_untouched_and_trains_whole(case: tuple[int, int, int]) -> None:
    layers, first, last = case
    slots = table()["base"].plan(layers, Gaps(first=first, last=last))
    check_any(slots)
    assert copies(slots) == list(range(layers))
    assert plan.everything_trains(slots)
    assert not new_places(slots)


@given(model_and_gaps())
def test_source_of_per_layer_settings(case: tuple[int, int, int]) -> None:
    """A copy's own base layer, of two neighbours the lower one."""
    layers, first, last = case
    slots = plan.insert_between(layers, Gaps(first=first, last=last))
    for slot in slots:
        wanted = slot.copy_of if slot.between is None else slot.between[0]
        assert slot.source_idx == wanted
