"""Rules: each is a sentence for the page; what they give is tested with the scorecard."""

from cunet import rules


def test_every_rule_prints_a_sentence():
    table = rules.table()
    assert list(table.id) == sorted(rules.RULES)
    assert table.rule.str.endswith(".").all() and not table.rule.str.contains("\n").any()


def test_without_a_level_nothing_is_tested():
    assert rules.weighed(0, 0, 0) == rules.NOT_TESTABLE
