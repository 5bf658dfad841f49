# SPDX-License-Identifier: Apache-2.0
"""How the certificate of a hypervisor's API is checked; see test_vcenter_faults.py for servers."""

import ssl
from pathlib import Path

import pytest

from nodes.hypervisors import certificates
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault

DIGEST = "ab" * 32


def test_without_a_digest_who_signed_it_and_its_name_count(tmp_path: Path) -> None:
    made = certificates.context(Access(work=tmp_path))

    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.check_hostname


@pytest.mark.parametrize("said", [DIGEST, DIGEST.upper(), ":".join(["AB"] * 32)])
def test_a_digest_pins_in_each_way_that_tools_print_it(tmp_path: Path, said: str) -> None:
    made = certificates.context(Access(work=tmp_path, certificate=said))

    assert isinstance(made, certificates.PinnedContext)
    assert made.digest == DIGEST


@pytest.mark.parametrize("said", ["ab" * 20, "zz" * 32, "sha256", DIGEST + "\n", " "])
def test_what_is_no_sha_256_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(CallerFault, match="no SHA-256 digest"):
        certificates.context(Access(work=tmp_path, certificate=said))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(CallerFault, match="cannot read the certificates"):
        certificates.context(Access(work=tmp_path, ca_file=file))
