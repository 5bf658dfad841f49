# SPDX-License-Identifier: Apache-2.0
"""The known_hosts file of a hand-out pins the key under the name that SSH clients look up."""

from pathlib import Path

import paramiko
import pytest

from nodes.images import keys


@pytest.mark.parametrize(("port", "looked_up"), [(22, "192.0.2.7"), (2222, "[192.0.2.7]:2222")])
def test_a_client_finds_the_pinned_key(tmp_path: Path, port: int, looked_up: str):
    fresh = keys.generate()
    key_file, known_hosts = fresh.write(tmp_path, "192.0.2.7", port)
    known = paramiko.HostKeys(str(known_hosts)).lookup(looked_up)
    assert known is not None
    kind, base64 = fresh.host_public.split()
    assert known[kind].get_base64() == base64
    assert key_file.stat().st_mode & 0o777 == 0o600
