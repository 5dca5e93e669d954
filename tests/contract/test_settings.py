import pytest

from dev.settings import PARTS, classes, settings


@pytest.mark.parametrize("part", PARTS)
def test_every_setting_of_every_part_says_what_it_means(part: str) -> None:
    found = [row for cls in classes(part) for row in settings(cls)]
    assert found
    assert [row.name for row in found if not row.meaning] == []
