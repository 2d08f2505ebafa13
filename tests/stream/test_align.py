"""The inputs of a partition keep step, however many there are and however the input is cut."""

from hypothesis import given
from hypothesis import strategies as st

from streamgauge.stream.align import merge, mergeable_prefix
from streamgauge.stream.records import Record

# Few distinct timestamps, in any order: ties and late records are the cases that matter.
TIMES = st.lists(st.integers(0, 8), max_size=30)
INPUTS = st.lists(TIMES, min_size=1, max_size=4)


def records(topic, times):
    return [Record(topic, 0, offset, t, None, b"") for offset, t in enumerate(times)]


def all_records(times):
    return [records(str(i), of_input) for i, of_input in enumerate(times)]


def merged_by_the_rule(inputs):
    """The rule as it is written in streamgauge.stream.align, without a thought for speed."""
    places, merged = [0] * len(inputs), []
    while True:
        heads = [
            (of_input[place].timestamp_ms, i)
            for i, (of_input, place) in enumerate(zip(inputs, places, strict=True))
            if place < len(of_input)
        ]
        if not heads:
            return merged
        _, i = min(heads)
        merged.append((i, inputs[i][places[i]]))
        places[i] += 1


@given(INPUTS)
def test_merge_follows_the_rule(times):
    inputs = all_records(times)
    assert merge(inputs) == merged_by_the_rule(inputs)


@given(INPUTS, st.integers(1, 12), st.data())
def test_the_merged_order_does_not_depend_on_the_cuts(times, max_records, data):
    inputs = all_records(times)
    pieces, places = [], [0] * len(inputs)
    while any(place < len(of_input) for place, of_input in zip(places, inputs, strict=True)):
        # A broker may have buffered more or less than it is asked for, but something of each.
        known = [
            data.draw(st.integers(place + 1, len(of_input))) if place < len(of_input) else place
            for place, of_input in zip(places, inputs, strict=True)
        ]
        ahead = [
            of_input[place:end] for of_input, place, end in zip(inputs, places, known, strict=True)
        ]
        counts = mergeable_prefix(
            ahead,
            [end < len(of_input) for of_input, end in zip(inputs, known, strict=True)],
            max_records=max_records,
        )
        assert sum(counts) > 0, "no progress"
        assert max(counts) <= max_records
        pieces += merge([of_input[:n] for of_input, n in zip(ahead, counts, strict=True)])
        places = [place + n for place, n in zip(places, counts, strict=True)]
    assert pieces == merged_by_the_rule(inputs)


@given(INPUTS, st.data())
def test_as_much_is_taken_as_the_rule_allows(times, data):
    inputs = all_records(times)
    has_more = data.draw(st.lists(st.booleans(), min_size=len(inputs), max_size=len(inputs)))
    counts = mergeable_prefix(inputs, has_more, max_records=100)
    # The merge goes on until the next record of an input may be one that is not given.
    left = [len(of_input) for of_input in inputs]
    taken = [0] * len(inputs)
    for i, _ in merged_by_the_rule(inputs):
        if any(more and n == 0 for more, n in zip(has_more, left, strict=True)):
            break
        left[i] -= 1
        taken[i] += 1
    assert counts == tuple(taken)


@given(INPUTS)
def test_all_known_input_is_taken_at_once(times):
    taken = mergeable_prefix(all_records(times), [False] * len(times), max_records=30)
    assert taken == tuple(map(len, times))


def test_a_topic_waits_for_the_other_only_while_that_has_more():
    predictions = records("p", [1, 2])
    waits = mergeable_prefix([predictions, []], [False, True], max_records=10)
    goes_on = mergeable_prefix([predictions, []], [False, False], max_records=10)
    assert (waits, goes_on) == ((0, 0), (2, 0))


def test_nothing_is_taken_past_the_last_known_record_of_the_other_topic():
    inputs = [records("p", [10, 20]), records("l", [5, 20, 30])]
    taken = mergeable_prefix(inputs, [True, False], max_records=10)
    assert taken == (2, 1), "the label at 20 comes after the prediction at 20, then it must wait"
