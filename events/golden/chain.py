#!/usr/bin/env python3
"""Computes the chain's hashes of commit.v1.json without any code of the platform.

Run it in this folder; it prints the tenant's genesis hash and the commit's hash and fails if the file says otherwise.
"""
import hashlib
import json
import struct
import uuid
from datetime import datetime, timezone

with open("commit.v1.json", encoding="utf-8") as file:
    commit = json.load(file)
tenant, body = commit["tenant"].encode(), commit["body"].encode()
moment = datetime.fromisoformat(commit["recorded_at"].replace("Z", "+00:00"))
since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
milliseconds = (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000

genesis = hashlib.sha256(b"wasmwiz.stream.v1\0" + tenant).hexdigest()
sealed = hashlib.sha256(
    b"wasmwiz.commit.v1\0"
    + bytes.fromhex(commit["prev_hash"])
    + struct.pack(">I", len(tenant)) + tenant
    + struct.pack(">Q", commit["first_revision"])
    + struct.pack(">I", commit["count"])
    + uuid.UUID(commit["commit_id"]).bytes
    + struct.pack(">Q", commit["owner_epoch"])
    + struct.pack(">q", milliseconds)
    + struct.pack(">Q", len(body)) + body
).hexdigest()
print("genesis", genesis)
print("hash   ", sealed)
assert genesis == commit["genesis"], "the genesis hash differs"
assert sealed == commit["hash"], "the hash differs"
