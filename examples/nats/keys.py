"""Makes nkeys for users of a NATS server: NAME.seed, which is secret, for each, and its public key as a variable.

    python3 -m pip install 'nats-py[nkeys]==2.16.0'
    eval "$(python3 examples/nats/keys.py feed acme globex)"
    nats-server --config examples/nats/nats.conf

A seed that is there already is kept.
"""

import os
import pathlib
import sys

import nkeys


def seed_of(path):
    """The seed in this file, which is made if it is missing, for its owner alone."""
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    except FileExistsError:
        pass
    return bytearray(path.read_bytes().strip())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: keys.py NAME...")
    for name in sys.argv[1:]:
        public = nkeys.from_seed(seed_of(pathlib.Path(f"{name}.seed"))).public_key.decode()
        print(f"export {name.upper().replace('-', '_')}_NKEY={public}")
