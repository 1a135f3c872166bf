"""Whole groups go into new splits, and every label into each where that can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from monkeyray.statistics.cuts import cut_groups

WANTED = {"test": 0.2, "validation": 0.2}


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1),
        min_size=1,
        max_size=15,
    ),
    st.sets(st.sampled_from("abc")),
    st.integers(0, 3),
)
def test_no_label_is_taken_from_train(
    groups: list[dict[str, int]], held: set[str], seed: int
) -> None:
    loose = {number: Counter(counts) for number, counts in enumerate(groups)}
    totals: Counter[str] = sum(loose.values(), Counter())
    several = Counter(label for counts in groups for label in counts)
    if min(several.values()) < 3:
        return
    chosen = cut_groups(loose, totals, held, WANTED, seed)
    assert set(chosen.values()) == set(WANTED)
    left = {label for group in loose if group not in chosen for label in loose[group]}
    assert set(totals) <= left | held
    assert chosen == cut_groups(loose, totals, held, WANTED, seed)


def test_the_label_with_the_least_choice_comes_first() -> None:
    # c is in three groups only, in which a and b have far more images.
    loose = {i: Counter(a=50, b=40) for i in range(17)}
    loose |= {i: Counter(a=50, b=40, c=2) for i in range(17, 20)}
    totals: Counter[str] = sum(loose.values(), Counter())
    for seed in range(20):
        chosen = cut_groups(loose, totals, set(), WANTED, seed)
        assert sorted(chosen.get(i, "train") for i in range(17, 20)) == [
            "test", "train", "validation",
        ]  # fmt: skip
        assert Counter(chosen.values()) == {"test": 4, "validation": 4}


def test_what_is_in_train_already_needs_no_group_there() -> None:
    loose = {0: Counter(a=1), 1: Counter(a=1)}
    assert len(cut_groups(loose, Counter(a=9), {"a"}, WANTED, 0)) == 2
