"""Tables in plain text."""

from lucid_maskrcnn.text_tables import align_columns


def test_columns_have_equal_widths_and_the_sides_asked_for():
    rows = [("#", "name", "score"), ("12", "a", "0.5")]
    assert align_columns(rows) == ["#   name  score", "12     a    0.5"]
    assert align_columns(rows, left=(1,)) == [" #  name  score", "12  a       0.5"]
    assert align_columns([]) == []
