import csv
import io
import itertools
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ecg import label_tables
from core.ecg.label_tables import (
    SYSTEMS,
    Row,
    classes_of,
    known_codes,
    labels_of,
    read_code_table,
    superclasses_of,
)
from core.ecg.labels import SUPERCLASSES
from core.errors import ConfigError, DataError

ROOT = Path(__file__).parents[3]
TABLES = ROOT / "core" / "ecg" / "tables"

# The map of FedCVD's public preprocessing (arXiv 2411.07050), copied by hand: SCP, AHA, SNOMED CT.
FEDCVD = {
    "NORM": ("NORM", "1", "164854000"),
    "STACH": ("STACH", "21", "427084000"),
    "SBRAD": ("SBRAD", "22", "426177001"),
    "SARRH": ("SARRH", "23", "427393009"),
    "PAC": ("PAC", "30", "164885009"),
    "AFIB": ("AFIB", "50", "164889003"),
    "AFLT": ("AFLT", "51", "164890007"),
    "SVTAC": ("SVTAC", "55", "426761007"),
    "PVC": ("PVC", "60", "164884008"),
    "1AVB": ("1AVB", "", "270492004"),
    "2AVB": ("2AVB", "83 84 85 86 87", "54016002 28189009 164903001 195042002 284941000119107"),
    "3AVB": ("3AVB", "88", "27885002"),
    "LBFB": ("CLBBB LAFB LPFB", "101 102 104", "445118002 445211001 164909002"),
    "RBBB": ("IRBBB CRBBB", "105 106", "713426002 59118001 164907000"),
    "LAE": ("LAO/LAE", "140", "67741000119109"),
    "LVH": ("LVH", "142", "164873001"),
    "RVH": ("RVH", "143", "164877000"),
    "AMI": ("AMI", "160", "429731003"),
    "IMI": ("IMI", "161", "7326005"),
    "ASMI": ("ASMI", "165", "164868007"),
}


def classes(system, *codes, **options):
    labels = superclasses_of(system, codes, **options).labels
    return {name for name, label in zip(SUPERCLASSES, labels, strict=True) if label}


# What the tables say of themselves


def rows_of(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((TABLES / f"{name}.csv").read_text(encoding="utf-8"))))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_code_has_one_row_with_a_name_and_a_source(system):
    rows = rows_of(system)
    assert len(rows) == len(known_codes(system))
    assert not [row["code"] for row in rows if not row["name"] or not row["source"]]


@pytest.mark.parametrize("system", ["snomed", "aha"])
def test_a_code_has_the_superclass_of_the_scp_statement_it_comes_from_or_a_comment(system):
    scp = known_codes("scp")
    followed = 0
    for row in known_codes(system).values():
        if not row.source.startswith("SCP ") or row.comment:
            continue
        named = row.source.removeprefix("SCP ").replace("(", ";").split(";")[0].replace(" or ", " and ").split(" and ")
        wanted = {name for code in named for name in scp[code.strip()].superclasses}
        assert set(row.superclasses) == wanted, row
        followed += 1
    assert followed >= 30


@pytest.mark.parametrize("system", ["snomed", "aha"])
def test_a_code_without_a_superclass_says_why(system):
    assert not [row.code for row in known_codes(system).values() if not row.superclasses and not row.comment]


def test_the_challenge_has_30_scored_and_103_unscored_codes():
    # dx_mapping_scored.csv and dx_mapping_unscored.csv of the PhysioNet/CinC Challenge 2021.
    sources = [row.source for row in known_codes("snomed").values()]
    assert sum("challenge 2021, scored" in source for source in sources) == 30
    assert sum("challenge 2021, unscored" in source for source in sources) == 103


@pytest.mark.parametrize(
    ("one", "other"),
    [("733534002", "164909002"), ("713427006", "59118001"), ("284470004", "63593006"), ("427172004", "17338001")],
)
def test_codes_that_the_challenge_scores_as_one_give_the_same_class(one, other):
    table = known_codes("snomed")
    assert table[one].superclasses == table[other].superclasses
    assert table[one].against_normal == table[other].against_normal


