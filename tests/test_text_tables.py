"""Plain text: tables and counts."""

from lucid_maskrcnn.text_tables import align_columns, cell_width, count_of, pair_lines, shortened


def test_columns_have_equal_widths_and_the_sides_asked_for():
    rows = [("#", "name", "score"), ("12", "a", "0.5")]
    assert align_columns(rows) == ["#   name  score", "12     a    0.5"]
    assert align_columns(rows, left=(1,)) == [" #  name  score", "12  a       0.5"]
    assert align_columns([]) == []


def test_counts_have_the_plural_except_for_one():
    assert [count_of(n, "image") for n in range(3)] == ["no images", "1 image", "2 images"]


def test_wide_characters_take_two_cells_and_marks_none():
    assert [cell_width(text) for text in ("", "ab", "日本", "e\u0301", "🙂", "ｱ")] == [0, 2, 4, 1, 2, 1]
    assert align_columns([("日本", "1"), ("ab", "10")]) == ["日本   1", "ab    10"]


def test_what_is_too_long_keeps_both_ends():
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("a few words of prose", 9) == "a few wo…"
    assert shortened("/a b/c d/name.png", 9) == "/a b….png"
    assert shortened("日本語の名前", 7) == "日…名前"
    assert [shortened("abc", n) for n in range(4)] == ["", "…", "a…", "abc"]
    for width in range(20):
        assert cell_width(shortened("e\u0301日本語e\u0301の名前.png", width)) <= width


def test_tables_fit_and_text_gives_before_numbers():
    rows = [("name", "n"), ("a_very_long_name_of_a_file.png", "123456789")]
    assert align_columns(rows, width=22) == ["name                 n", "a_ver…e.png  123456789"]
    assert all(cell_width(line) <= 12 for line in align_columns(rows, width=12))
    assert align_columns(rows, width=100) == align_columns(rows)


def test_values_go_on_below_themselves():
    assert pair_lines({"a": "x", "name": "two words"}) == ["a     x", "name  two words"]
    value = "word " * 20 + "x" * 100
    for width in (10, 40, 80):
        lines = pair_lines({"name": value}, width=width)
        assert all(len(line) <= width for line in lines)
        assert "".join("".join(lines).split()) == "".join(f"name{value}".split())
