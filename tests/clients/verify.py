"""Verifies tokens of the platform by a client library that people use, with the keys that the platform publishes.

Reads tokens from standard input, one a line; prints the claims of each as a line of JSON. URL names the platform.
"""

import json
import os
import sys

import jwt

keys = jwt.PyJWKClient(os.environ["URL"] + "/.well-known/jwks.json")
for line in sys.stdin:
    token = line.strip()
    claims = jwt.decode(
        token,
        keys.get_signing_key_from_jwt(token).key,
        algorithms=["EdDSA"],
        audience="wasmwiz",
        issuer="wasmwiz",
        options={"require": ["exp", "iat", "iss", "aud", "sub"]},
    )
    print(json.dumps(claims))
try:
    jwt.decode(token[:-4] + "AAAA", keys.get_signing_key_from_jwt(token).key, algorithms=["EdDSA"], audience="wasmwiz")
except jwt.InvalidSignatureError:
    print("a changed token is refused")