def test_no_digit_of_a_snomed_code_is_mistyped():
    # The last digit of a SNOMED CT identifier is a check digit (Verhoeff 1969): the digits, from the right, permuted by
    # their place and multiplied in the dihedral group of order ten, give 0.
    def times(a, b):
        turned = (a + b) % 5 if a < 5 else (a - b) % 5
        return turned + (0 if (a < 5) == (b < 5) else 5)

    assert [times(1, b) for b in range(10)] == [1, 2, 3, 4, 0, 6, 7, 8, 9, 5]
    assert [times(5, b) for b in range(10)] == [5, 9, 8, 7, 6, 0, 4, 3, 2, 1]
    permute = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    for code in known_codes("snomed"):
        product = 0
        for place, digit in enumerate(reversed(code)):
            value = int(digit)
            for _ in range(place):
                value = permute[value]
            product = times(product, value)
        assert product == 0, code


def test_a_table_cannot_be_changed_by_its_readers():
    with pytest.raises(TypeError):
        known_codes("scp")["NORM"] = Row("NORM")  # type: ignore[index]


def test_the_tables_are_packaged():
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "tables/*.csv" in described["tool"]["setuptools"]["package-data"]["core.ecg"]


# From the codes of a record to its superclasses


@pytest.mark.parametrize(
    ("system", "codes", "expected"),
    [
        ("scp", ["LVH", "INVT", "SR"], {"HYP"}),
        ("scp", ["LAO/LAE", "CLBBB", "PRC(S)"], {"HYP", "CD"}),
        ("snomed", ["164909002", "164873001"], {"CD", "HYP"}),
        ("snomed", ["429622005"], {"STTC"}),
        ("snomed", ["55827005"], set()),
        ("aha", ["104", "142"], {"CD", "HYP"}),
        ("aha", ["60+310", "22"], set()),
        ("aha", ["160+332"], {"MI"}),
        ("aha", ["145+362", "147+367"], {"STTC"}),
        ("aha", ["173"], {"MI", "CD"}),
        ("aha", [" 106 ", "106.0"], {"CD"}),
        ("snomed", ["59118001.0", ""], {"CD"}),
    ],
)
def test_a_record_has_every_superclass_of_its_codes(system, codes, expected):
    assert classes(system, *codes) == expected


def test_labels_are_in_the_order_of_the_superclasses():
    labels = superclasses_of("scp", ["IMI", "LAFB"]).labels
    assert labels.tolist() == [0, 1, 0, 1, 0]  # NORM MI STTC CD HYP
    assert labels.dtype == np.uint8


def test_what_gives_no_class_is_named_once_in_the_order_it_came():
    mapped = superclasses_of("snomed", ["999", "426177001", "59118001", "284470004", "426177001", "1", "999"])
    assert mapped.unknown == ("999", "1")
    assert mapped.unclassed == ("426177001", "284470004")


def test_a_modifier_gives_no_class_and_is_known():
    mapped = superclasses_of("aha", ["30+310+340"])
    assert (mapped.unknown, mapped.unclassed) == ((), ("30", "310", "340"))


def test_normal_stays_beside_a_pathology_in_scp_alone():
    assert classes("scp", "NORM", "IRBBB") == {"NORM", "CD"}
    assert classes("snomed", "164854000", "713426002") == {"CD"}
    assert classes("snomed", "426783006", "713426002") == {"CD"}
    assert classes("aha", "1", "105") == {"CD"}


@pytest.mark.parametrize("beside", ["426177001", "427084000", "427393009", "284470004", "427172004", "39732003"])
def test_sinus_rhythm_is_normal_beside_what_ptbxl_has_beside_normal(beside):
    assert classes("snomed", "426783006", beside) == {"NORM"}


@pytest.mark.parametrize("beside", ["164889003", "10370003", "164917005", "55827005", "365413008", "84114007"])
def test_sinus_rhythm_is_not_normal_beside_a_finding_that_has_no_class(beside):
    mapped = superclasses_of("snomed", ["426783006", beside])
    assert not mapped.labels.any()
    assert mapped.unclassed == (beside,)


def test_a_rhythm_alone_is_not_normal():
    assert classes("snomed", "426177001") == set()
    assert classes("aha", "22", "23") == set()
    assert classes("aha", "20") == set()
    assert classes("scp", "SR") == set()


