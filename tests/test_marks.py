from tests.marks import few_fast


def test_the_first_cases_are_fast_and_the_others_rtl() -> None:
    cases = few_fast("abc", 1)
    assert [case.values for case in cases] == [("a",), ("b",), ("c",)]
    assert [[mark.name for mark in case.marks] for case in cases] == [[], ["rtl"], ["rtl"]]
