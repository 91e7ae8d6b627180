"""The ledger of credits: fair, bounded, and nothing is given back twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from online_synclr.stream.credits import CreditBook
from online_synclr.stream.fan_out import choose_trainers


def test_credits_are_shared_evenly_and_bounded() -> None:
    ledger: CreditBook[str] = CreditBook(4)
    for peer in "abc":
        ledger.open(peer)
    assert ledger.assign(6) == {"a": 2, "b": 2, "c": 2}
    assert ledger.assign(100) == {"a": 2, "b": 2, "c": 2}
    assert ledger.assign(1) == {}
    assert ledger.in_flight == 12


def test_single_credits_take_turns() -> None:
    ledger: CreditBook[str] = CreditBook(1)
    for peer in "abc":
        ledger.open(peer)
    order = []
    for _ in range(6):
        (peer,) = ledger.assign(1)
        order.append(peer)
        assert ledger.spend(peer, ledger.lease_of(peer))
    assert order == list("abcabc")


def test_who_sends_faster_is_given_more() -> None:
    ledger: CreditBook[str] = CreditBook(8)
    ledger.open("fast")
    ledger.open("slow")
    given_to_fast = sum(ledger.assign(4).get("fast", 0) for _ in range(1))
    for _ in range(20):
        while ledger.held("fast"):
            ledger.spend("fast", ledger.lease_of("fast"))
        given_to_fast += ledger.assign(2).get("fast", 0)
    assert given_to_fast > 30


def test_a_dead_peers_credits_return_and_its_groups_are_late() -> None:
    ledger: CreditBook[str] = CreditBook(4)
    lease, _ = ledger.open("a")
    ledger.assign(3)
    assert ledger.spend("a", lease)
    assert ledger.close("a") == 2
    assert ledger.close("a") == 0
    assert ledger.in_flight == 0
    assert not ledger.spend("a", lease)
    assert ledger.late == 1


def test_a_new_period_voids_the_old_one() -> None:
    ledger: CreditBook[str] = CreditBook(4)
    old, _ = ledger.open("a")
    ledger.assign(2)
    new, reclaimed = ledger.open("a")
    assert (reclaimed, ledger.in_flight) == (2, 0)
    ledger.assign(1)
    assert not ledger.spend("a", old)
    assert ledger.spend("a", new)
    assert not ledger.spend("a", new)
    assert ledger.late == 2


def test_unsent_credits_are_withdrawn() -> None:
    ledger: CreditBook[str] = CreditBook(4)
    ledger.open("a")
    ledger.assign(3)
    assert ledger.withdraw("a", 2) == 2
    assert ledger.withdraw("a", 5) == 1
    assert ledger.withdraw("nobody", 5) == 0
    assert ledger.in_flight == 0


class CountedPeer:
    """A peer that counts how often any of its kind is looked up."""

    lookups = 0

    def __hash__(self) -> int:
        CountedPeer.lookups += 1
        return id(self)


def lookups_for(num_peers: int) -> int:
    """Look-ups for 100 groups that arrive one by one from one of so many peers."""
    ledger: CreditBook[CountedPeer] = CreditBook(16)
    peers = [CountedPeer() for _ in range(num_peers)]
    for peer in peers:
        ledger.open(peer)
    ledger.assign(16 * num_peers)
    CountedPeer.lookups = 0
    for _ in range(100):
        assert ledger.spend(peers[0], ledger.lease_of(peers[0]))
        assert ledger.assign(3) == {peers[0]: 1}
    return CountedPeer.lookups


def test_a_group_costs_the_same_with_many_peers() -> None:
    assert lookups_for(1) == lookups_for(64)


def test_nobody_is_given_a_second_credit_before_everybody_has_one() -> None:
    ledger: CreditBook[int] = CreditBook(16)
    for peer in range(64):
        ledger.open(peer)
    # One that always spends at once, and 63 that never do.
    for _ in range(1000):
        for peer in ledger.assign(5):
            if peer == 0:
                ledger.spend(0)
    held = [ledger.held(peer) for peer in range(1, 64)]
    assert held == [16] * 63


STEPS = st.tuples(
    st.sampled_from(["open", "close", "assign", "spend", "stale", "withdraw"]),
    st.integers(0, 3),
    st.integers(0, 9),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_in_flight_is_always_the_sum_of_leases(steps: list[tuple[str, int, int]]) -> None:
    ledger: CreditBook[int] = CreditBook(5)
    issued = returned = arrived = 0
    for action, peer, number in steps:
        if action == "open":
            returned += ledger.open(peer)[1]
        elif action == "close":
            returned += ledger.close(peer)
        elif action == "assign":
            issued += sum(ledger.assign(number).values())
        elif action == "withdraw":
            returned += ledger.withdraw(peer, number)
        else:
            lease = ledger.lease_of(peer) if action == "spend" else 10**6
            arrived += ledger.spend(peer, lease)
        assert ledger.in_flight == sum(ledger.held(peer) for peer in range(4))
        assert ledger.in_flight == issued - returned - arrived
        assert all(0 <= ledger.held(peer) <= 5 for peer in range(4))


@settings(deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_credits_go_to_who_holds_fewest_for_longest(steps: list[tuple[str, int, int]]) -> None:
    ledger: CreditBook[int] = CreditBook(5)
    # Naively: of each peer what it holds, and when it came to hold that.
    held: dict[int, int] = {}
    since: dict[int, int] = {}

    def change(peer: int, to: int) -> None:
        held[peer], since[peer] = to, 1 + max(since.values(), default=0)

    for action, peer, number in steps:
        if action == "open":
            ledger.open(peer)
            change(peer, 0)
        elif action == "close":
            ledger.close(peer)
            held.pop(peer, None)
        elif action == "withdraw" and peer in held:
            if ledger.withdraw(peer, number):
                change(peer, held[peer] - min(number, held[peer]))
        elif action == "spend" and held.get(peer):
            assert ledger.spend(peer)
            change(peer, held[peer] - 1)
        elif action == "assign":
            expected: dict[int, int] = {}
            for _ in range(number):
                poor = [other for other in held if held[other] < 5]
                if poor:
                    chosen = min(poor, key=lambda other: (held[other], since[other]))
                    change(chosen, held[chosen] + 1)
                    expected[chosen] = expected.get(chosen, 0) + 1
            assert ledger.assign(number) == expected
        assert all(ledger.held(other) == held.get(other, 0) for other in range(4))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 50))
def test_fan_out_is_bounded_and_balanced(num_trainers: int, fan_out: int) -> None:
    served = [choose_trainers(num_trainers, fan_out, position) for position in range(num_trainers)]
    load = [sum(index in chosen for chosen in served) for index in range(num_trainers)]
    width = min(fan_out, num_trainers) or num_trainers
    assert all(len(set(chosen)) == width for chosen in served)
    assert max(load) - min(load) <= 1
