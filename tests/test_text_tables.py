"""Plain text: tables and counts."""

from lucid_maskrcnn.text_tables import align_columns, count_of


def test_columns_have_equal_widths_and_the_sides_asked_for():
    rows = [("#", "name", "score"), ("12", "a", "0.5")]
    assert align_columns(rows) == ["#   name  score", "12     a    0.5"]
    assert align_columns(rows, left=(1,)) == [" #  name  score", "12  a       0.5"]
    assert align_columns([]) == []


def test_counts_have_the_plural_except_for_one():
    assert [count_of(n, "image") for n in range(3)] == ["no images", "1 image", "2 images"]
