"""The label tables against real records: PTB-XL's own labels, its copies in the challenge, SPH's two columns."""

import ast
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from core.ecg.label_tables import known_codes, superclasses_of
from core.ecg.labels import SUPERCLASSES, read_statements, superclasses

pytestmark = pytest.mark.real_data

# How the challenge seems to write PTB-XL's statements: concluded from their names, from the copies at hand, and from how
# often each code stands in its PTB-XL copies (dx_mapping_*.csv) against PTB-XL's own counts. INJAS to INJIL are missing:
# nothing tells where they went.
IN_THE_CHALLENGE = {
    "426783006": "NORM SR",
    "164934002": "NDT NT_ TAB_ LOWT",
    "55930002": "NST_",
    "428750005": "DIG ANEUR EL",
    "111975006": "LNGQT",
    "164865005": "IMI ASMI ILMI ALMI LMI IPLMI IPMI PMI",
    "54329005": "AMI",
    "164873001": "LVH VCLVH",
    "266249003": "SEHYP",
    "67741000119109": "LAO/LAE",
    "446358003": "RAO/RAE",
    "89792004": "RVH",
    "445118002": "LAFB",
    "445211001": "LPFB",
    "713426002": "IRBBB",
    "713427006": "CRBBB",
    "164909002": "CLBBB",
    "251120003": "ILBBB",
    "698252002": "IVCD",
    "270492004": "1AVB",
    "195042002": "2AVB",
    "27885002": "3AVB",
    "74390002": "WPW",
    "164861001": "ISC_ ISCAL ISCIL ISCAS",
    "425419005": "ISCIN",
    "426434006": "ISCAN",
    "425623009": "ISCLA",
    "164951009": "ABQRS HVOLT",
    "164884008": "PVC PRC(S)",
    "429622005": "STD_",
    "164931005": "STE_",
    "59931005": "INVT",
    "164917005": "QWAVE",
    "284470004": "PAC",
    "164947007": "LPR",
    "251146004": "LVOLT",
    "164889003": "AFIB",
    "164890007": "AFLT",
    "427084000": "STACH",
    "427393009": "SARRH",
    "426177001": "SBRAD",
    "10370003": "PACE",
    "63593006": "SVARR",
    "11157007": "BIGU",
    "251180001": "TRIGU",
    "426761007": "SVTAC",
    "67198005": "PSVT",
}
SNOMED_OF = {statement: code for code, statements in IN_THE_CHALLENGE.items() for statement in statements.split()}

# Records of the 500 whose superclasses differ when their statements are written as the challenge writes them.
NORMAL_BESIDE_A_BLOCK = {218, 235, 236, 291, 362, 420, 478}  # SCP keeps NORM beside CD; here the block wins.
T_WAVE_FORM = {194, 257, 265, 288, 300, 308, 319, 325, 409, 420}  # NT_, TAB_ or LOWT, and no diagnostic ST-T statement
VOLTAGE = {277, 289, 436, 497}  # VCLVH, written like LVH
ST_DEPRESSION = {257, 308, 313, 325, 333}  # STD_ and no diagnostic ST-T statement
NORMAL_BESIDE_FIBRILLATION = {330}


def challenge_headers(real_data, database):
    for path in sorted((real_data / "challenge" / database).glob("*.hea")):
        line = next(line for line in path.read_text(encoding="latin-1").splitlines() if line.startswith("#Dx:"))
        yield path, line.removeprefix("#Dx:").strip().split(",")


@pytest.fixture(scope="module")
def scp_codes(real_data) -> pd.Series:
    table = pd.read_csv(real_data / "ptbxl-500" / "ptbxl_database.csv", index_col="ecg_id")
    return table["scp_codes"].map(ast.literal_eval)


def names(labels) -> set[str]:
    return {name for name, label in zip(SUPERCLASSES, labels, strict=True) if label}


def test_the_scp_table_is_ptbxls_own(real_data):
    own = pd.read_csv(real_data / "ptbxl-500" / "scp_statements.csv", index_col=0)
    table = known_codes("scp")
    assert set(table) == set(own.index)
    assert len(table) == 71
    diagnostic = {code: row.superclasses for code, row in table.items() if row.superclasses}
    statements = read_statements(real_data / "ptbxl-500" / "scp_statements.csv")
    assert diagnostic == {code: (name,) for code, name in statements.items()}
    assert {code: row.name for code, row in table.items()} == own["description"].to_dict()


def test_all_500_records_have_ptbxls_own_superclasses(real_data, scp_codes):
    statements = read_statements(real_data / "ptbxl-500" / "scp_statements.csv")
    for number, codes in scp_codes.items():
        mapped = superclasses_of("scp", codes)
        assert mapped.labels.tolist() == superclasses(codes, statements).tolist(), number
        assert not mapped.unknown


def test_aha_codes_have_the_class_of_the_statement_that_ptbxl_gives_them_to(real_data):
    own = pd.read_csv(real_data / "ptbxl-500" / "scp_statements.csv", index_col=0)["AHA code"].dropna()
    scp, aha = known_codes("scp"), known_codes("aha")
    differ = {
        statement for statement, code in own.items() if aha[str(int(code))].superclasses != scp[statement].superclasses
    }
    # Form only in SCP; in AHA the only statement of a T-wave abnormality, of ST elevation and of ST depression.
    assert differ == {"TAB_", "STE_", "STD_"}
    assert all(aha[code].superclasses == ("STTC",) for code in ("147", "501", "502"))


