"""Small tables of the form of MIMIC-IV and MIMIC-IV-ED for the patients of :mod:`tests.unit.data.mimic_tree`; all values are invented."""

from __future__ import annotations

from pathlib import Path

from tests.unit.data.mimic_tree import Tree, write_table

NEW_YEAR = "20800101"
TABLES = {
    "hosp/patients": """subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
10000001,F,61,2078,2011 - 2013,
10000002,M,91,2080,2014 - 2016,
11000003,M,91,2085,2014 - 2016,""",
    "hosp/admissions": """subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,insurance
10000001,20000001,2079-12-31 08:00:00,2080-01-03 10:00:00,,EW EMER.,Medicare
10000001,20000002,2081-01-01 08:00:00,,,EW EMER.,Other""",
    "hosp/labevents": """labevent_id,subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom,comments
1,10000001,20000001,51301,2079-12-30 11:00:00,,5.0,5.0,K/uL,too early
2,10000001,20000001,51301,2079-12-31 20:00:00,,14.2,14.2,K/uL,first
3,10000001,20000001,51301,2080-01-01 06:00:00,,12.0,12.0,K/uL,"second,
of two lines"
4,10000001,20000001,51301,2080-01-01 13:00:00,,9.0,9.0,K/uL,after the study
5,10000001,20000001,50889,2080-01-01 06:00:00,,___,,mg/L,GREATER THAN 300
6,10000001,20000001,51222,2080-01-01 06:00:00,,131,131,g/L,of another unit
7,10000001,20000001,50912,2080-01-01 06:00:00,,0.9,0.9,mg/dL,creatinine
8,19999999,,51301,2080-01-01 06:00:00,,3.0,3.0,K/uL,no patient of ours""",
    "hosp/d_labitems": "itemid,label,fluid,category\n50912,Creatinine,Blood,Chemistry\n51301,White Blood Cells,Blood,Hematology",
    "icu/chartevents": """subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,warning
10000001,20000001,30000001,1,2080-01-01 08:00:00,,223761,101.3,101.3,°F,0
10000001,20000001,30000001,1,2080-01-01 09:00:00,,223762,37.0,37.0,°C,0
10000001,20000001,30000001,1,2080-01-01 09:00:00,,220045,104,104,bpm,0""",
    "icu/d_items": "itemid,label\n220210,Respiratory Rate",
    "ed/vitalsign": """subject_id,stay_id,charttime,temperature,heartrate,resprate,o2sat,sbp,dbp,rhythm,pain
10000001,30000002,2080-01-01 07:00:00,98.6,96,18,93,120,70,,3
10000002,30000003,2080-01-01 11:30:00,,,18,99,120,70,,""",
}


def write_mimic_iv(root: Path) -> Path:
    """MIMIC-IV with MIMIC-IV-ED in one folder; some tables packed."""
    for name, text in TABLES.items():
        header, *rows = _cells(text)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_table(
            root / f"{name}.csv{'.gz' if 'hosp' in name else ''}", [dict(zip(header, row, strict=True)) for row in rows]
        )
    return root


def _cells(text: str) -> list[list[str]]:
    import csv
    import io

    return list(csv.reader(io.StringIO(text)))


def with_times(tree: Tree) -> Tree:
    """All studies at noon of the same day, as pandas writes the time."""
    for row in tree.rows:
        row |= {"StudyDate": NEW_YEAR, "StudyTime": "120000.0"}
    return tree
