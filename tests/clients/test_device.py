"""Which device a site computes on."""

import pytest
import torch

from clients.device import choose_device
from core.errors import ConfigError


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that the machine has some GPUs: ``gpus(3)``."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return pretend


def devices(setting: str, sites: int) -> list[str]:
    return [str(choose_device(setting, site)) for site in range(sites)]


class TestWithoutGpu:
    @pytest.mark.parametrize("setting", ["auto", "cpu"])
    def test_sites_compute_on_the_cpu(self, gpus, setting):
        gpus(0)
        assert devices(setting, 3) == ["cpu"] * 3

    def test_cuda_is_refused_with_the_mend(self, gpus):
        gpus(0)
        with pytest.raises(ConfigError, match=r'run.device = "cuda" but this machine has no GPU .* set it to "cpu"'):
            choose_device("cuda", 0)

    @pytest.mark.parametrize("setting", ["cuda:0", "cuda:7"])
    def test_a_named_gpu_is_refused_by_name(self, gpus, setting):
        gpus(0)
        with pytest.raises(ConfigError, match=f"names {setting} but this machine has 0 usable GPUs; set run.device"):
            choose_device(setting, 0)

    def test_a_driver_that_torch_cannot_use_counts_as_no_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert choose_device("auto", 0).type == "cpu"


class TestWithGpus:
    @pytest.mark.parametrize("setting", ["auto", "cuda"])
    def test_sites_take_them_in_turn(self, gpus, setting):
        gpus(3)
        assert devices(setting, 5) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]

    def test_a_list_of_some_is_taken_in_turn(self, gpus):
        gpus(3)
        assert devices("cuda:0,cuda:2", 3) == ["cuda:0", "cuda:2", "cuda:0"]

    def test_one_named_gpu_serves_every_site(self, gpus):
        gpus(2)
        assert devices("cuda:1", 3) == ["cuda:1"] * 3

    def test_cpu_stays_cpu(self, gpus):
        gpus(2)
        assert devices("cpu", 2) == ["cpu", "cpu"]

    @pytest.mark.parametrize(("setting", "site", "text"), [("cuda:7", 0, "cuda:7"), ("cuda:0,cuda:2", 1, "cuda:2")])
    def test_one_that_is_missing_is_refused(self, gpus, setting, site, text):
        gpus(2)
        with pytest.raises(ConfigError, match=f"names {text} but this machine has 2 usable GPUs; set run.device"):
            choose_device(setting, site)

    def test_the_sentence_counts_one_gpu_rightly(self, gpus):
        gpus(1)
        with pytest.raises(ConfigError, match="has 1 usable GPU; "):
            choose_device("cuda:1", 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_chosen_gpu_computes():
    device = choose_device("auto", 0)
    assert device.type == "cuda"
    assert (torch.ones(3, device=device) * 2).sum().item() == 6
