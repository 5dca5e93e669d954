"""What the import reads in sixty real procedures is what a person reads in them.

`crawl_sample.jsonl.gz` holds the records that `make crawl FILE=… ARGS="--sample 60 --seed 20261129"` draws
from those of the 2,642 in which something is read. `crawl_sample.json` says what stands in them; each line
was checked by hand against the record's texts, its note and its steps.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dev.crawl import draw, overview, readings, told
from tests.needs import missing

HERE = Path(__file__).parent
SAMPLE = HERE / "crawl_sample.jsonl.gz"
WHOLE = Path(__file__).parents[4] / "shared/data/procedures.jsonl.gz"
SEED = 20261129
CHECKED = json.loads((HERE / "crawl_sample.json").read_text())
READ = {one.code: one for one in readings(SAMPLE)}


def test_the_sample_has_sixty_procedures_and_all_were_checked() -> None:
    assert len(CHECKED) == 60
    assert READ.keys() == CHECKED.keys()


@pytest.mark.parametrize("code", CHECKED)
def test_a_real_procedure_is_read_as_a_person_reads_it(code: str) -> None:
    assert told(READ[code].content) == CHECKED[code]


def test_the_seed_draws_this_sample_and_a_thousand_fees_are_read() -> None:
    if not WHOLE.exists():
        missing("the crawl of all procedures is not beside this checkout")
    found = list(readings(WHOLE))
    assert [one.code for one in draw(found, 60, SEED)] == sorted(CHECKED)
    channels = [({mode.channel for mode in one.content.modes}, one.content.fees) for one in found]
    whole = [fees for asked, fees in channels if asked and asked == {fee.channel for fee in fees}]
    assert len(whole) >= 1000
    assert overview(found).row_count > 10
