"""A coordinator's folder: certificates that TLS clients take, keys that nobody else reads, and nothing overwritten."""

import datetime
import ipaddress
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from server.certificates import certificate_hosts, read_certificate, subject_name
from server.coordinator import FILE, check_validity, make_home, open_home, renew


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("fed") / "home", ["ecg.example.org", "10.0.0.5"], port=8123)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def handshake(home, name: str, ca: Path) -> str:
    """What a TLS client that asks for a name and trusts a CA says of the server: "" where it is content."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(home.certificate, home.key)
    client = ssl.create_default_context(cafile=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    one, other = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(one, server_side=True).close()
        except (ssl.SSLError, OSError):
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(other, server_hostname=name).close()
        return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        other.close()
        thread.join()


class TestCertificates:
    @pytest.mark.parametrize("name", ["ecg.example.org", "10.0.0.5"])
    def test_a_strict_tls_client_takes_the_server_by_each_of_its_names(self, made, name):
        assert handshake(made, name, made.ca) == ""

    def test_it_takes_it_by_no_other_name_and_under_no_other_ca(self, made, tmp_path):
        other = make_home(tmp_path / "other", [])
        assert "mismatch" in handshake(made, "elsewhere.example.org", made.ca).lower()
        assert "certificate" in handshake(made, "10.0.0.5", other.ca).lower()

    def test_keys_are_p_384_and_only_the_ca_may_sign_certificates(self, made):
        ca, server = certificate(made.ca), certificate(made.certificate)
        assert {type(part.public_key().curve) for part in (ca, server)} == {ec.SECP384R1}
        usage = {part: part.extensions.get_extension_for_class(x509.KeyUsage).value for part in (ca, server)}
        limits = {part: part.extensions.get_extension_for_class(x509.BasicConstraints) for part in (ca, server)}
        assert (usage[ca].key_cert_sign, usage[server].key_cert_sign) == (True, False)
        assert (limits[ca].value.ca, limits[ca].value.path_length, limits[ca].critical) == (True, 0, True)
        assert limits[server].value.ca is False
        purposes = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]

    def test_addresses_are_held_as_addresses_and_names_as_names(self, made):
        held = certificate(made.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert held.get_values_for_type(x509.DNSName) == ["ecg.example.org"]
        assert [str(ip) for ip in held.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]

    def test_it_is_valid_for_the_days_that_were_asked_and_for_a_clock_that_is_slow(self, tmp_path):
        home = make_home(tmp_path / "home", [], days=10)
        held, now = certificate(home.certificate), datetime.datetime.now(datetime.UTC)
        assert abs(held.not_valid_after_utc - now - datetime.timedelta(days=10)) < datetime.timedelta(minutes=5)
        assert now - held.not_valid_before_utc > datetime.timedelta(minutes=30)
        assert check_validity(home) == f"{held.not_valid_after_utc:%Y-%m-%d}"

    @given(st.text(max_size=80))
    @settings(max_examples=200)
    def test_a_host_is_a_name_or_an_address_or_refused_in_a_sentence(self, host):
        try:
            name = subject_name(host)
        except ConfigError:
            assert not _is_address(host)
        else:
            assert isinstance(name, x509.IPAddress) == _is_address(host)
            assert str(name.value) == (str(ipaddress.ip_address(host)) if _is_address(host) else host)

    @pytest.mark.parametrize("host", ["https://ecg.example.org", "ecg.example.org:8000", "", "a..b", "é.org", "a b"])
    def test_what_people_write_instead_of_a_host_is_refused(self, host, tmp_path):
        with pytest.raises(ConfigError, match="write it without https:// and port"):
            make_home(tmp_path / "home", [host])
        assert not (tmp_path / "home").exists()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class TestFolder:
    def test_nobody_else_may_read_the_folder_or_a_key(self, made):
        assert mode(made.path) == 0o700
        assert {mode(made.path / name) for name in ("ca.key", "server.key", "inner/ca.key", "inner/server.key")} == {
            0o600
        }

    def test_it_reads_back_as_it_was_made(self, made):
        assert open_home(made.path) == made
        assert (made.hosts, made.port) == (("ecg.example.org", "10.0.0.5"), 8123)

    def test_without_a_host_it_is_for_this_machine(self, tmp_path):
        assert make_home(tmp_path / "home", []).hosts == ("localhost", "127.0.0.1")

    def test_a_second_init_changes_nothing(self, tmp_path):
        home = make_home(tmp_path / "home", [])
        before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match=r"server.toml exists already; .* cardiofed-server up"):
            make_home(home.path, ["else.example.org"])
        assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before

    def test_a_key_that_lies_there_is_not_overwritten(self, tmp_path):
        (tmp_path / "ca.key").write_text("mine")
        with pytest.raises(ConfigError, match=r"ca.key exists already"):
            make_home(tmp_path, [])
        assert (tmp_path / "ca.key").read_text() == "mine"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("hosts = [", "no valid TOML"),
            ("port = 1", "hosts: Field required"),
            ('hosts = ["a"]\nport = 99999', "port: Input should be less than or equal to 65535"),
            ('hosts = ["a"]\ncolour = 1', "colour: Extra inputs are not permitted"),
        ],
    )
    def test_what_is_wrong_in_server_toml_is_named_with_the_file(self, tmp_path, text, said):
        home = make_home(tmp_path / "home", [])
        (home.path / FILE).write_text(text)
        with pytest.raises(ConfigError) as error:
            open_home(home.path)
        assert said in str(error.value)
        assert str(home.path / FILE) in str(error.value)

    def test_a_missing_key_is_named(self, tmp_path):
        home = make_home(tmp_path / "home", [])
        home.key.unlink()
        with pytest.raises(ConfigError, match=r"server.key is missing, which .*server.toml names as its key"):
            open_home(home.path)

    def test_another_folder_is_no_home(self, tmp_path):
        with pytest.raises(ConfigError, match="cardiofed-server init"):
            open_home(tmp_path)


class TestRenewal:
    def test_an_expired_certificate_is_named_with_the_mend_and_the_mend_works(self, tmp_path):
        home = make_home(tmp_path / "home", ["ecg.example.org"])
        _expire(home)
        with pytest.raises(ConfigError, match=r"server.crt expired on 20.*cardiofed-server renew"):
            check_validity(home)
        ca, before = home.ca.read_bytes(), home.certificate.read_bytes()
        renewed = renew(home, [])
        check_validity(renewed)
        assert handshake(renewed, "ecg.example.org", home.ca) == ""
        assert home.ca.read_bytes() == ca
        assert (home.path / "server.crt.old").read_bytes() == before
        assert mode(home.key) == 0o600

    def test_a_name_may_be_added(self, tmp_path):
        home = renew(make_home(tmp_path / "home", ["a.example.org"]), ["a.example.org", "b.example.org"])
        assert handshake(home, "b.example.org", home.ca) == ""
        assert home.hosts == ("a.example.org", "b.example.org")

    def test_the_institution_s_certificate_is_not_renewed_here(self, tmp_path):
        theirs = make_home(tmp_path / "theirs", ["ecg.example.org"])
        home = make_home(tmp_path / "home", [], certificate=theirs.certificate, key=theirs.key, ca=theirs.ca)
        with pytest.raises(ConfigError, match="ask who issued"):
            renew(home, [])


def _expire(home) -> None:
    from cryptography.hazmat.primitives import hashes, serialization

    key = serialization.load_pem_private_key((home.path / "ca.key").read_bytes(), None)
    old = read_certificate(home.certificate)
    builder = x509.CertificateBuilder(extensions=list(old.extensions)).subject_name(old.subject).issuer_name(old.issuer)
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = builder.public_key(old.public_key()).serial_number(1).not_valid_before(start)
    signed = builder.not_valid_after(start + datetime.timedelta(days=30)).sign(key, hashes.SHA384())
    home.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


class TestInstitution:
    @pytest.fixture
    def theirs(self, tmp_path):
        return make_home(tmp_path / "theirs", ["ecg.example.org"])

    def test_its_files_are_used_where_they_lie(self, theirs, tmp_path):
        home = make_home(tmp_path / "home", [], certificate=theirs.certificate, key=theirs.key, ca=theirs.ca)
        assert (home.certificate, home.key, home.ca) == (theirs.certificate, theirs.key, theirs.ca)
        assert home.hosts == tuple(certificate_hosts(theirs.certificate))
        assert not list(home.path.glob("*.key"))

    def test_two_of_the_three_are_not_enough(self, theirs, tmp_path):
        with pytest.raises(ConfigError, match="only --certificate and --key given"):
            make_home(tmp_path / "home", [], certificate=theirs.certificate, key=theirs.key)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"key": "ca.key"}, "is not the key of"),
            ({"ca": "other/ca.crt"}, "was not issued by"),
            ({"certificate": "ca.crt", "key": "ca.key"}, "has no subject alternative name"),
            ({"certificate": "server.key"}, "is no certificate in PEM"),
            ({"key": "server.crt"}, "is no private key in PEM"),
            ({"ca": "nowhere.crt"}, "does not exist"),
        ],
    )
    def test_files_that_do_not_belong_together_are_refused_before_a_site_meets_them(
        self, theirs, tmp_path, change, said
    ):
        other = make_home(tmp_path / "other", ["ecg.example.org"])
        # Its name: the same as ours, so that only the key tells them apart.
        shutil.copytree(other.path, theirs.path / "other")
        files = {"certificate": "server.crt", "key": "server.key", "ca": "ca.crt", **change}
        with pytest.raises(ConfigError, match=said):
            make_home(tmp_path / "home", [], **{name: theirs.path / file for name, file in files.items()})
        assert not (tmp_path / "home").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_chain_for_a_tls_server(made):
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", made.ca, made.certificate]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
