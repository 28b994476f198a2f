"""Publishes a module, runs it, lists what ran, and reads what it cost, with a client made of the OpenAPI document.

    python3 -m pip install openapi-python-client==0.29.1
    openapi-python-client generate --url http://127.0.0.1:8080/openapi.json --meta none \
      --config examples/openapi-python-client.json --output-path wasmwiz_client
    WASMWIZ_KEY=ww_... python3 examples/quickstart.py http://127.0.0.1:8080 module.wasm

The client is imported from the folder in which the script is started, or from PYTHONPATH.
"""

import io
import os
import pathlib
import sys

sys.path.append(os.getcwd())

from wasmwiz_client import AuthenticatedClient
from wasmwiz_client.api.executions import get_execution_stdout, list_executions, run_module
from wasmwiz_client.api.modules import publish_module
from wasmwiz_client.api.usage import get_usage
from wasmwiz_client.types import File


def expect(answer, *statuses):
    """The answer, if it has one of these statuses; else what the problem says."""
    if answer.status_code not in statuses:
        sys.exit(f"{answer.status_code}: {answer.content.decode(errors='replace')}")
    return answer


def main(url, module):
    client = AuthenticatedClient(base_url=url, token=os.environ["WASMWIZ_KEY"])
    name = module.stem

    # The bytes of a version are published once: the same bytes again are the same version, a 200.
    wasm = File(payload=io.BytesIO(module.read_bytes()))
    published = expect(publish_module.sync_detailed(name, client=client, body=wasm), 200, 201).parsed
    print(f"published {published.name} version {published.version}, {published.digest}")

    # A guest that fails is an answer, too: its outcome says how it ended.
    stdin = File(payload=io.BytesIO(b"WasmWiz"))
    ran = expect(run_module.sync_detailed(name, client=client, body=stdin), 200)
    execution = ran.parsed
    print(f"ran {execution.id}: {execution.outcome}, {execution.stdout!r}")

    # The write told its position; a read that names it shows what was written.
    position = ran.headers["wasmwiz-position"]
    page = expect(list_executions.sync_detailed(client=client, module=name, wasmwiz_min_position=position), 200).parsed
    print(f"listed {len(page.items)} executions of {name}, the newest {page.items[0].id}")
    stdout = expect(get_execution_stdout.sync_detailed(execution.id, client=client), 200).parsed
    print(f"kept {len(stdout.payload.read())} bytes of output")

    usage = expect(get_usage.sync_detailed(client=client, by="module", wasmwiz_min_position=position), 200).parsed
    for row in usage.items:
        print(f"used {row.cpu_ms} ms of CPU in {row.executions} executions of {row.bucket}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or "WASMWIZ_KEY" not in os.environ:
        sys.exit("usage: WASMWIZ_KEY=ww_... python3 examples/quickstart.py URL MODULE.wasm")
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
