from __future__ import annotations

from medcodi.app.demo import finding_words
from medcodi.study import Finding


def test_finding_in_words() -> None:
    assert finding_words(Finding(label="Pleural Effusion", side="left", size="large")) == "large left Pleural Effusion"
    assert finding_words(Finding(label="Lung Lesion", side="right", location="upper")) == "right upper Lung Lesion"
