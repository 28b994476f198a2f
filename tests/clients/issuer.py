"""An OpenID Connect issuer by a client library that people use: it serves its keys by https and signs tokens.

usage: issuer.py CERTIFICATE KEY SCOPE…

Prints one line of JSON, {"url": …, "tokens": {ALGORITHM: {SCOPE: token}}, "expired": token}, and serves until its
standard input ends.
"""

import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE = "wiz"
LIFETIME_SECONDS = 600

PRIVATE = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "PS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public(algorithm, private):
    key = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
    key.pop("key_ops", None)
    return {**key, "kid": algorithm, "alg": algorithm, "use": "sig"}


def signed(url, algorithm, scope, issued):
    claims = {
        "iss": url,
        "aud": AUDIENCE,
        "sub": "ada",
        "iat": issued,
        "exp": issued + LIFETIME_SECONDS,
        "scope": scope,
    }
    return jwt.encode(claims, PRIVATE[algorithm], algorithm, {"kid": algorithm, "typ": "at+jwt"})


class Site(BaseHTTPRequestHandler):
    def do_GET(self):
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.server.url, "jwks_uri": self.server.url + "/keys"},
            "/keys": {"keys": [public(*pair) for pair in PRIVATE.items()]},
        }
        document = documents.get(self.path)
        body = json.dumps(document).encode()
        self.send_response(200 if document else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(certificate, key, *scopes):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = f"https://localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    now = int(time.time())
    tokens = {
        algorithm: {scope: signed(server.url, algorithm, scope, now) for scope in scopes} for algorithm in PRIVATE
    }
    expired = signed(server.url, "EdDSA", " ".join(scopes), now - 2 * LIFETIME_SECONDS)
    print(json.dumps({"url": server.url, "tokens": tokens, "expired": expired}), flush=True)
    sys.stdin.read()


main(*sys.argv[1:])
