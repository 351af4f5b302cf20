"""One file a study; `STUDIES` has them by name, in the order of docs/studies.md."""

from __future__ import annotations

from scripts.study.studies import (
    ablations,
    brakes,
    credit,
    efficiency,
    judge,
    loop,
    prime,
    prime_rates,
    reference,
    sanity,
)
from scripts.study.study import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        loop.STUDY,
        sanity.STUDY,
        ablations.STUDY,
        reference.STUDY,
        efficiency.STUDY,
        judge.STUDY,
        credit.STUDY,
        brakes.STUDY,
        prime.STUDY,
        prime_rates.STUDY,
    )
}
