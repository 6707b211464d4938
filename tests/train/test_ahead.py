"""What is made ahead of its use is what would be made at its use."""

from __future__ import annotations

import threading

import pytest

from videowm.train.ahead import ahead


def test_items_come_in_order_and_no_more_than_two_ahead():
    """Guards another order, a lost last item, memory that grows, and a thread that outlives who asked."""
    made = []

    def source():
        for i in range(20):
            made.append(i)
            yield i

    threads = threading.active_count()
    for i, item in enumerate(ahead(source())):
        assert item == i and len(made) <= i + 4
    assert made == list(range(20)) and threading.active_count() == threads
    taken = ahead(source())
    next(taken)
    taken.close()
    assert threading.active_count() == threads


def test_an_error_comes_where_its_item_would():
    """Guards an error that is lost in a thread, or that hides items made before it."""

    def source():
        yield 1
        raise ValueError("here")

    items = ahead(source())
    assert next(items) == 1
    with pytest.raises(ValueError, match="here"):
        next(items)