def test_a_hospital_with_a_code_for_normal_can_take_sinus_rhythm_as_a_rhythm():
    own = {"426783006": Row("426783006", name="sinus rhythm")}
    mapped = superclasses_of("snomed", ["426783006"], own=own)
    assert (mapped.labels.any(), mapped.unclassed) == (False, ("426783006",))
    assert classes("snomed", "426783006", "164854000", own=own) == {"NORM"}


def test_rows_of_the_hospital_go_before_the_table_and_add_to_it():
    own = {
        "55827005": Row("55827005", superclasses=("HYP",)),
        "LSB+STRAIN": Row("LSB+STRAIN", superclasses=("CD", "STTC")),
        "426783006": Row("426783006"),
    }
    assert classes("snomed", "55827005", own=own) == {"HYP"}
    assert classes("aha", "LSB+STRAIN", "142", own=own) == {"CD", "STTC", "HYP"}
    assert classes("snomed", "426783006", own=own) == set()
    assert classes("snomed", "59118001", own=own) == {"CD"}


@pytest.mark.parametrize("call", [known_codes, lambda name: superclasses_of(name, ["1"])])
def test_a_coding_system_without_a_table_is_refused(call):
    with pytest.raises(ConfigError, match="'icd'; use one of scp, snomed, aha"):
        call("icd")


some_codes = st.sampled_from(SYSTEMS).flatmap(
    lambda system: st.tuples(
        st.just(system),
        st.lists(st.sampled_from(sorted(known_codes(system))) | st.text("0123456789+;. ", max_size=6), max_size=8),
    )
)


@given(some_codes, st.randoms())
def test_the_order_of_the_codes_does_not_matter(given_codes, random):
    system, codes = given_codes
    shuffled = list(codes)
    random.shuffle(shuffled)
    one, other = superclasses_of(system, codes), superclasses_of(system, shuffled)
    assert one.labels.tolist() == other.labels.tolist()
    assert set(one.unknown) == set(other.unknown)
    assert set(one.unclassed) == set(other.unclassed)


@given(some_codes)
def test_a_record_has_the_pathologies_of_its_codes_and_no_other(given_codes):
    system, codes = given_codes
    each = [superclasses_of(system, [code]).labels for code in codes]
    together = superclasses_of(system, codes).labels
    union = np.max([np.zeros(5, np.uint8), *each], axis=0)
    assert together[1:].tolist() == union[1:].tolist()
    if system == "scp":
        assert together[0] == union[0]
    else:
        assert together[0] <= union[0]
        assert not (together[0] and together[1:].any())


# FedCVD's labels


def test_fedcvds_table_is_its_published_map():
    assert classes_of("fedcvd20") == tuple(FEDCVD)
    rows = rows_of("fedcvd20")
    assert [int(row["id"]) for row in rows] == list(range(20))
    assert {row["name"]: (row["scp"], row["aha"], row["snomed"]) for row in rows} == FEDCVD


@pytest.mark.parametrize(("place", "system"), list(enumerate(["scp", "aha", "snomed"])))
def test_each_code_of_fedcvds_map_gives_its_label_alone_and_is_in_the_systems_table(place, system):
    for number, codes in enumerate(row[place].split() for row in FEDCVD.values()):
        for code in codes:
            assert np.flatnonzero(labels_of("fedcvd20", system, [code])).tolist() == [number]
            assert code in known_codes(system)


def test_codes_that_fedcvd_takes_as_one_give_the_same_superclasses():
    for codes in FEDCVD.values():
        found = {
            known_codes(system)[code].superclasses
            for system, listed in zip(("scp", "aha", "snomed"), codes, strict=True)
            for code in listed.split()
        }
        assert len(found) == 1, codes


def test_fedcvd_keeps_normal_beside_a_finding_and_splits_modifiers():
    labels = labels_of("fedcvd20", "aha", ["1", "60+310", "999"])
    assert [classes_of("fedcvd20")[index] for index in np.flatnonzero(labels)] == ["NORM", "PVC"]
    assert labels.dtype == np.uint8
    assert labels.shape == (20,)