def test_every_code_of_the_challenge_records_is_known(real_data):
    databases = sorted(folder.name for folder in (real_data / "challenge").iterdir() if folder.is_dir())
    found = {code for name in databases for _, codes in challenge_headers(real_data, name) for code in codes}
    assert len(found) == 49
    assert found <= set(known_codes("snomed"))


def test_challenge_copies_of_ptbxl_records_have_the_same_superclasses_but_for_one(real_data, scp_codes):
    from scipy.io import loadmat
    from wfdb import rdrecord

    statements = read_statements(real_data / "ptbxl-500" / "scp_statements.csv")
    compared, differ = [], {}
    for path, codes in challenge_headers(real_data, "ptbxl"):
        number = int(re.fullmatch(r"HR(\d+)", path.stem)[1])
        if number not in scp_codes.index:
            continue
        # The number is the ecg_id: the two files hold the same ECG, value by value (gain 1000 per mV in both).
        original = rdrecord(str(real_data / "ptbxl-500" / "records500" / "00000" / f"{number:05d}_hr"), physical=False)
        assert np.array_equal(loadmat(path.with_suffix(".mat"))["val"], original.d_signal.T)
        compared.append(number)
        through_snomed = names(superclasses_of("snomed", codes).labels)
        through_scp = names(superclasses(scp_codes[number], statements))
        if through_snomed != through_scp:
            differ[number] = (through_snomed, through_scp)
    assert compared == [1, 2, 3, 8, 9]
    # HR00003 has first degree AV block in its header; PTB-XL says NORM and SR, and its report "sinusrhythmus normales ekg".
    assert differ == {3: ({"CD"}, {"NORM"})}


def test_statements_written_as_the_challenge_writes_them_give_the_same_superclasses_but_for_a_named_few(scp_codes):
    written = {
        number: {SNOMED_OF[code] for code in codes}
        for number, codes in scp_codes.items()
        if not any(code.startswith("INJ") for code in codes)
    }
    assert len(written) == 497
    differ = {
        number: (
            names(superclasses_of("scp", scp_codes[number]).labels),
            names(superclasses_of("snomed", codes).labels),
        )
        for number, codes in written.items()
    }
    differ = {number: (before, after) for number, (before, after) in differ.items() if before != after}
    explained = NORMAL_BESIDE_A_BLOCK | T_WAVE_FORM | VOLTAGE | ST_DEPRESSION | NORMAL_BESIDE_FIBRILLATION
    assert set(differ) == explained

    def those(reason):
        return {number for number in differ if reason(set(scp_codes[number]), *differ[number])}

    assert those(lambda codes, before, after: before >= {"NORM", "CD"}) == NORMAL_BESIDE_A_BLOCK
    assert (
        those(lambda codes, before, after: codes & {"NT_", "TAB_", "LOWT"} and "STTC" in after - before) == T_WAVE_FORM
    )
    assert those(lambda codes, before, after: "VCLVH" in codes and "HYP" in after - before) == VOLTAGE
    assert those(lambda codes, before, after: "STD_" in codes and "STTC" in after - before) == ST_DEPRESSION
    assert those(lambda codes, before, after: {"NORM", "AFIB"} <= codes) == NORMAL_BESIDE_FIBRILLATION


def test_in_ptbxl_a_sinus_rhythm_without_a_pathology_is_always_normal(scp_codes):
    alone = [
        codes for codes in scp_codes if "SR" in codes and not names(superclasses_of("scp", codes).labels) - {"NORM"}
    ]
    assert len(alone) == 256
    assert all("NORM" in codes for codes in alone)


def test_sphs_two_columns_give_the_same_superclasses(real_data):
    table = pd.read_csv(real_data / "sph" / "metadata.csv", dtype=str)
    found = Counter()
    for row in table.itertuples():
        aha = superclasses_of("aha", row.AHA_Code.split(";"))
        snomed = superclasses_of("snomed", row.SNOMEDCTCode.split(","))
        assert aha.labels.tolist() == snomed.labels.tolist(), row.ECG_ID
        assert not aha.unknown
        assert not snomed.unknown
        found["".join(names(aha.labels))] += 1
    assert found == {"NORM": 6, "CD": 1, "": 2}  # SPH00001 and SPH00004 have a sinus bradycardia or arrhythmia alone.


# docs/labels.md has these counts: records, then NORM, MI, STTC, CD, HYP, then those without a label.
@pytest.mark.parametrize(
    ("database", "counts"),
    [
        ("ptbxl", (20, 12, 3, 4, 2, 0, 0)),
        ("georgia", (22, 4, 0, 7, 3, 7, 4)),
        ("ningbo", (43, 5, 0, 13, 6, 1, 23)),
        ("chapman", (7, 1, 0, 3, 1, 0, 3)),
        ("cpsc2018", (7, 1, 0, 1, 2, 0, 3)),
        ("cpsc2018-extra", (13, 0, 6, 8, 2, 2, 2)),
        ("ptb", (5, 2, 3, 0, 0, 0, 0)),
    ],
)
def test_each_database_of_the_challenge_has_the_documented_labels(real_data, database, counts):
    labels = np.array([superclasses_of("snomed", codes).labels for _, codes in challenge_headers(real_data, database)])
    assert (len(labels), *labels.sum(axis=0).tolist(), int((labels.sum(axis=1) == 0).sum())) == counts
