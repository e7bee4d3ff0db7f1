"""Small folders of made-up ECGs in the formats that the sources read."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from made_up_ecgs import made_up_records, made_up_signal

from core.ecg.dataset import DatasetInfo, EcgDataset, encode
from core.ecg.leads import LEADS

STATEMENTS = """,description,diagnostic,diagnostic_class
NORM,normal ECG,1.0,NORM
IMI,inferior myocardial infarction,1.0,MI
NDT,non-diagnostic T abnormalities,1.0,STTC
LAFB,left anterior fascicular block,1.0,CD
LVH,left ventricular hypertrophy,1.0,HYP
SR,sinus rhythm,,
"""


@pytest.fixture
def make_dataset() -> Callable[..., EcgDataset]:
    """Set in memory: ``make_dataset(count, normalisation="none", **info)``."""

    def make(count: int = 12, normalisation: str = "none", seed: int = 0, **info: object) -> EcgDataset:
        values = np.stack([made_up_signal(seed + i, 100, seconds=2) for i in range(count)])
        if normalisation == "lead-zscore":
            values = (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True)
        stored, scale, _ = encode(values, normalisation)
        described = {
            "name": "made-up",
            "rate": 100,
            "samples": 200,
            "leads": LEADS,
            "normalisation": normalisation,
            "band": (0.5, 40.0),
            "scale": scale,
            "source": "test",
        }
        return EcgDataset(stored, made_up_records(count), DatasetInfo(**(described | info)))

    return make


@pytest.fixture
def make_ptbxl(tmp_path: Path) -> Callable[..., Path]:
    """Folder in PTB-XL's layout with records 1..count at the rates asked for."""

    def make(count: int = 6, rates: tuple[int, ...] = (100, 500), name: str = "ptbxl") -> Path:
        folder = tmp_path / name
        codes = ["NORM", "IMI", "NDT", "LAFB", "LVH", "SR"]
        rows = []
        for number in range(1, count + 1):
            files = {}
            for rate, short in ((100, "lr"), (500, "hr")):
                files[short] = f"records{rate}/00000/{number:05d}_{short}"
                if rate not in rates:
                    continue
                place = folder / f"records{rate}" / "00000"
                place.mkdir(parents=True, exist_ok=True)
                wfdb.wrsamp(
                    f"{number:05d}_{short}",
                    fs=rate,
                    units=["mV"] * 12,
                    sig_name=[lead.upper() for lead in LEADS],
                    p_signal=made_up_signal(number, rate).T,
                    fmt=["16"] * 12,
                    adc_gain=[1000.0] * 12,
                    baseline=[0] * 12,
                    write_dir=str(place),
                )
            code = codes[(number - 1) % 6]
            rows.append(
                {
                    "ecg_id": number,
                    "patient_id": f"{1000 + number // 2}.0",
                    "age": "" if number == 3 else 300.0 if number == 2 else 50.0 + number,
                    "sex": number % 2,
                    "site": "" if number == 4 else 1.0,
                    "scp_codes": str({code: 80.0, "SR": 0.0}),
                    "strat_fold": (number - 1) % 10 + 1,
                    "filename_lr": files["lr"],
                    "filename_hr": files["hr"],
                }
            )
        pd.DataFrame(rows).to_csv(folder / "ptbxl_database.csv", index=False)
        (folder / "scp_statements.csv").write_text(STATEMENTS)
        return folder

    return make


@pytest.fixture
def make_arrays(tmp_path: Path) -> Callable[..., Path]:
    """Folder in the interchange format."""

    def make(
        signals: np.ndarray | None = None,
        records: pd.DataFrame | None = None,
        description: dict[str, object] | None = None,
        name: str = "arrays",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if signals is None:
            signals = np.stack([made_up_signal(i, 100) for i in range(6)])
        if records is None:
            records = made_up_records(len(signals)).rename(
                columns={"record": "record_id", "patient": "patient_id", "fold": "strat_fold"}
            )
        np.save(folder / "signals.npy", signals)
        records.to_csv(folder / "records.csv", index=False)
        if description is not None:
            (folder / "arrays.json").write_text(json.dumps(description))
        return folder

    return make