def test_the_default_space_is_the_five_superclasses():
    assert classes_of("superclasses") == SUPERCLASSES
    assert labels_of("superclasses", "snomed", ["426783006"]).tolist() == [1, 0, 0, 0, 0]


def test_an_unknown_space_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="'fedcvd'; did you mean 'fedcvd20'"):
        classes_of("fedcvd")
    with pytest.raises(ConfigError, match="codes of 'icd'"):
        labels_of("fedcvd20", "icd", ["1"])


def test_the_classes_of_a_space_need_no_file(tmp_path, monkeypatch):
    # A Flower bundle has no CSV files; a campaign in it still needs the names of its classes.
    monkeypatch.setattr(label_tables, "_TABLES", tmp_path)
    assert len(classes_of("fedcvd20")) == 20


def test_a_missing_table_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(label_tables, "_TABLES", tmp_path)
    with pytest.raises(DataError, match=r"aha\.csv is missing from this installation"):
        label_tables._table_file("aha")


# A hospital's own table


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_a_hospitals_table_is_read_in_any_usual_export(tmp_path, separator, encoding):
    lines = [["Code", "Name", "Superclasses"], ["L1", "Schenkelblock, Überleitung", "CD STTC"], ["L2", "Rhythmus", ""]]
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(lines)
    path = tmp_path / "Kürzel der Klinik.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    table = read_code_table(path)
    assert table["L1"].superclasses == ("STTC", "CD")
    assert table["L1"].name == "Schenkelblock, Überleitung"
    assert table["L2"].superclasses == ()


def test_a_hospitals_table_may_say_what_speaks_against_normal(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("code,superclasses,against_normal\nPM,,yes\nN,norm,\nR,,no\n\n426783006.0,NORM,\n")
    own = read_code_table(path)
    assert classes("snomed", "N", "R", own=own) == {"NORM"}
    assert classes("snomed", "N", "PM", own=own) == set()
    assert "426783006" in own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("code,superclasses\n", "names no code"),
        ("kode,superclasses\nA,MI\n", "has no column 'code'"),
        ("code,class\nA,MI\n", "has no column 'superclasses'"),
        ("code,superclasses\nA,STEMI\n", "maps the code 'A' to 'STEMI'; use NORM, MI, STTC, CD, HYP"),
        ("code,superclasses\nA,MI\nA,CD\n", "maps the code 'A' twice"),
        ("code,superclasses\n,MI\n", "has a row without a code"),
        ("code,superclasses\n6.7741E+13,HYP\n", "a spreadsheet has rounded"),
        ("code,superclasses,against_normal\nA,,maybe\n", "write yes or no"),
        ("code,superclasses\nA,MI,old\n", "more cells"),
        ("code,superclasses\nA,\0\n", "is no text"),
    ],
)
def test_a_hospitals_table_that_cannot_be_used_is_refused_with_the_mend(tmp_path, text, message):
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_code_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv is missing"):
        read_code_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_code_table(tmp_path)


def test_the_same_row_twice_is_no_contradiction(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("code,superclasses\nA,MI CD\nA,CD MI\n")
    assert list(read_code_table(path)) == ["A"]


@given(st.data())
def test_a_damaged_table_is_refused_or_read_but_never_crashes(tmp_path_factory, data):
    content = bytearray((TABLES / f"{data.draw(st.sampled_from([*SYSTEMS, 'fedcvd20']))}.csv").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5)):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "damaged.csv"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        table = read_code_table(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert all(set(row.superclasses) <= set(SUPERCLASSES) for row in table.values())


@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_but_never_crash(tmp_path_factory, content):
    for start in (b"", b"code,superclasses\n", "code;superclasses\n".encode("utf-16")):
        path = tmp_path_factory.getbasetemp() / "random.csv"
        path.write_bytes(start + content)
        try:
            read_code_table(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_every_pair_of_statements_keeps_normal_and_pathology_apart():
    for system in ("snomed", "aha"):
        normal = [row.code for row in known_codes(system).values() if "NORM" in row.superclasses]
        for one, other in itertools.product(normal, known_codes(system)):
            found = classes(system, one, other)
            assert "NORM" not in found or found == {"NORM"}
