"""Makes an operator of NATS with one account and one user of it, as whoever operates a bus with JWTs does.

    python3 tests/contract/credentials.py FOLDER

Writes FOLDER/auth.conf, to be included by a server's configuration, FOLDER/right.creds, and FOLDER/ended.creds, which
ended.
"""

import base64
import hashlib
import json
import os
import pathlib
import sys
import time

import nkeys


def keys(prefix):
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return seed.decode(), nkeys.from_seed(bytearray(seed))


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(issuer, subject, kind, claims, ends=None):
    names = {"iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "name": kind}
    body = {"iat": int(time.time()), **names}
    body |= {"nats": {**claims, "type": kind, "version": 2}} | ({"exp": ends} if ends else {})
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    signed = b".".join(encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return (signed + b"." + encoded(issuer.sign(signed))).decode()


def credentials(user_token, seed):
    parts = (("NATS USER JWT", user_token), ("USER NKEY SEED", seed))
    return "\n".join(f"-----BEGIN {name}-----\n{text}\n------END {name}------\n" for name, text in parts)


def main(folder):
    (_, operator), (seed, user) = keys(nkeys.PREFIX_BYTE_OPERATOR), keys(nkeys.PREFIX_BYTE_USER)
    unlimited = ["subs", "data", "payload", "imports", "exports", "conn", "leaf"]
    stored = ["mem_storage", "disk_storage", "streams", "consumer"]
    preload, accounts = {}, {}
    # The server keeps JetStream's own requests in an account of its own, which has no JetStream.
    for name, limited in (("platform", unlimited + stored), ("system", unlimited)):
        _, accounts[name] = keys(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = {"limits": dict.fromkeys(limited, -1) | {"wildcards": True}}
        preload[accounts[name].public_key.decode()] = token(operator, accounts[name], "account", limits)
    lines = [f"operator: {token(operator, operator, 'operator', {})}"]
    lines += [f"system_account: {accounts['system'].public_key.decode()}", "resolver: MEMORY", "resolver_preload: {"]
    lines += [f"  {key}: {text}" for key, text in preload.items()] + ["}", ""]
    (folder / "auth.conf").write_text("\n".join(lines))
    allowed = dict.fromkeys(("subs", "data", "payload"), -1)
    for name, ends in (("right", None), ("ended", int(time.time()) - 60)):
        of_user = token(accounts["platform"], user, "user", allowed, ends)
        (folder / f"{name}.creds").write_text(credentials(of_user, seed))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
