import math

import pytest

from ibpo.errors import IbpoError
from ibpo.prices import Price
from ibpo.serving import BudgetPolicy, Candidate, Controller, Conversations, ServingPolicy, conversation_key

PRICE = Price(input=1.0, cached_input=0.1, cache_write=1.0, output=10.0, reasoning=10.0)
LENGTHS = {"standard": 100.0, "extended": 1000.0}


def chats(**options):
    return Conversations(dict.fromkeys(LENGTHS, PRICE), **options)


def test_the_cache_of_who_answered_last_makes_it_cheaper_and_lives_as_long_as_it_says():
    known = chats(seconds=300)
    alone = known.costs("a", 11_100, LENGTHS, now=0.0)
    known.answered("a", "extended", 11_000, now=0.0)
    warm = known.costs("a", 11_100, LENGTHS, now=300.0)
    assert warm["standard"] == alone["standard"]
    assert alone["extended"] - warm["extended"] == pytest.approx(11_000 * 0.9e-6)
    assert known.costs("a", 11_100, LENGTHS, now=300.1) == alone
    assert known.costs("b", 11_100, LENGTHS, now=1.0) == alone
    # A prompt that was cut down cannot have more of it cached than it has.
    assert known.use("a", "extended", 500.0, 0.0, now=1.0).input == 0.0


def test_both_groups_have_caches_of_their_own():
    known = chats()
    known.answered("a", "standard", 1000, now=0.0)
    known.answered("a", "extended", 2000, now=1.0)
    assert known.use("a", "standard", 2500, 0, now=2.0).cached_input == 1000
    assert known.use("a", "extended", 2500, 0, now=2.0).cached_input == 2000


def test_the_controller_switches_only_where_the_gain_beats_the_cache_that_is_lost():
    """Equal gains and lengths: whoever has the cache is asked again, and not where the gain is above what it saves."""
    known = chats()
    known.answered("a", "standard", 100_000, now=0.0)
    policy = ServingPolicy(budgets=(BudgetPolicy(name="money", mean=0.06),))
    controller = Controller(policy)
    for i in range(400):  # until there is a price: gains from 0 to 1 at a cost of .1 or .01
        pair = [("standard", 0.0, 0.01), ("extended", (37 * i % 100) / 100, 0.1)]
        controller.decide(
            [Candidate(response_group=g, gain=gain, cost={"money": cost}) for g, gain, cost in pair],
            request_id=str(i),
            now=0.0,
        )
        controller.settle(str(i))
    cost = known.costs("a", 100_100, {"standard": 100.0, "extended": 100.0}, now=1.0)
    lost = controller.prices[0] * (cost["extended"] - cost["standard"])
    assert lost > 0
    for gain, group in ((0.5 * lost, "standard"), (2 * lost, "extended")):
        pair = [("standard", 0.0), ("extended", gain)]
        made = controller.decide(
            [Candidate(response_group=g, gain=value, cost={"money": cost[g]}) for g, value in pair],
            request_id=f"then {group}",
            now=0.0,
        )
        assert made.response_group == group


def test_old_conversations_are_forgotten_and_a_group_without_a_price_is_an_error():
    known = chats(most=2)
    for name in "abc":
        known.answered(name, "standard", 100, now=0.0)
    assert known.use("a", "standard", 100, 0, now=0.0).cached_input == 0
    assert known.use("c", "standard", 100, 0, now=0.0).cached_input == 100
    with pytest.raises(IbpoError, match="'huge' has no price"):
        known.costs("a", 10, {"huge": 1.0}, now=0.0)
    with pytest.raises(IbpoError, match="seconds"):
        chats(seconds=0)


def test_a_conversation_is_known_by_its_beginning_or_by_what_the_caller_says():
    first = [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}]
    later = [*first, {"role": "assistant", "content": "4"}, {"role": "user", "content": "3 + 3?"}]
    assert conversation_key(first) == conversation_key(later)
    assert conversation_key(first) != conversation_key([{"role": "user", "content": "5 + 5?"}])
    assert conversation_key(later, "session 7") == "session 7"
    assert conversation_key([]) == conversation_key([])


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 10**400], ids=["nan", "inf", "negative", "huge"])
def test_tokens_that_are_no_number_are_refused_and_not_remembered(value):
    chats = Conversations({"a": Price(input=1.0, cached_input=0.1, cache_write=1.0, output=1.0, reasoning=1.0)})
    for asked, said in ((value, 1.0), (1.0, value)):
        with pytest.raises(IbpoError, match="it must be finite"):
            chats.costs("c", asked, {"a": said}, now=0.0)
    with pytest.raises(IbpoError, match="conversations: tokens is"):
        chats.answered("c", "a", value, now=0.0)
    with pytest.raises(IbpoError, match="conversations: cached_tokens is"):
        chats.answered("c", "a", 1.0, now=0.0, prompt_tokens=1.0, cached_tokens=value)
    assert chats.size("c") == 0.0


@pytest.mark.parametrize(
    "damage",
    [{"caches": {"c": {"standard": [-5.0, 0.0]}}}, {"kept": {"standard": 5.0}}, {"shared": {"standard": -1.0}}],
)
def test_a_damaged_state_is_refused(damage):
    """Five times the cached tokens were expected to be billed as cached, and the rest of the prompt as fewer than 0."""
    known = chats()
    known.answered("c", "standard", 100, now=0.0)
    with pytest.raises(IbpoError, match=r"^state: not one of Conversations.state_dict: .* is not from 0 to"):
        chats().load_state(known.state_dict() | damage)
    later = chats()
    later.load_state(known.state_dict())
    assert later.use("c", "standard", 300, 1, now=0.0).cached_input == 100
