"""Who may join: EC public keys alone, each under one name."""

import json
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in_superlink import home, superlink

from core.errors import ConfigError, FederationError
from server.joined_sites import FILE, add_site, fingerprint, joined, remove_site, require_sites, statuses

__all__ = ["home", "superlink"]


def public_key(path, key=None):
    key = key or ec.generate_private_key(ec.SECP384R1())
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    path.write_bytes(key.public_key().public_bytes(*form) + b" site@hospital\n")
    return path


class TestKeys:
    def test_the_fingerprint_is_the_one_that_ssh_keygen_shows(self, tmp_path):
        key = public_key(tmp_path / "node.pub")
        shown = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=False)
        if shown.returncode:
            pytest.skip("ssh-keygen is not installed")
        assert fingerprint(key) == shown.stdout.split()[1]

    @pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
    def test_each_nist_curve_is_taken(self, tmp_path, curve):
        assert fingerprint(public_key(tmp_path / "node.pub", ec.generate_private_key(curve))).startswith("SHA256:")

    @pytest.mark.parametrize(
        "key", [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)], ids=["ed25519", "rsa"]
    )
    def test_other_kinds_are_refused_with_the_mend(self, tmp_path, key):
        with pytest.raises(ConfigError, match=r"node.pub is no EC key; have the site make one"):
            fingerprint(public_key(tmp_path / "node.pub", key))

    @pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL", "OpenSSH"])
    def test_a_private_key_is_recognised_and_called_lost(self, tmp_path, form):
        key = ec.generate_private_key(ec.SECP384R1())
        text = key.private_bytes(
            serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), serialization.NoEncryption()
        )
        (tmp_path / "node.key").write_bytes(text)
        with pytest.raises(ConfigError, match="is a private key, which must not leave its site"):
            fingerprint(tmp_path / "node.key")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"node.pub cannot be read \(No such file"):
            fingerprint(tmp_path / "node.pub")

    @given(
        st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda t: b"ecdsa-sha2-nistp384 " + t.encode()))
    )
    @settings(max_examples=200, deadline=None)
    def test_whatever_the_file_holds_it_is_refused_in_a_sentence(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("keys") / "node.pub"
        path.write_bytes(content)
        with pytest.raises(ConfigError):
            fingerprint(path)


class TestList:
    def test_a_site_is_added_listed_with_its_status_and_removed(self, home, superlink, tmp_path):
        site = add_site(home, public_key(tmp_path / "a.pub"), "st-elsewhere")
        assert joined(home) == [site]
        assert superlink.nodes[site.node]["name"] == "st-elsewhere"
        assert statuses(home) == {site.node: "never connected"}
        superlink.nodes[site.node]["status"] = "online"
        assert statuses(home) == {site.node: "online"}
        remove_site(home, "st-elsewhere")
        assert joined(home) == []
        assert superlink.nodes[site.node]["status"] == "unregistered"
        assert statuses(home) == {}

    def test_a_name_is_given_once(self, home, superlink, tmp_path):
        add_site(home, public_key(tmp_path / "a.pub"), "a")
        with pytest.raises(ConfigError, match=r"a is there already; for a new key: .* remove 'a'"):
            add_site(home, public_key(tmp_path / "b.pub"), "a")

    def test_a_key_is_given_once(self, home, superlink, tmp_path):
        key = public_key(tmp_path / "a.pub")
        add_site(home, key, "a")
        with pytest.raises(ConfigError, match=r"a.pub is the key of a"):
            add_site(home, key, "b")
        assert len(superlink.nodes) == 1

    @pytest.mark.parametrize("name", ["", " a", "a/b", "a\nb", "a\n", "x" * 65, "-a"])
    def test_a_name_that_is_none_is_refused(self, home, superlink, tmp_path, name):
        with pytest.raises(ConfigError, match="is no name for a site"):
            add_site(home, public_key(tmp_path / "a.pub"), name)

    def test_without_a_superlink_nothing_is_written(self, home, superlink, tmp_path):
        superlink.up = False
        with pytest.raises(FederationError, match="is not running"):
            add_site(home, public_key(tmp_path / "a.pub"), "a")
        assert joined(home) == []

    def test_an_unknown_site_is_answered_with_those_that_are_known(self, home, superlink, tmp_path):
        add_site(home, public_key(tmp_path / "a.pub"), "a")
        with pytest.raises(ConfigError, match="there is no site b here; the sites are: a"):
            remove_site(home, "b")

    def test_a_site_that_a_new_database_does_not_know_can_still_be_removed(self, home, superlink, tmp_path):
        add_site(home, public_key(tmp_path / "a.pub"), "a")
        superlink.nodes.clear()
        remove_site(home, "a")
        assert joined(home) == []

    def test_too_few_sites_are_said_with_the_command_that_adds_them(self, home, superlink, tmp_path):
        add_site(home, public_key(tmp_path / "a.pub"), "a")
        assert len(require_sites(home, 1)) == 1
        with pytest.raises(FederationError, match=r"has 1 sites and federation.min_sites is 2; .* add KEY.pub NAME"):
            require_sites(home, 2)

    @pytest.mark.parametrize("text", ["[", "{}", '[{"name": "a"}]', "[1]", json.dumps([{"colour": 1}])])
    def test_a_damaged_list_is_named(self, home, text):
        (home.path / FILE).write_text(text)
        if text == "{}":
            assert joined(home) == []
        else:
            with pytest.raises(ConfigError, match=r"sites.json cannot be read"):
                joined(home)
