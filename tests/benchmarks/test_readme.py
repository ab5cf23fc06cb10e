"""The README's figures are those of the kept rows."""

from benchmarks import readme


def test_readme_and_rows_agree():
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.replaced(text, readme.section(readme.results())), "run: python -m benchmarks.readme"


def test_marks_stay():
    text = readme.replaced(f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n", "new")
    assert text == f"a\n{readme.BEGIN}\nnew\n{readme.END}\nb\n"
