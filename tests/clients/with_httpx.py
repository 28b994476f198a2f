"""The quick start with httpx: publish a module, run it, upload one with its input, list what ran."""

import os
import pathlib

import httpx

MODULE = pathlib.Path(os.environ["MODULE"]).read_bytes()


def expect(answer, *statuses):
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text}"
    return answer


def main():
    headers = {"Authorization": f"Bearer {os.environ['KEY']}"}
    with httpx.Client(base_url=os.environ["URL"], headers=headers, trust_env=False, timeout=30) as client:
        expect(client.put("/v1/modules/httpx", content=MODULE, headers={"Content-Type": "application/wasm"}), 201)
        ran = expect(client.post("/v1/modules/httpx/executions", content="WasmWiz"), 200)
        assert ran.json()["stdout"] == "Hello, WasmWiz!\n", ran.text
        # It writes before it reads: the answer to a module that is too large is still there when it does.
        limit = 64 << 20
        expect(client.put("/v1/modules/large", content=bytes(limit + 1)), 413)
        named = ('a "name=input"; é.wasm', MODULE, "application/wasm")
        uploaded = expect(client.post("/v1/executions", files={"wasm": named}, data={"input": "form", "arg": ["-v", "é"]}), 200)
        assert uploaded.json()["stdout"] == "Hello, form!\n", uploaded.text
        position = {"Wasmwiz-Min-Position": ran.headers["Wasmwiz-Position"]}
        page = expect(client.get("/v1/executions", params={"module": "httpx", "limit": 5}, headers=position), 200)
        assert page.json()["items"][0]["id"] == ran.json()["id"], page.text
        raw = expect(client.post("/v1/modules/httpx/executions", headers={"Accept": "application/octet-stream"}), 200)
        assert raw.content == b"Hello, !\n" or raw.content.startswith(b"Hello"), raw.content
    print("the quick start ran")


if __name__ == "__main__":
    main()
